"""Limits and budgets in Redis on its worst days: away, silent, forgetful."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest

from fastgw._ext import limits as meters
from fastgw.storage.sql import budgets, models
from tests import servers
from tests.server.conftest import BODY, CHAT
from tests.waiting import eventually


class Durable(servers.Redis):
    """A Redis that keeps an append-only file."""

    def argv(self):
        return [*super().argv(), "--appendonly", "yes", "--appenddirname", "log"]

    def forget_tail(self, size):
        """Lose what was written last, as a machine that lost power has."""
        (log,) = (self.folder / "log").glob("*.incr.aof")
        data = log.read_bytes()
        log.write_bytes(data[:-size])

    def forget_all(self):
        """Lose everything."""
        for file in (self.folder / "log").iterdir():
            file.unlink()


@pytest.fixture
def redis():
    """A Redis of this test's own."""
    server = Durable()
    server.launch()
    yield server
    with contextlib.suppress(ProcessLookupError):
        server.resume()
    server.close()


async def ask(served, key, client=None, **body):
    """Ask; give status and the error's code or None."""
    headers = {"authorization": f"Bearer {key}"}
    client = client or served.client
    async with client.post(served.url + CHAT, json=BODY | body, headers=headers) as answer:
        answered = await answer.json()
        return answer.status, answered["error"]["code"] if answer.status >= 400 else None


async def many(served, key, count, **body):
    """Ask so often, one after the other; give how many were served."""
    answers = [await ask(served, key, **body) for _ in range(count)]
    return sum(status == 200 for status, _ in answers)


def all_meters(served):
    return tuple(served.gateway.context.limiter._meters.values())


async def seen(served):
    """What Redis knows, meter by meter."""
    return await served.gateway.keeper.look(meters.Guard(all_meters(served)))


async def start_again(redis, served):
    """Start the server again and wait until it decides."""
    await asyncio.to_thread(redis.start)
    await eventually(lambda: served.gateway.keeper.available, 10, "Redis decides again")


def limited(redis, on_failure, *rules):
    """Give the settings."""
    return {
        "redis": {"url": redis.url, "on_failure": on_failure},
        "limits": {"defaults": list(rules)},
    }


HUNDRED = {"scope": "global", "metric": "requests", "limit": 100, "window_s": 3600}
TEN = {"scope": "global", "metric": "concurrent", "limit": 10}


async def test_the_fast_lane_waits_for_redis_and_stays(serve, sqlite_url, redis):
    """Served, refused, and with the headers of Redis' answer, without leaving the lane."""
    rule = {"scope": "key", "metric": "requests", "limit": 5}
    served = await serve(sqlite_url, **limited(redis, "deny", rule))
    key = await served.create_key()
    assert await many(served, key, 7) == 5
    lanes = served.gateway._lane_counts()
    assert lanes['{lane="fast",reason="plan"}'] == 4
    assert lanes['{lane="fast",reason="refusal"}'] == 2


async def test_two_gateways_share_one_limit(serve, sqlite_url, redis):
    """What one has let through the other knows."""
    rule = {"scope": "key", "metric": "requests", "limit": 6}
    both = [await serve(sqlite_url, **limited(redis, "deny", rule)) for _ in range(2)]
    key = await both[0].create_key()
    answers = [await ask(served, key) for served in both * 4]
    assert [status for status, _ in answers] == [200] * 6 + [429] * 2


async def test_deny_refuses_while_redis_is_away(serve, sqlite_url, redis):
    """503, never 401; not ready meanwhile; and what was counted is still counted afterwards."""
    served = await serve(sqlite_url, **limited(redis, "deny", HUNDRED, TEN))
    key = await served.create_key()
    assert await many(served, key, 3) == 3
    redis.kill()
    await eventually(lambda: not served.gateway.keeper.available)
    assert [await ask(served, key) for _ in range(3)] == [(503, "store_unavailable")] * 3
    assert (await served.get("/readyz"))[0] == 503
    assert served.gateway.health()["limits"]["available"] is False
    await start_again(redis, served)
    assert (await served.get("/readyz"))[0] == 200
    assert await many(served, key, 1) == 1
    window, slots = await seen(served)
    assert (window.left, slots.open) == (96, 0)


async def test_local_spends_its_escrow_and_nothing_else(serve, sqlite_url, redis):
    """A sixteenth of the limit was put aside; it is told and counted when Redis is back."""
    served = await serve(sqlite_url, **limited(redis, "local", HUNDRED))
    key = await served.create_key()
    assert await many(served, key, 3) == 3
    ((before,)) = await seen(served)
    assert before.escrow == 6
    assert before.left == 100 - 3 - 6
    redis.kill()
    await eventually(lambda: not served.gateway.keeper.available)
    answers = [await ask(served, key) for _ in range(10)]
    assert answers == [(200, None)] * 6 + [(429, "rate_limit_exceeded")] * 4
    assert (await served.get("/readyz"))[0] == 200
    health = served.gateway.health()["limits"]
    assert (health["escrow_requests"], health["reserved_alone"]) == (0, 6)
    await start_again(redis, served)
    (after,) = await seen(served)
    assert after.left + after.escrow == 100 - 3 - 6
    assert await many(served, key, 95) == 91


