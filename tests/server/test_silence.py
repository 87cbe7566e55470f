"""What a client of a silent stream gets: signs of life, in time an end, and never half an event.

Its worst day: a sign of life inside an event, a committed head that forbids the fallback that
would have saved the answer, and an error after it that looks like a clean end.
"""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from fastgw.storage.sql import usage_reports
from fastgw.storage.sql.usage_reports import Filter
from tests.scripted import Hold, Pause, Request, Scripted, Wait
from tests.server.conftest import BODY, CHAT, REPLY
from tests.waiting import eventually

ALIVE = b": keep-alive\n\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
NOW_AND_THEN = {"keepalive_s": 0.05, "commit_after_s": 0.05}
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"
MESSAGE = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{}}}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


END = b"0\r\n\r\n"
REFUSED = b'{"error":{"message":"too many cooks"}}'


def whole(status: int) -> bytes:
    lines = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
    return f"{lines}content-length: {len(REFUSED)}\r\n\r\n".encode() + REFUSED


class Stream:
    """A stream as a client reads it."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.seen = b""
        self.broken = False

    async def until(self, wanted: bytes, times: int = 1) -> None:
        """Read until something was seen so often."""
        while self.seen.count(wanted) < times:
            piece = await asyncio.wait_for(self.answer.content.readany(), 10)
            assert piece, f"ended without {wanted!r}: {self.seen!r}"
            self.seen += piece

    async def end(self) -> bytes:
        """Read to the end; give what was no sign of life."""
        try:
            async for piece in self.answer.content.iter_any():
                self.seen += piece
        except aiohttp.ClientPayloadError:
            self.broken = True
        self.answer.close()
        return self.seen.replace(ALIVE, b"")


def provider(scripted: Scripted, **fields):
    """Give the configuration of a provider."""
    base = {"name": "p", "type": "openai_compatible", "models": ["m"]}
    return {"base_url": scripted.url + "/v1", **base, **fields}


async def ask(served, path: str = CHAT, **body) -> Stream:
    """Send a request that asks for a stream."""
    headers = {"authorization": f"Bearer {await served.create_key()}"}
    sent = {**BODY, "stream": True, **body}
    return Stream(await served.client.post(served.url + path, json=sent, headers=headers))


async def the_record(served):
    """Give the only record."""

    async def found():
        rows = usage_reports.export(served.gateway.store, Filter())
        return [record async for record in rows]

    (record,) = await eventually(found)
    return record


async def test_the_head_does_not_wait_forever(serve, sqlite_url):
    """A provider that does not answer: the client gets its head, a comment, then the answer."""
    released = asyncio.Event()
    answer = [HEAD, chunk(EVENT), chunk(USAGE), chunk(DONE), END]
    async with Scripted([Request(), Wait(released), *answer, Hold()]) as slow:
        served = await serve(sqlite_url, providers=[provider(slow)], stream=NOW_AND_THEN)
        stream = await ask(served)
        assert stream.answer.status == 200
        assert stream.answer.content_type == "text/event-stream"
        assert stream.answer.headers["x-fastgw-provider"] == "p"
        await stream.until(ALIVE, 3)
        assert stream.seen == ALIVE * (len(stream.seen) // len(ALIVE))
        released.set()
        assert await stream.end() == EVENT + DONE
        assert not stream.broken
        record = await the_record(served)
    assert (record.status, record.usage_source, record.output_tokens) == (200, "reported", 1)


async def test_a_sign_of_life_never_cuts_an_event(serve, sqlite_url):
    """Half an event waits for its rest however long that takes; comments stand before it."""
    released, ended = asyncio.Event(), asyncio.Event()
    async with Scripted(
        [
            *(Request(), HEAD, chunk(EVENT + EVENT[:20]), Wait(released)),
            *(chunk(EVENT[20:] + b"data: [DO"), Wait(ended), chunk(b"NE]\n\n"), END, Hold()),
        ]
    ) as slow:
        served = await serve(sqlite_url, providers=[provider(slow)], stream=NOW_AND_THEN)
        stream = await ask(served)
        await stream.until(ALIVE, 2)
        released.set()
        await stream.until(EVENT, 2)
        await stream.until(ALIVE, 4)
        ended.set()
        assert await stream.end() == EVENT * 2 + DONE
    pieces = stream.seen.split(b"\n\n")
    assert pieces.pop() == b""
    assert {piece + b"\n\n" for piece in pieces} == {ALIVE, EVENT, DONE}


@pytest.mark.parametrize("status", [429, 500])
async def test_a_comment_does_not_forbid_the_next_deployment(
    serve, sqlite_url, monkeypatch, status
):
    """The head is out, no content is: another provider's answer goes on in the same stream."""
    released = asyncio.Event()
    async with (
        Scripted([Request(), Wait(released), whole(status), Hold()]) as bad,
        Scripted([Request(), HEAD, chunk(EVENT), chunk(DONE), END, Hold()]) as good,
    ):
        deployments = [
            {"provider": "bad", "model": "m", "weight": 2},
            {"provider": "good", "model": "m", "weight": 1},
        ]
        served = await serve(
            sqlite_url,
            providers=[provider(bad, name="bad"), provider(good, name="good")],
            models=[{"name": "both", "deployments": deployments}],
            stream=NOW_AND_THEN,
        )
        monkeypatch.setattr(served.gateway.lane._random, "random", lambda: 0.5)  # the heavier one
        stream = await ask(served, model="both")
        await stream.until(ALIVE)
        released.set()
        assert await stream.end() == EVENT + DONE
        assert not stream.broken
        record = await the_record(served)
    assert (record.status, record.provider, record.attempts) == (200, "good", 2)


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        ([whole(400), Hold()], 400, "invalid_request"),
        ([whole(500), Hold()], 502, "upstream_error"),
        ([REPLY, Hold()], 502, "upstream_error"),
        ([], 502, "upstream_error"),
    ],
)
async def test_an_error_behind_the_head_is_an_event(serve, sqlite_url, answer, status, code):
    """Refused, failed, answered without a stream, gone: said in the stream, and no clean end."""
    released = asyncio.Event()
    async with Scripted([Request(), Wait(released), *answer]) as bad:
        served = await serve(sqlite_url, providers=[provider(bad)], stream=NOW_AND_THEN)
        stream = await ask(served)
        await stream.until(ALIVE)
        released.set()
        event = await stream.end()
        assert stream.broken
        record = await the_record(served)
    told = json.loads(event.removeprefix(b"data: "))["error"]
    assert told["code"] == record.error_code == code
    assert ("too many cooks" in told["message"]) is (bool(answer) and answer[0] is not REPLY)
    assert record.status == status


