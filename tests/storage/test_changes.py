"""The version row tells of every change, whoever made it, and `updated_at` follows."""

from __future__ import annotations

import asyncio
import sqlite3

import asyncpg
import pytest

from fastgw.errors import Conflict
from fastgw.storage import open_store
from fastgw.storage.sql import audit, config_version
from tests.waiting import eventually

NOTED = {
    "orgs": "INSERT INTO orgs (id, name) VALUES ($1, $1)",
    "teams": "INSERT INTO teams (id, name) VALUES ($1, $1)",
    "users": "INSERT INTO users (id, name) VALUES ($1, $1)",
    "api_keys": "INSERT INTO api_keys (id, name, hash, hint) VALUES ($1, $1, $2, $1)",
    "providers": "INSERT INTO providers (id, name, type, base_url) VALUES ($1, $1, $1, $1)",
    "models": "INSERT INTO models (id, name, provider) VALUES ($1, $1, $1)",
    "deployments": "INSERT INTO deployments (id, model, provider, upstream_model)"
    " VALUES ($1, $1, $1, $1)",
    "fallbacks": "INSERT INTO fallbacks (id, model, fallback) VALUES ($1, $1, $1)",
    "model_aliases": "INSERT INTO model_aliases (id, name, model) VALUES ($1, $1, $1)",
    "limits": "INSERT INTO limits (id, scope, match_value, metric, limit_value)"
    " VALUES ($1, 'key', $1, 'tokens', 1)",
    "budgets": "INSERT INTO budgets (id, scope, match_value, limit_nano, period)"
    " VALUES ($1, 'key', $1, 1, 'day')",
}
TOUCHED = {
    "admins": "INSERT INTO admins (id, email, password_hash, role) VALUES ($1, $1, $1, 'viewer')",
    "service_tokens": "INSERT INTO service_tokens (id, name, hash, hint, role)"
    " VALUES ($1, $1, $2, $1, 'viewer')",
    "catalog_syncs": "INSERT INTO catalog_syncs (id, source, status) VALUES ($1, $1, 'done')",
}


def arguments(sql: str, number: int) -> tuple[object, ...]:
    return (f"x{number}", bytes([number])) if "$2" in sql else (f"x{number}",)


@pytest.mark.parametrize("table", NOTED)
async def test_insert_update_and_delete_are_noted(store, table):
    """Each change of a row is one change of the version, with the row's table and id."""
    sql = NOTED[table]
    await store.execute(sql, *arguments(sql, 1))
    await store.execute(f"UPDATE {table} SET id = id WHERE id = 'x1'")
    await store.execute(f"DELETE FROM {table} WHERE id = 'x1'")
    changes = await config_version.changes_since(store, 0)
    assert changes == [(1, table, "x1"), (2, table, "x1"), (3, table, "x1")]
    assert await config_version.current(store) == 3


@pytest.mark.parametrize("table", [*NOTED, *TOUCHED])
async def test_updated_at_follows_every_update(store, table):
    """A change made by hand moves updated_at; a value given by hand is kept."""
    sql = (NOTED | TOUCHED)[table]
    await store.execute(sql, *arguments(sql, 1))
    read = f"SELECT updated_at FROM {table}"
    await store.execute(f"UPDATE {table} SET updated_at = 5")
    assert await store.fetchval(read) == 5
    await store.execute(f"UPDATE {table} SET id = id")
    assert await store.fetchval(read) > 1_700_000_000_000
    before = await store.fetchval(read)

    async def moved() -> bool:
        await store.execute(f"UPDATE {table} SET id = id")
        return await store.fetchval(read) > before

    await eventually(moved)


async def test_a_statement_that_changes_nothing_is_not_noted(store):
    """No row, no version."""
    await store.execute("UPDATE orgs SET enabled = 0")
    await store.execute("DELETE FROM orgs")
    assert await config_version.current(store) == 0