async def test_a_silent_redis_holds_nobody_up(serve, sqlite_url, redis):
    """It is stopped in the middle: requests are refused; what it did late is undone."""
    served = await serve(sqlite_url, **limited(redis, "deny", HUNDRED, TEN))
    key = await served.create_key()
    assert await many(served, key, 3) == 3
    redis.pause()
    assert [await ask(served, key) for _ in range(3)] == [(503, "store_unavailable")] * 3
    redis.resume()
    await eventually(lambda: served.gateway.keeper.available, 10, "Redis decides again")
    assert await many(served, key, 1) == 1
    window, slots = await seen(served)
    assert (window.left, slots.open) == (96, 0)


async def test_a_client_that_leaves_while_it_waits_holds_nothing(serve, sqlite_url, redis):
    """Redis answers afterwards, and the slot is free again."""
    served = await serve(sqlite_url, **limited(redis, "deny", HUNDRED, TEN))
    key = await served.create_key()
    assert await many(served, key, 2) == 2
    redis.pause()
    asking = asyncio.ensure_future(ask(served, key))
    await eventually(lambda: served.gateway.keeper._under_way or asking.done())
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await eventually(lambda: served.gateway.fast.in_flight == 0)
    redis.resume()
    await eventually(lambda: served.gateway.keeper.available, 10, "Redis decides again")

    async def is_free():
        window, slots = await seen(served)
        return (window.left, slots.open) == (98, 0)

    await eventually(is_free)


async def test_what_redis_forgot_is_said_again(serve, sqlite_url, redis):
    """The end of its file is lost: what was acknowledged is counted all the same."""
    served = await serve(sqlite_url, **limited(redis, "deny", HUNDRED, TEN))
    key = await served.create_key()
    assert await many(served, key, 20) == 20
    redis.kill()
    redis.forget_tail(3_000)
    before = served.gateway.keeper.said_again
    await start_again(redis, served)
    assert served.gateway.keeper.said_again > before
    window, slots = await seen(served)
    assert (window.left, slots.open) == (80, 0)


async def test_an_empty_redis_is_filled_from_the_store(serve, sqlite_url, redis):
    """Spend comes from the roll-ups, and who was under way is still counted."""
    served = await serve(sqlite_url, **limited(redis, "deny"))
    store = served.gateway.store
    await models.put(store, "", "m", input_pico=10**6, output_pico=10**6)
    await budgets.create(store, scope="global", limit_nano=10**9, period="month")
    await served.gateway._changes.poll()
    await served.gateway.refresh()
    key = await served.create_key()
    assert await many(served, key, 7, max_tokens=20) == 7
    (before,) = await seen(served)
    assert (before.spent, before.open) == (7 * 5_000, 0)
    redis.kill()
    redis.forget_all()
    await start_again(redis, served)
    assert await many(served, key, 1, max_tokens=20) == 1
    (after,) = await seen(served)
    assert (after.spent, after.open) == (8 * 5_000, 0)


async def test_a_reservation_can_be_extended(serve, sqlite_url, redis):
    """In place, as long as there is room; its close gives back all of it."""
    rule = {"scope": "global", "metric": "tokens", "limit": 1_000, "window_s": 3600}
    served = await serve(sqlite_url, **limited(redis, "deny", rule))
    key = await served.create_key()
    assert await many(served, key, 1, max_tokens=10) == 1
    keeper, guard = served.gateway.keeper, meters.Guard(all_meters(served))
    guard.keeper = keeper
    held = await keeper.wait(guard, "fgx_long", 300, 0)
    answers = []
    for more in (300, 300, 300):
        heard = asyncio.Event()
        keeper.extend(held, more, 0, lambda fits, heard=heard: (answers.append(fits), heard.set()))
        await heard.wait()
    assert answers == [True, True, False]
    assert held.tokens == 900
    assert (await seen(served))[0].left == 1_000 - 5 - 900
    held.settle(meters.now_us(), 650, 0)
    held.settle(meters.now_us(), 1, 0)
    assert (await seen(served))[0].left == 1_000 - 5 - 650


async def test_settled_twice_counts_once(serve, sqlite_url, redis):
    """By our id, whoever says it again."""
    served = await serve(sqlite_url, **limited(redis, "deny", HUNDRED, TEN))
    key = await served.create_key()
    assert await many(served, key, 1) == 1
    keeper, guard = served.gateway.keeper, meters.Guard(all_meters(served))
    guard.keeper = keeper
    held = await keeper.wait(guard, "fgx_once", 0, 0)
    for _ in itertools.repeat(None, 3):
        keeper.close(guard, held.id, held.at_us, 0, 0, 0, 0, 0, 0)
    window, slots = await seen(served)
    assert (window.left, slots.open) == (99, 0)
