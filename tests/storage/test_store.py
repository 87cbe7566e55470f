"""The verbs of a store behave the same on both engines, and fail the same."""

from __future__ import annotations

import asyncio
import time

import pytest

from fastgw.errors import Conflict, InvalidRequest, StoreUnavailable
from fastgw.storage import Load, Store, open_store, postgres, sqlite

INSERT = "INSERT INTO orgs (id, name) VALUES ($1, $2)"
COUNT = "SELECT count(*) FROM orgs"
SLOW = """WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000)
SELECT count(*) FROM n"""


async def test_placeholders_are_found_by_their_number(store):
    """$1 and $10 are different arguments, and one argument may be used twice."""
    row = await store.fetchrow(
        "SELECT CAST($1 AS TEXT) AS a, CAST($10 AS TEXT) AS b, CAST($1 AS TEXT) AS c,"
        " CAST($2 AS TEXT) || CAST($3 AS TEXT) || CAST($4 AS TEXT) || CAST($5 AS TEXT)"
        " || CAST($6 AS TEXT) || CAST($7 AS TEXT) || CAST($8 AS TEXT) || CAST($9 AS TEXT) AS d",
        *"abcdefghij",
    )
    assert dict(row) == {"a": "a", "b": "j", "c": "a", "d": "bcdefghi"}


async def test_execute_counts_the_rows_written(store):
    """A statement says how many rows it wrote, whether or not it was written before."""
    assert await store.execute(INSERT, "1", "one") == 1
    assert await store.execute(INSERT, "2", "two") == 1
    assert await store.execute("UPDATE orgs SET enabled = 0") == 2
    assert await store.execute("UPDATE orgs SET enabled = 0 WHERE id = $1", "3") == 0
    assert await store.execute("DELETE FROM orgs WHERE id = $1", "1") == 1


async def test_returning_gives_rows(store):
    """A writing statement can answer."""
    sql = "INSERT INTO orgs (id, name) VALUES ($1, $2) RETURNING id, enabled"
    assert [dict(row) for row in await store.fetch(sql, "1", "one")] == [{"id": "1", "enabled": 1}]
    assert await store.fetchval(COUNT) == 1


async def test_nothing_is_none(store):
    """No row is None, and so is its first value."""
    assert await store.fetchrow("SELECT id FROM orgs") is None
    assert await store.fetchval("SELECT id FROM orgs") is None
    assert await store.fetch("SELECT id FROM orgs") == []


async def test_numbers_and_bytes_come_back_as_they_went(store):
    """64-bit integers and any bytes are kept."""
    digest = bytes(range(256))
    await store.execute(
        "INSERT INTO api_keys (id, name, hash, hint, expires_at) VALUES ($1, $2, $3, $4, $5)",
        "k", "n", digest, "h", 2**63 - 1,
    )  # fmt: skip
    row = await store.fetchrow("SELECT hash, expires_at FROM api_keys")
    assert dict(row) == {"hash": digest, "expires_at": 2**63 - 1}


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
async def test_text_that_no_database_holds_is_refused(store, value):
    """NUL and lone surrogates are the caller's fault, on both engines and in every verb."""
    with pytest.raises(InvalidRequest):
        await store.execute(INSERT, "1", value)
    with pytest.raises(InvalidRequest):
        await store.fetch("SELECT * FROM orgs WHERE name = $1", value)
    with pytest.raises(InvalidRequest):
        await store.executemany(INSERT, [("2", "fine"), ("1", value)])
    assert await store.fetchval(COUNT) == 0


async def test_a_number_too_large_is_refused(store):
    """A number of more than 64 bits is the caller's fault."""
    with pytest.raises(InvalidRequest):
        await store.execute("UPDATE orgs SET expires_at = $1", 2**63)


async def test_a_taken_name_is_a_conflict_that_names_the_field(store):
    """A unique index answers 409 and says which field."""
    await store.execute(INSERT, "1", "one")
    with pytest.raises(Conflict, match="name is already taken") as caught:
        await store.execute(INSERT, "2", "one")
    assert (caught.value.status, caught.value.code, caught.value.param) == (409, "conflict", "name")


