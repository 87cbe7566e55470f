"""`Idempotency-Key`: one provider call, one charge, one answer, whoever asks again and where."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from fastgw.domain import now_ms
from fastgw.server import idempotency
from fastgw.storage import open_store
from fastgw.storage.sql import kept_answers
from tests.scripted import Hold, Request, Scripted, Wait
from tests.server.conftest import ANSWER, BODY, CHAT, REPLY
from tests.waiting import eventually

EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
FAULT = b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
MISTAKE = b"HTTP/1.1 400 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
ABOUT_ONE = {"date", "x-request-id", "idempotent-replayed"}


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def provided(scripted):
    """Give the settings that make a scripted provider the one."""
    return {
        "providers": [
            {
                "name": "p",
                "type": "openai_compatible",
                "base_url": scripted.url + "/v1",
                "models": ["m"],
            }
        ]
    }


async def ask(served, key, name="one", **body):
    """Ask under a name; give status, headers and body."""
    headers = {"authorization": f"Bearer {key}", "idempotency-key": name}
    async with served.client.post(served.url + CHAT, json=BODY | body, headers=headers) as answer:
        return answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.read()


def without(headers):
    return {name: value for name, value in headers.items() if name not in ABOUT_ONE}


async def records(served):
    async def read():
        sql = "SELECT status FROM usage_records ORDER BY created_at"
        return [row["status"] for row in await served.gateway.store.fetch(sql)]

    await eventually(read)  # tokens that nobody reported are counted after the answer
    await eventually(lambda: served.waiting == 0)
    return await read()


async def count(store):
    return await store.fetchval("SELECT count(*) FROM kept_answers")


async def test_the_first_answer_comes_again(serve, provider, store_url):
    """Status, headers and body; nothing is asked, charged or recorded a second time."""
    served = await serve(store_url)
    key = await served.create_key()
    first = await ask(served, key)
    again = await ask(served, key)
    assert (first[0], first[2]) == (200, ANSWER)
    assert "idempotent-replayed" not in first[1]
    assert again[1]["idempotent-replayed"] == "true"
    assert (again[0], without(again[1]), again[2]) == (first[0], without(first[1]), first[2])
    assert first[1]["x-request-id"] != again[1]["x-request-id"], "a label is of one request"
    assert len(provider.requests) == 1
    assert await records(served) == [200]
    assert (await ask(served, key, name="two"))[0] == 200
    assert (await ask(served, await served.create_key("other")))[0] == 200
    assert len(provider.requests) == 3, "another name, another key: another request"


async def test_it_outlives_the_gateway(serve, provider, store_url):
    """A process that starts later has it from the store; so has one that runs beside."""
    one = await serve(store_url)
    key = await one.create_key()
    first = await ask(one, key)
    two = await serve(store_url)
    again = await ask(two, key)
    assert (again[0], without(again[1]), again[2]) == (first[0], without(first[1]), first[2])
    assert len(provider.requests) == 1


async def test_another_request_under_the_name_is_refused(serve, provider, store_url):
    """422 whether the first is kept, or under way here."""
    go_on = asyncio.Event()
    async with Scripted([Request(), Wait(go_on), REPLY, Hold()]) as slow:
        served = await serve(store_url, **provided(slow))
        key = await served.create_key()
        first = asyncio.ensure_future(ask(served, key))
        await eventually(lambda: len(slow.requests) == 1)
        assert (await ask(served, key, max_tokens=5))[0] == 422
        go_on.set()
        assert (await first)[0] == 200
        status, _, body = await ask(served, key, max_tokens=5)
        assert (status, b"idempotency_mismatch" in body) == (422, True)
        assert len(slow.requests) == 1


@pytest.mark.parametrize("streams", [False, True])
async def test_a_hundred_at_once_are_one(serve, store_url, streams):
    """All join the first, in this worker and in another; each hears all of it."""
    go_on = asyncio.Event()
    answer = (
        (SSE, chunk(EVENT), Wait(go_on), chunk(EVENT), END) if streams else (Wait(go_on), REPLY)
    )
    async with Scripted([Request(), *answer, Hold()]) as slow:
        one = await serve(store_url, **provided(slow))
        two = await serve(store_url, **provided(slow))
        key = await one.create_key()
        first = asyncio.ensure_future(ask(one, key, stream=streams))
        await eventually(lambda: len(slow.requests) == 1)
        others = [ask(served, key, stream=streams) for served in (one, two) for _ in range(50)]
        gathered = asyncio.gather(*others)
        await eventually(lambda: one.gateway.lane.in_flight > 50)
        await eventually(lambda: two.gateway.lane.in_flight >= 50)
        go_on.set()
        answers = [await first, *await gathered]
        body = EVENT * 2 + b"data: [DONE]\n\n" if streams else ANSWER
        assert {(status, text) for status, _, text in answers} == {(200, body)}
        assert len({headers["x-fastgw-id"] for _, headers, _ in answers}) == 1
        again = await ask(two, key, stream=streams)
        assert (again[0], again[2]) == (200, body)
        assert again[1]["content-type"] == answers[0][1]["content-type"]
        assert len(slow.requests) == 1
        assert await records(one) == [200]


async def test_it_goes_on_when_its_client_leaves(serve, store_url):
    """Who lost the connection asks again and gets the answer that was paid for."""
    go_on = asyncio.Event()
    async with Scripted([Request(), Wait(go_on), REPLY, Hold()]) as slow:
        served = await serve(store_url, **provided(slow))
        key = await served.create_key()
        first = asyncio.ensure_future(ask(served, key))
        await eventually(lambda: len(slow.requests) == 1)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        second = asyncio.ensure_future(ask(served, key))
        await eventually(lambda: served.gateway.lane.in_flight == 2)
        go_on.set()
        status, headers, body = await second
        assert (status, body, headers["idempotent-replayed"]) == (200, ANSWER, "true")
        assert len(slow.requests) == 1
        assert await records(served) == [200]


async def test_what_failed_is_not_the_answer(serve, store_url):
    """A fault of the provider's, ours, or a limit: the next request is a first one."""
    async with Scripted([Request(), FAULT, Request(), REPLY, Hold()]) as flaky:
        served = await serve(store_url, **provided(flaky))
        key = await served.create_key()
        assert (await ask(served, key))[0] == 502
        assert await count(served.gateway.store) == 0
        assert (await ask(served, key))[0] == 200
        assert (await ask(served, key))[1]["idempotent-replayed"] == "true"
        assert len(flaky.requests) == 2


