"""A change in the store reaches a worker, however it was made; a lost store loses nothing."""

from __future__ import annotations

import asyncio

import pytest

from fastgw.config.schema import Alias, Auth
from fastgw.domain import Secret
from fastgw.storage import open_store
from fastgw.storage.sql import aliases, config_version, keys, providers, teams
from tests.waiting import eventually

DISABLE = "UPDATE api_keys SET enabled = 0 WHERE id = $1"


@pytest.fixture
async def other(store_url):
    """The store as another process has it."""
    opened = await open_store(store_url, migrate=False)
    yield opened
    await opened.close()


async def key_id(store) -> str:
    return (await keys.find(store, "test")).id


async def test_a_disabled_key_is_refused_at_the_next_poll(serve, store_url, other):
    """By the command line or by plain SQL: the triggers tell."""
    served = await serve(store_url)
    key = await served.create_key()
    assert (await served.chat(key))[0] == 200
    await other.execute(DISABLE, await key_id(other))
    await served.gateway._changes.poll()
    status, body = await served.chat(key)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


async def test_the_poll_happens_by_itself(serve, store_url, other):
    """Within 2 s."""
    served = await serve(store_url)
    key = await served.create_key()
    assert (await served.chat(key))[0] == 200
    await keys.revoke(other, await key_id(other))

    async def refused() -> bool:
        return (await served.chat(key))[0] == 401

    await eventually(refused, timeout=2)


async def test_a_new_key_works_although_it_was_refused_a_moment_ago(serve, store_url, other):
    """What was unknown is looked up again after any change of keys."""
    served = await serve(store_url, keys={"negative_ttl_s": 3600})
    key = await served.create_key()
    await other.execute("UPDATE api_keys SET deleted_at = 1 WHERE name = 'test'")
    assert (await served.chat(key))[0] == 401
    await other.execute("UPDATE api_keys SET deleted_at = NULL WHERE name = 'test'")
    assert (await served.chat(key))[0] == 401
    await served.gateway._changes.poll()
    assert (await served.chat(key))[0] == 200


async def test_a_change_of_an_owner_reaches_its_keys(serve, store_url, other):
    """A disabled team disables its keys, and those of nobody else."""
    served = await serve(store_url)
    team = await teams.create(other, name="crew")
    mine, foreign = await served.create_key("mine", team_id=team.id), await served.create_key("x")
    await served.gateway._changes.poll()
    assert (await served.chat(mine))[0] == (await served.chat(foreign))[0] == 200
    await other.execute("UPDATE teams SET enabled = 0 WHERE id = $1", team.id)
    await served.gateway._changes.poll()
    assert len(served.gateway.context.keys) == 1
    assert (await served.chat(mine))[0] == 401
    assert (await served.chat(foreign))[0] == 200


async def test_aliases_and_providers_come_and_go(serve, store_url, other, provider):
    """The directory is read anew for them, and only then."""
    served = await serve(store_url)
    gateway = served.gateway
    key = await served.create_key()
    before = gateway.context.directory
    await gateway._changes.poll()
    assert gateway.context.directory is before  # a key is none of its business
    assert (await served.chat(key, model="nick"))[0] == 404
    alias = await aliases.put(other, name="nick", model="m")
    await gateway._changes.poll()
    assert (await served.chat(key, model="nick"))[0] == 200
    await other.execute("DELETE FROM model_aliases WHERE id = $1", alias.id)
    await gateway._changes.poll()
    assert (await served.chat(key, model="nick"))[0] == 404
    made = await providers.create(
        other,
        gateway._secrets.vault,
        name="late",
        type="openai_compatible",
        base_url=provider.url + "/v1",
        credential=Secret("sk-late-credential-1234"),
        models=("n",),
    )
    await gateway._changes.poll()
    assert (await served.chat(key, model="n"))[0] == 200
    assert provider.requests[-1].header("authorization") == "Bearer sk-late-credential-1234"
    await other.execute("UPDATE providers SET enabled = 0 WHERE id = $1", made.id)
    await gateway._changes.poll()
    assert (await served.chat(key, model="n"))[0] in {404, 503}