async def test_an_unknown_reference_is_a_conflict(store):
    """A foreign key is enforced on both engines, both ways."""
    with pytest.raises(Conflict):
        await store.execute("INSERT INTO teams (id, name, org_id) VALUES ('t', 't', 'nobody')")
    await store.execute(INSERT, "o", "o")
    await store.execute("INSERT INTO teams (id, name, org_id) VALUES ('t', 't', 'o')")
    with pytest.raises(Conflict):
        await store.execute("DELETE FROM orgs WHERE id = 'o'")


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO teams (id, name, priority) VALUES ('t', 't', 10)",
        "INSERT INTO teams (id, name, priority) VALUES ('t', 't', -1)",
        "INSERT INTO orgs (id, name, enabled) VALUES ('o', 'o', 2)",
        "INSERT INTO orgs (id, name, tags) VALUES ('o', 'o', '[]')",
        "INSERT INTO orgs (id, name, tags) VALUES ('o', 'o', 'no json')",
        "INSERT INTO orgs (id, name) VALUES ('o', NULL)",
        "INSERT INTO budgets (id, scope, limit_nano, period) VALUES ('b', 'moon', 1, 'day')",
    ],
)
async def test_a_value_out_of_range_is_refused(store, sql):
    """The schema refuses what the code could not read back, whoever writes it."""
    with pytest.raises(InvalidRequest):
        await store.execute(sql)


async def test_a_refusal_does_not_show_the_row(store):
    """A row that a constraint refuses holds hashes and ciphertexts, which are nobody's business."""
    canary = b"canary-hash"
    await store.execute(
        "INSERT INTO api_keys (id, name, hash, hint) VALUES ('k', 'n', $1, 'h')", canary
    )
    for sql in (
        "UPDATE api_keys SET priority = 99",
        "UPDATE api_keys SET tags = 'canary, no JSON'",
        "UPDATE api_keys SET name = NULL",
    ):
        with pytest.raises(InvalidRequest) as caught:
            await store.execute(sql)
        assert canary.hex() not in caught.value.message
        assert "canary" not in caught.value.message


async def test_a_transaction_is_all_or_nothing(store):
    """An error inside undoes everything, and the store goes on."""
    with pytest.raises(RuntimeError):
        async with store.transaction() as tx:
            await tx.execute(INSERT, "1", "one")
            assert await tx.fetchval(COUNT) == 1
            raise RuntimeError
    assert await store.fetchval(COUNT) == 0
    async with store.transaction() as tx:
        await tx.executemany(INSERT, [("1", "one"), ("2", "two")])
    assert await store.fetchval(COUNT) == 2


async def test_an_inner_transaction_joins_the_outer(store):
    """What an inner transaction wrote goes when the outer one fails."""
    with pytest.raises(RuntimeError):
        async with store.transaction() as tx:
            async with tx.transaction() as inner:
                await inner.execute(INSERT, "1", "one")
            raise RuntimeError
    assert await store.fetchval(COUNT) == 0


async def test_many_rows_are_all_or_nothing(store):
    """One bad row among many writes none."""
    load = Load("orgs", ("id", "name"))
    with pytest.raises(Conflict):
        await store.load(load, [("1", "one"), ("2", "one")])
    with pytest.raises(Conflict):
        await store.executemany(INSERT, [("1", "one"), ("2", "one")])
    assert await store.fetchval(COUNT) == 0
    await store.load(load, [("1", "one"), ("2", "two")])
    assert await store.fetchval(COUNT) == 2


async def test_an_open_transaction_is_not_seen_by_others(store):
    """Readers see the last committed state and are not held up by a writer."""
    async with store.transaction() as tx:
        await tx.execute(INSERT, "1", "one")
        assert await store.fetchval(COUNT) == 0
    assert await store.fetchval(COUNT) == 1


async def test_writers_take_turns(store):
    """Concurrent read-modify-write transactions on one row lose nothing."""
    await store.execute(INSERT, "1", "one")

    async def add() -> None:
        async with store.transaction() as tx:
            sql = "SELECT expires_at FROM orgs WHERE id = $1 FOR UPDATE"
            value = await tx.fetchval(sql, "1")
            await tx.execute("UPDATE orgs SET expires_at = $2 WHERE id = $1", "1", (value or 0) + 1)

    await asyncio.gather(*(add() for _ in range(20)))
    assert await store.fetchval("SELECT expires_at FROM orgs") == 20


async def test_a_cancelled_transaction_leaves_nothing_behind(store):
    """Whenever its task is cancelled, a transaction is undone and the next one works."""

    async def write(number: int, steps: int) -> None:
        async with store.transaction() as tx:
            await tx.execute(INSERT, f"a{number}", f"a{number}")
            for _ in range(steps):
                await asyncio.sleep(0)
            await tx.execute(INSERT, f"b{number}", f"b{number}")

    for number in range(30):
        task = asyncio.create_task(write(number, number % 4))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with store.transaction() as tx:
            await tx.execute("UPDATE orgs SET enabled = 0")
    names = {row["id"] for row in await store.fetch("SELECT id FROM orgs")}
    assert {name[1:] for name in names if name[0] == "a"} == {
        name[1:] for name in names if name[0] == "b"
    }