async def test_a_rolled_back_change_is_not_noted(store):
    """The version belongs to the change's own transaction."""
    with pytest.raises(RuntimeError):
        async with store.transaction() as tx:
            await tx.execute(NOTED["orgs"], "o")
            raise RuntimeError
    assert await config_version.current(store) == 0
    assert await config_version.changes_since(store, 0) == []


async def test_an_edit_with_another_tool_is_noted(store_url):
    """psql and sqlite3 need to know nothing of us."""
    store = await open_store(store_url, migrate=False)
    await store.execute(NOTED["orgs"], "o")
    if store.engine == "sqlite":
        other = sqlite3.connect(store_url.removeprefix("sqlite:///"))
        other.execute("UPDATE orgs SET enabled = 0")
        other.commit()
        other.close()
    else:
        other = await asyncpg.connect(store_url)
        await other.execute("UPDATE orgs SET enabled = 0")
        await other.close()
    assert await config_version.changes_since(store, 1) == [(2, "orgs", "o")]
    await store.close()


async def test_a_truncate_makes_everybody_read_anew(pg_url):
    """TRUNCATE tells no rows, so what changed is unknown."""
    store = await open_store(pg_url, migrate=False)
    await store.execute(NOTED["limits"], "l")
    await store.execute("TRUNCATE limits")
    assert await config_version.current(store) == 2
    assert await config_version.changes_since(store, 1) is None
    assert await config_version.changes_since(store, 2) == []
    await store.close()


async def test_many_rows_at_once_are_all_noted(store):
    """A bulk change names each row, and versions only grow."""
    rows = [(f"o{number}",) for number in range(200)]
    await store.executemany(NOTED["orgs"], rows)
    await store.execute("UPDATE orgs SET enabled = 0")
    changes = await config_version.changes_since(store, 0)
    assert len(changes) == 400
    assert {change[2] for change in changes[200:]} == {row[0] for row in rows}
    assert [change[0] for change in changes] == sorted(change[0] for change in changes)


async def test_pruning_keeps_the_newest(store):
    """Whoever asks for what was pruned is told to read everything."""
    for number in range(10):
        await store.execute(NOTED["orgs"], f"o{number}")
    assert await config_version.prune(store, kept=4) == 6
    assert await config_version.prune(store, kept=4) == 0
    assert await config_version.changes_since(store, 5) is None
    assert await config_version.changes_since(store, 6) == [
        (version, "orgs", f"o{version - 1}") for version in range(7, 11)
    ]
    assert await config_version.changes_since(store, 10) == []


async def test_a_version_from_another_database_is_not_known(store):
    """After a restore the version may be smaller than what a worker remembers."""
    assert await config_version.changes_since(store, 7) is None


async def test_no_concurrent_change_is_missed(store):
    """A reader that follows the version while many write sees every change once, in order."""

    async def write(number: int) -> None:
        await store.execute(NOTED["orgs"], f"o{number}")

    seen: list[tuple[int, str, str]] = []
    tasks = [asyncio.create_task(write(number)) for number in range(40)]
    version = 0
    while len(seen) < 40:
        news = await config_version.changes_since(store, version)
        seen += news
        version = max([version, *(change[0] for change in news)])
    await asyncio.gather(*tasks)
    assert sorted(change[2] for change in seen) == sorted(f"o{number}" for number in range(40))
    assert [change[0] for change in seen] == [*range(1, 41)]


async def test_the_audit_log_is_append_only(store):
    """Neither we nor a tool can change or remove an entry."""
    await audit.append(store, actor_type="admin", action="create", noun="key", after={"a": 1})
    for sql in ("UPDATE audit_log SET action = 'x'", "DELETE FROM audit_log"):
        with pytest.raises(Conflict, match="append-only"):
            await store.execute(sql)
    if store.engine == "postgresql":
        with pytest.raises(Conflict, match="append-only"):
            await store.execute("TRUNCATE audit_log")
    assert (await audit.page(store)).items[0].after == {"a": 1}