async def test_an_endless_silence_ends(serve, sqlite_url):
    """stream.idle_timeout_s bounds what signs of life bridge; the provider is let go."""
    settings = {**NOW_AND_THEN, "idle_timeout_s": 0.3}
    async with Scripted([Request(), HEAD, chunk(EVENT + EVENT[:9]), Hold()]) as silent:
        served = await serve(sqlite_url, providers=[provider(silent)], stream=settings)
        stream = await ask(served)
        rest = await stream.end()
        assert stream.broken
        record = await the_record(served)
        await eventually(silent.connections[0].gone.is_set)
    assert rest.startswith(EVENT + b'data: {"error":')
    assert ALIVE in stream.seen
    assert (record.status, record.error_code) == (504, "upstream_timeout")


@pytest.mark.parametrize(
    ("path", "kind", "first", "client_api"),
    [
        ("/v1/messages", "anthropic", MESSAGE, "anthropic"),
        ("/v1/responses", "openai_compatible", b'data: {"type":"response.created"}\n\n', "openai"),
    ],
)
async def test_the_end_is_told_in_the_clients_shape(
    serve, sqlite_url, path, kind, first, client_api
):
    """Messages and Responses have error events of their own."""
    settings = {**NOW_AND_THEN, "idle_timeout_s": 0.2}
    async with Scripted([Request(), HEAD, chunk(first), Hold()]) as silent:
        providers = [provider(silent, type=kind)]
        served = await serve(sqlite_url, providers=providers, stream=settings)
        stream = await ask(served, path, max_tokens=5, input="x")
        rest = await stream.end()
    name, event = rest.removeprefix(first).split(b"\n", 1)
    assert name == b"event: error"
    told = json.loads(event.removeprefix(b"data: "))
    assert told["type"] == "error"
    if client_api == "anthropic":
        assert told["error"]["type"] == "timeout_error"
        assert told["request_id"] == stream.answer.headers["request-id"]
    else:
        assert told["code"] == told["error"]["code"] == "upstream_timeout"