async def test_a_closed_store_is_unavailable(store):
    """After close every verb says so, and closing again does nothing."""
    await store.fetchval("SELECT 1")
    await store.close()
    await store.close()
    for call in (store.ping(), store.execute(INSERT, "1", "1"), store.fetch(COUNT)):
        with pytest.raises(StoreUnavailable):
            await call
    with pytest.raises(StoreUnavailable):
        async with store.transaction():
            pass


async def test_a_defect_of_ours_stays_what_it_is(store):
    """A wrong statement is no outage: nobody is told to try again."""
    with pytest.raises(Exception, match="nonsense") as caught:
        await store.fetch("SELECT nonsense FROM orgs")
    assert not isinstance(caught.value, StoreUnavailable)


@pytest.mark.parametrize("writing", [False, True])
async def test_a_slow_statement_is_ended(store_url, monkeypatch, writing):
    """No statement runs for ever, and the connection is good afterwards."""
    monkeypatch.setitem(postgres.SETTINGS, "statement_timeout", "50")
    monkeypatch.setattr(sqlite, "STATEMENT_TIMEOUT_S", 0.05)
    store = await open_store(store_url, migrate=False)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        if writing:
            async with store.transaction() as tx:
                await tx.execute(INSERT, "1", "one")
                await tx.fetch(SLOW)
        else:
            await store.fetch(SLOW)
    assert time.monotonic() - began < 30
    assert await store.fetchval(COUNT) == 0
    await store.close()


async def test_more_callers_than_connections_wait_their_turn(store):
    """Callers beyond the number of connections are served one after the other."""

    async def ask(number: int) -> int:
        return await store.fetchval("SELECT CAST($1 AS BIGINT)", number)

    assert await asyncio.gather(*(ask(number) for number in range(50))) == [*range(50)]


async def test_a_table_changed_under_a_prepared_statement_is_noticed(store):
    """A migration under a live gateway does not break its prepared statements."""
    await store.execute(INSERT, "1", "one")
    assert (await store.fetchrow("SELECT * FROM orgs"))["name"] == "one"
    await store.execute("ALTER TABLE orgs ADD COLUMN extra TEXT")
    row = await store.fetchrow("SELECT * FROM orgs")
    assert (row["name"], row["extra"]) == ("one", None)


@pytest.mark.parametrize(
    "url", ["mysql://x:secret@y/z", "sqlite://secret", "sqlite:///:memory:", "fastgw.db"]
)
async def test_a_wrong_url_is_refused_without_being_shown(url):
    """The text of the error holds no URL: it may hold a password."""
    with pytest.raises(InvalidRequest) as caught:
        await open_store(url, migrate=False)
    assert url not in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_postgres_answers_to_both_schemes_and_a_unix_socket(pg_url):
    """`postgres://` is `postgresql://`, and `host` may be the folder of a socket."""
    store = await open_store(pg_url.replace("postgresql://", "postgres://"), migrate=False)
    folder = await store.fetchval("SELECT current_setting('unix_socket_directories')")
    port = await store.fetchval("SELECT current_setting('port')")
    name = await store.fetchval("SELECT current_database()")
    await store.close()
    if "/fastgw-test-pg-" not in folder:
        pytest.skip("the server is not ours; where its socket is nobody knows")
    socket_url = f"postgresql://postgres@/{name}?host={folder}&port={port}&sslmode=prefer"
    store = await open_store(socket_url, migrate=False)
    assert await store.fetchval("SELECT inet_server_addr() IS NULL")
    await store.close()


async def test_a_postgres_that_is_not_there_is_unavailable(unused_tcp_port):
    """A refused connection is StoreUnavailable at open, not a driver's error."""
    url = f"postgresql://postgres@127.0.0.1:{unused_tcp_port}/nothing"
    for migrate in (False, True):
        with pytest.raises(StoreUnavailable):
            await open_store(url, migrate=migrate)


async def test_the_statement_timeout_is_set(store: Store):
    """Every connection to PostgreSQL carries the time-out."""
    if store.engine == "postgresql":
        assert await store.fetchval("SELECT current_setting('statement_timeout')") == "5s"
