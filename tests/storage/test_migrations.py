"""The schema goes up, down and up again, from any number of processes at once."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from fastgw import storage
from fastgw.errors import SchemaMismatch
from fastgw.storage import migrate, open_store

TABLES = {
    "providers", "models", "deployments", "fallbacks", "model_aliases", "api_keys",
    "api_key_activity", "users", "teams", "orgs", "limits", "budgets", "usage_records",
    "usage_daily", "usage_monthly", "usage_tags_daily", "catalog_syncs", "admins",
    "service_tokens", "admin_sessions", "audit_log", "config_version", "config_changes",
    "kept_answers", "decisions",
}  # fmt: skip

PG_SCHEMA = """
SELECT 'column', table_name, column_name, data_type, is_nullable, coalesce(column_default, '')
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', tablename, indexname, indexdef, '', '' FROM pg_indexes
WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', ''
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), '', ''
FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'function', proname, pg_get_functiondef(oid), '', '', '' FROM pg_proc
WHERE pronamespace = 'public'::regnamespace
ORDER BY 1, 2, 3, 4"""


def sqlite_path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


async def schema(url: str) -> list[tuple[str, ...]]:
    """Describe everything in a database but its rows."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(sqlite_path(url))
        rows = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")
        found = rows.fetchall()
        connection.close()
        return found
    connection = await asyncpg.connect(url)
    found = [tuple(row) for row in await connection.fetch(PG_SCHEMA)]
    await connection.close()
    return found


async def test_up_down_up_gives_the_same_schema(empty_url):
    """Down leaves nothing of ours; up again makes the same."""
    await migrate.upgrade(empty_url)
    assert await migrate.current(empty_url) == storage.HEAD
    first = await schema(empty_url)
    assert {row[1] for row in first} >= TABLES
    await migrate.downgrade(empty_url, "base")
    assert await migrate.current(empty_url) is None
    assert {row[1] for row in await schema(empty_url)} <= {
        "alembic_version",
        "alembic_version_pkc",
        "sqlite_autoindex_alembic_version_1",
    }
    await migrate.upgrade(empty_url)
    assert await schema(empty_url) == first


async def test_every_table_is_stamped(store):
    """created_at and updated_at are everywhere but in the log of changes, which has `at`."""
    for table in TABLES - {"config_changes"}:
        assert await store.fetch(f"SELECT created_at, updated_at FROM {table}") is not None
    assert await store.fetch("SELECT at FROM config_changes") == []


async def test_the_statement_of_the_issue_works_on_a_fresh_database(store):
    """Models can be asked for by the names that everybody uses."""
    assert await store.fetch("SELECT name, provider, context_window, enabled FROM models") == []


def test_head_is_the_newest_migration():
    """The revision the code asks for is the one the migrations lead to."""
    folder = Path(migrate.__file__).with_name("migrations")
    assert ScriptDirectory(str(folder)).get_current_head() == storage.HEAD


async def test_a_store_without_schema_is_refused(empty_url):
    """Without leave to migrate nothing is made, and the error says what to run."""
    with pytest.raises(SchemaMismatch, match="fastgw db upgrade"):
        await open_store(empty_url, migrate=False)
    if empty_url.startswith("sqlite"):
        assert not sqlite_path(empty_url).parent.exists()


async def test_a_newer_schema_is_refused(store_url):
    """An old process does not touch a database that a newer one has changed."""
    store = await open_store(store_url, migrate=True)
    await store.execute("UPDATE alembic_version SET version_num = 'ffff'")
    await store.close()
    for allowed in (False, True):
        with pytest.raises(SchemaMismatch, match="ffff"):
            await open_store(store_url, migrate=allowed)


async def test_an_upgrade_that_fails_leaves_nothing(empty_url, monkeypatch):
    """A whole upgrade is one transaction, on both engines."""
    await migrate.upgrade(empty_url)
    await migrate.downgrade(empty_url, "base")
    before = await schema(empty_url)

    def fail_at_the_end(connection):
        migrate.command.upgrade(migrate._config(connection), "head")
        raise SchemaMismatch("on purpose")

    with pytest.raises(SchemaMismatch, match="on purpose"):
        await migrate._run(empty_url, fail_at_the_end)
    assert await schema(empty_url) == before


async def test_sqlite_files_are_ours_alone(tmp_path):
    """The folder is 0700 and the files 0600: they hold hashes and ciphertexts."""
    path = tmp_path / "data" / "fastgw.db"
    store = await open_store(f"sqlite:///{path}", migrate=True)
    await store.execute("INSERT INTO orgs (id, name) VALUES ('o', 'o')")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert files == {
        "fastgw.db": 0o600,
        "fastgw.db-wal": 0o600,
        "fastgw.db-shm": 0o600,
        "fastgw.db.lock": 0o600,
    }
    assert await store.fetchval("PRAGMA journal_mode") == "wal"
    await store.close()


OPEN_AND_WRITE = """
import asyncio, sys
from fastgw.storage import migrate, open_store
async def main(url, name):
    store = await open_store(url, migrate=True)
    await store.execute("INSERT INTO orgs (id, name) VALUES ($1, $1)", name)
    await store.close()
print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main(*sys.argv[1:]))
"""


async def test_many_processes_may_start_on_an_empty_database(empty_url):
    """Four processes open an empty database at once: all succeed, one schema, four rows."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OPEN_AND_WRITE, empty_url, f"org-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = await asyncio.gather(*(asyncio.to_thread(each.communicate) for each in processes))
    assert [process.returncode for process in processes] == [0] * 4, ends
    store = await open_store(empty_url, migrate=False)
    assert await store.fetchval("SELECT count(*) FROM orgs") == 4
    assert await store.fetchval("SELECT version FROM config_version") == 4
    await store.close()


async def test_a_migrated_database_opens_without_alembic(store_url):
    """Workers and most starts never pay for Alembic and SQLAlchemy."""
    script = (
        "import asyncio, sys; from fastgw.storage import open_store\n"
        "asyncio.run(asyncio.wait_for(open_store(sys.argv[1], migrate=True), 30))\n"
        "import os; os._exit('alembic' in sys.modules or 'sqlalchemy' in sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, store_url)
    assert await process.wait() == 0