async def test_a_whole_answer_is_waited_for(serve, sqlite_url):
    """Whoever asked for no stream gets no head before its answer is complete."""
    async with Scripted([Request(), Pause(0.4), REPLY, Hold()]) as slow:
        served = await serve(sqlite_url, providers=[provider(slow)], stream=NOW_AND_THEN)
        status, body = await served.chat(await served.create_key())
    assert (status, body["usage"]["total_tokens"]) == (200, 5)


async def test_no_signs_of_life_when_nobody_wants_them(serve, sqlite_url):
    """keepalive_s 0: a stream that has begun stays silent."""
    stream_settings = {"keepalive_s": 0, "commit_after_s": 0.05}
    async with Scripted([Request(), HEAD, chunk(EVENT), Pause(0.3), chunk(DONE), END, Hold()]) as p:
        served = await serve(sqlite_url, providers=[provider(p)], stream=stream_settings)
        stream = await ask(served)
        await stream.end()
    assert stream.seen == EVENT + DONE


async def test_nothing_stays_armed(serve, sqlite_url, provider):
    """After streams and whole answers the pool's one timer rests."""
    served = await serve(sqlite_url, stream=NOW_AND_THEN)
    key = await served.create_key()
    assert (await served.chat(key))[0] == 200
    assert (await served.chat(key, stream=True))[0] == 200
    await served.gateway._pool.close()
    assert served.gateway._pool.deadlines.is_quiet()


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
async def test_both_lanes_say_the_same(serve, sqlite_url, path):
    """The second request of its kind may take the fast lane: a silent provider, then a cut one."""
    released = asyncio.Event()
    first = [Request(), HEAD, chunk(EVENT), chunk(USAGE), END]
    second = [Request(), Wait(released), HEAD, chunk(EVENT), chunk(USAGE), END]
    third = [Request(), HEAD, chunk(EVENT)]
    async with Scripted([*first, *second, *third]) as slow:
        served = await serve(sqlite_url, providers=[provider(slow)], stream=NOW_AND_THEN)
        headers = {"authorization": f"Bearer {await served.create_key()}"}
        sent = {**BODY, "stream": True, "stream_options": {"include_usage": True}}

        async def post() -> Stream:
            return Stream(await served.client.post(served.url + path, json=sent, headers=headers))

        assert await (await post()).end() == EVENT + USAGE
        stream = await post()
        await stream.until(ALIVE, 2)
        released.set()
        assert await stream.end() == EVENT + USAGE
        stream = await post()
        error = (await stream.end()).removeprefix(EVENT)
        assert stream.broken
    assert error.startswith(b"data: {" if path == CHAT else b"event: error\ndata: {")
    assert json.loads(error.split(b"data: ")[1])["error"]["code"] == "upstream_error"


async def test_the_error_of_a_numbered_stream_has_the_next_number(serve, sqlite_url):
    """Clients of Responses put events in order by `sequence_number`; on both lanes."""
    delta = b'data: {"type":"response.output_text.delta","sequence_number":%d,"delta":"%b"}\n\n'
    told = [delta % (number, b'\\"sequence_number\\":99') for number in range(4)]
    usage = b'{"input_tokens":1,"output_tokens":1}'
    done = b'data: {"type":"response.completed","response":{"usage":%b}}\n\n' % usage
    whole = [Request(), HEAD, *map(chunk, told), chunk(done), END]
    cut = [Request(), HEAD, chunk(told[0]), chunk(told[1] + told[2]), chunk(told[3][:9])]
    async with Scripted(cut, [*whole, *cut]) as slow:
        served = await serve(sqlite_url, providers=[provider(slow)])
        headers = {"authorization": f"Bearer {await served.create_key()}"}
        for _ in range(3):
            stream = Stream(
                await served.client.post(
                    served.url + "/v1/responses", json={**BODY, "stream": True}, headers=headers
                )
            )
            text = await stream.end()
            assert stream.broken == (b"completed" not in text)
            if stream.broken:
                event = json.loads(text.rsplit(b"data: ", 1)[1])
                assert (event["type"], event["sequence_number"]) == ("error", 3)
        lanes = served.gateway.describe()["lanes"]["served"]
        assert sum(n for series, n in lanes.items() if 'lane="fast"' in series) == 2