async def test_who_missed_too_many_changes_reads_everything_anew(serve, store_url, other):
    """Pruned changes are not known any more, so nothing in memory is believed."""
    served = await serve(store_url)
    key = await served.create_key()
    assert (await served.chat(key))[0] == 200
    await aliases.put(other, name="nick", model="m")
    await other.execute(DISABLE, await key_id(other))
    await config_version.prune(other, kept=0)
    await served.gateway._changes.poll()
    assert (await served.chat(key))[0] == 401
    assert (await served.chat(await served.create_key("new"), model="nick"))[0] == 200


async def test_a_row_that_cannot_be_read_leaves_the_old_directory(serve, store_url, other):
    """Rows can be written by anybody: keys still follow, requests go on, the next change heals."""
    served = await serve(store_url)
    gateway = served.gateway
    key = await served.create_key()
    assert (await served.chat(key))[0] == 200
    made = await providers.create(
        other,
        gateway._secrets.vault,
        name="odd",
        type="openai_compatible",
        base_url="http://127.0.0.1:9/v1",
        credential=Secret("sk-odd-credential-1234"),
    )
    await other.execute(
        "UPDATE providers SET name = 'renamed', id = 'moved' WHERE id = $1", made.id
    )
    await aliases.put(other, name="nick", model="m")
    await gateway._changes.poll()  # the ciphertext was bound to the old id
    assert (await served.chat(key, model="nick"))[0] == 404
    assert (await served.chat(key))[0] == 200
    assert (await served.get("/readyz"))[0] == 200
    await other.execute("DELETE FROM providers WHERE id = 'moved'")
    await gateway._changes.poll()
    assert (await served.chat(key, model="nick"))[0] == 200


async def test_a_change_during_a_look_up_is_not_missed(serve, store_url, other):
    """A principal that was read before the change must not be remembered after it."""
    served = await serve(store_url)
    gateway = served.gateway
    key = await served.create_key()
    was_read, go_on = asyncio.Event(), asyncio.Event()
    fetchrow = gateway.store.fetchrow

    async def slowly(sql, *args):
        row = await fetchrow(sql, *args)
        was_read.set()
        await go_on.wait()
        return row

    gateway.store.fetchrow = slowly
    asked = asyncio.ensure_future(served.chat(key))
    await was_read.wait()  # as enabled
    gateway.store.fetchrow = fetchrow
    await other.execute(DISABLE, await key_id(other))
    await gateway._changes.poll()
    go_on.set()
    assert (await asked)[0] == 401
    assert (await served.chat(key))[0] == 401


async def test_one_look_up_for_many_requests_and_one_leaver_fails_nobody(serve, store_url):
    """A hundred requests with one new key ask the store once."""
    served = await serve(store_url)
    gateway = served.gateway
    key = await served.create_key()
    asked = 0
    go_on = asyncio.Event()
    fetchrow = gateway.store.fetchrow

    async def counted(sql, *args):
        nonlocal asked
        asked += "hash" in sql
        await go_on.wait()
        return await fetchrow(sql, *args)

    gateway.store.fetchrow = counted
    requests = [asyncio.ensure_future(served.chat(key)) for _ in range(20)]
    await eventually(lambda: gateway.lane.in_flight == 20)
    requests[0].cancel()
    await eventually(lambda: gateway.lane.in_flight == 19)
    go_on.set()
    answers = await asyncio.gather(*requests[1:])
    gateway.store.fetchrow = fetchrow
    assert [status for status, _ in answers] == [200] * 19
    assert asked == 1


async def test_an_unknown_key_is_a_401_also_when_nothing_is_remembered(serve, store_url):
    """negative_ttl_s: 0 means a look-up each time, not an error of ours."""
    served = await serve(store_url, keys={"negative_ttl_s": 0})
    key = await served.create_key()
    await served.gateway.store.execute("DELETE FROM api_keys")
    for _ in range(3):
        status, body = await served.chat(key)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")


async def test_new_settings_are_served(serve, store_url):
    """Aliases and the anonymous key, without a restart and without waiting for the next poll."""
    served = await serve(store_url)
    gateway = served.gateway
    key = await served.create_key()
    assert (await served.chat(None))[0] == 401
    update = {
        "aliases": (Alias(name="nick", model="m"),),
        "auth": Auth(anonymous_key=Secret(key)),
    }
    before = gateway.context.directory
    gateway.reconfigure(gateway.settings.model_copy(update=update))
    await eventually(lambda: gateway.context.directory is not before)
    assert (await served.chat(None, model="nick"))[0] == 200