async def test_a_broken_stream_is_not_the_answer(serve, sqlite_url):
    """Those who listen hear it break; who asks again begins anew."""
    scripts = [Request(), SSE, chunk(EVENT)], [Request(), SSE, chunk(EVENT), END, Hold()]
    async with Scripted(*scripts) as flaky:
        served = await serve(sqlite_url, **provided(flaky))
        key = await served.create_key()
        with contextlib.suppress(Exception):
            await ask(served, key, stream=True)
        await eventually(lambda: served.gateway.lane.in_flight == 0)
        assert await count(served.gateway.store) == 0
        assert (await ask(served, key, stream=True))[2] == EVENT + b"data: [DONE]\n\n"


async def test_a_verdict_on_the_request_is_the_answer(serve, sqlite_url):
    """A provider's 400 would be the same again."""
    async with Scripted([Request(), MISTAKE, Hold()]) as strict:
        served = await serve(sqlite_url, **provided(strict))
        key = await served.create_key()
        assert [(await ask(served, key))[0] for _ in range(2)] == [400, 400]
        assert len(strict.requests) == 1


async def test_a_limit_is_not_the_answer(serve, provider, sqlite_url):
    """Nothing was done: the row is given up, and the limit decides again."""
    limit = {"scope": "key", "metric": "concurrent", "limit": 0}
    served = await serve(sqlite_url, limits={"defaults": [limit]})
    key = await served.create_key()
    status, headers, _ = await ask(served, key)
    assert (status, headers["x-should-retry"]) == (429, "false")
    assert headers["x-request-id"]
    assert await count(served.gateway.store) == 0
    assert await records(served) == [429]


async def test_who_waits_too_long_is_told(serve, store_url):
    """A first request that another worker is at: 409, and when to come again."""
    go_on = asyncio.Event()
    async with Scripted([Request(), Wait(go_on), REPLY, Hold()]) as slow:
        one = await serve(store_url, **provided(slow))
        two = await serve(store_url, **provided(slow), idempotency={"wait_s": 0.2})
        key = await one.create_key()
        first = asyncio.ensure_future(ask(one, key))
        await eventually(lambda: len(slow.requests) == 1)
        status, headers, body = await ask(two, key)
        assert (status, headers["retry-after"]) == (409, "1")
        assert b"request_in_progress" in body
        go_on.set()
        assert (await first)[0] == 200
        assert (await ask(two, key))[0] == 200
        assert len(slow.requests) == 1


