"""PostgreSQL is killed while a gateway serves: who is known goes on, nobody is told a lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fastgw.storage import migrate, open_store
from fastgw.storage.sql import keys, usage_reports
from fastgw.storage.sql.usage_reports import Filter
from tests import servers
from tests.waiting import eventually


@pytest.fixture
async def postgres() -> AsyncIterator[servers.Postgres]:
    """A server of this test's own, to be killed."""
    try:
        server = servers.Postgres()
        server.launch()
    except servers.MissingServer as error:
        pytest.fail(str(error), pytrace=False)
    await migrate.upgrade(server.dsn)
    yield server
    server.close()


async def test_a_killed_database(serve, postgres):
    """Known keys go on; unknown ones get 503, never 401; afterwards each record is there once."""
    served = await serve(postgres.dsn)
    gateway = served.gateway
    key, stranger = await served.create_key(), await served.create_key("not asked for yet")
    await gateway._changes.poll()
    assert (await served.chat(key))[0] == 200
    assert (await served.get("/readyz"))[0] == 200
    await eventually(lambda: served.loader.loaded == 1)
    for outage in (1, 2):
        postgres.kill()
        await eventually(lambda: not gateway._changes.store_ok)
        assert (await served.get("/readyz"))[1]["reasons"] == ["database unavailable"]
        assert (await served.get("/health"))[1]["store"]["available"] is False
        answers = await asyncio.gather(*(served.chat(key) for _ in range(20)))
        assert [status for status, _ in answers] == [200] * 20
        for unknown in (stranger, make_unknown()):
            status, body = await served.chat(unknown)
            assert (status, body["error"]["code"]) == (503, "store_unavailable")
        assert (await served.chat("fgw-" + "x" * 49))[0] == 401  # its checksum says so
        async with served.client.get(served.url + "/admin/me") as answer:
            assert answer.status == 401
        gateway.reconfigure(gateway.settings)  # a reload must not be lost either
        before = gateway.context.directory
        postgres.start_again()
        await eventually(lambda: gateway._changes.store_ok)
        await eventually(lambda: gateway.context.directory is not before)
        assert (await served.get("/readyz"))[0] == 200
        await eventually(lambda n=1 + 20 * outage: served.loader.loaded >= n)
    assert (await served.chat(stranger))[0] == 200
    await gateway.drain()
    await eventually(lambda: not [*served.journal.glob("*.lock")])
    again = await open_store(postgres.dsn, migrate=False)
    records = [record async for record in usage_reports.export(again, Filter())]
    assert len({record.id for record in records if record.status == 200}) == 42
    assert len(records) == len({record.id for record in records})
    await again.close()


def make_unknown() -> str:
    """Give a key with a right checksum that nobody has issued."""
    return keys.make_key()[0].reveal()