async def test_a_dead_owner_is_followed_by_another(serve, provider, store_url, monkeypatch):
    """Its beat stands still; one that beats is waited for."""
    monkeypatch.setattr(idempotency, "DEAD_S", 1.0)
    served = await serve(store_url)
    key = await served.create_key()
    assert (await ask(served, key))[0] == 200
    store = served.gateway.store
    await store.execute("UPDATE kept_answers SET status = NULL, owner = 'somebody'")
    asking = asyncio.ensure_future(ask(served, key))
    for _ in range(8):
        await asyncio.sleep(0.25)
        await kept_answers.beat(store, "somebody")
    assert not asking.done()
    assert (await asking)[0] == 200
    assert len(provider.requests) == 2
    assert not await kept_answers.keep(
        store, (await store.fetchval("SELECT id FROM kept_answers")), "somebody", status=200
    ), "who wakes up late has no say"


async def test_what_is_too_large_is_told_and_not_kept(serve, sqlite_url):
    """The first client has all of it; nobody pays twice for who asks again."""
    body = EVENT * 200
    async with Scripted([Request(), SSE, *[chunk(EVENT)] * 200, END, Hold()]) as long:
        served = await serve(sqlite_url, **provided(long), idempotency={"max_answer_bytes": 1_000})
        key = await served.create_key()
        assert (await ask(served, key, stream=True))[2] == body + b"data: [DONE]\n\n"
        status, _, text = await ask(served, key, stream=True)
        assert (status, b"answer_not_kept" in text) == (409, True)
        assert len(long.requests) == 1


async def test_answers_are_forgotten_in_time(serve, provider, store_url):
    """By age, and by what they take up, the oldest first."""
    served = await serve(store_url, idempotency={"max_total_bytes": 1_000})
    key, store = await served.create_key(), served.gateway.store
    for name in ("a", "b", "c"):
        await ask(served, key, name=name)
    newest = await store.fetchval("SELECT max(created_at) FROM kept_answers")
    await served.gateway._jobs.look()
    left = await store.fetch("SELECT created_at FROM kept_answers")
    assert [row["created_at"] for row in left] == [newest]
    await store.execute("UPDATE kept_answers SET expires_at = $1", now_ms())
    assert "idempotent-replayed" not in (await ask(served, key, name="c"))[1]
    await store.execute("UPDATE kept_answers SET expires_at = $1", now_ms())
    await served.gateway._jobs.look()
    assert await count(store) == 0


@pytest.mark.parametrize("name", ["", "x" * 256, "caf\u00e9"])
async def test_a_name_is_short_and_plain(serve, provider, sqlite_url, name):
    """Else 400 that names the header."""
    served = await serve(sqlite_url)
    status, _, body = await ask(served, await served.create_key(), name=name)
    assert (status, b"idempotency-key" in body) == (400, True)
    assert provider.requests == []


async def test_without_a_store_nobody_can_promise(serve, provider, sqlite_url, monkeypatch):
    """503 and not a second charge."""
    served = await serve(sqlite_url)
    key = await served.create_key()
    assert (await ask(served, key, name="before"))[0] == 200

    async def away(*_, **__):
        raise idempotency.StoreUnavailable("away", retry_after=1)

    monkeypatch.setattr(kept_answers, "claim", away)
    status, _, body = await ask(served, key)
    assert (status, b"store_unavailable" in body) == (503, True)
    assert len(provider.requests) == 1
    assert await open_and_count(sqlite_url) == 1


async def test_the_header_leads_past_the_fast_lane(serve, provider, sqlite_url):
    """A plan is in memory, and is not for such a request."""
    served = await serve(sqlite_url)
    key = await served.create_key()
    for _ in range(2):
        assert (await served.chat(key))[0] == 200
    for _ in range(2):
        assert (await ask(served, key))[0] == 200
    assert len(provider.requests) == 3
    lanes = served.gateway.describe()["lanes"]["served"]
    assert sum(n for series, n in lanes.items() if 'lane="fast"' in series) == 1
    assert sum(n for series, n in lanes.items() if 'reason="headers"' in series) == 2


async def open_and_count(url):
    store = await open_store(url, migrate=False)
    try:
        return await count(store)
    finally:
        await store.close()
