"""The replay server plays what was recorded, however it is cut, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
import random

import aiohttp
import pytest

from tests.corpora import recordings
from tests.mock.conftest import ask, open_client
from tests.replay import Replay, cut, recorded_body, take_request
from tests.waiting import eventually


def exchange(name="a", body="{}", *, stream=False, status=200, **headers):
    return {
        "id": name,
        "stream": stream,
        "response": {
            "status": status,
            "headers": {"content-type": "text/plain", "Content-Length": "999"} | headers,
            "body_encoding": "utf8",
            "body": body,
        },
    }


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize("segments", ["whole", "random", 1, 2, 1500])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_same_bytes_however_cut(session, segments, framing):
    """Every framing and segmentation delivers the recorded body, status and headers."""
    body = "data: {größer 👋}\n\n" * 150
    async with Replay([exchange(body=body, status=201, x="y")], segments, framing) as provider:
        answer = await session.get(provider.base_url("a") + "/anything")
        assert await answer.text() == body
        assert (answer.status, answer.headers["x"]) == (201, "y")
        assert provider.asked("a")[0].answered


@pytest.mark.parametrize("segments", ["whole", "random", 1, 2, 1500])
def test_cuts_are_complete_and_repeatable(segments):
    """Pieces join to the whole; the same seed cuts alike."""
    data = bytes(range(256)) * 20
    pieces = cut(data, segments, random.Random(3))
    assert b"".join(pieces) == data
    assert pieces == cut(data, segments, random.Random(3))
    if isinstance(segments, int):
        assert {len(piece) for piece in pieces[:-1]} == {segments}


async def test_how_an_exchange_is_found(session):
    """By path, by header, by model, else in order; an unknown id is 404, not the next in order."""
    exchanges = [exchange(name, name) for name in "abcd"]
    async with Replay(exchanges) as provider:
        url = provider.base_url() + "/chat/completions"

        async def text(url, headers=None, **body):
            answer = await session.post(url, json=body, headers=headers)
            return (await answer.text()) if answer.status == 200 else answer.status

        assert await text(provider.base_url("c") + "/x") == "c"
        assert await text(url, {"x-replay": "d"}) == "d"
        assert await text(url, model="b") == "b"
        assert [await text(url, model="other") for _ in range(5)] == ["a", "b", "c", "d", 404]
        assert await text(provider.base_url("z") + "/x") == 404
        assert len(provider.unmatched) == 2


async def test_request_is_kept(session):
    """Method, path, header order and case, and the body are kept to the byte, chunked or not."""

    async def pieces():
        yield b'{"a":'
        yield b" 1}"

    async with Replay([exchange("a"), exchange("b")]) as provider:
        for data in (b'{"a": 1}', pieces()):
            await session.put(provider.url + "/p?q=%20", data=data, headers={"X-ReQ": "1"})
        for request in provider.received:
            assert (request.method, request.path) == ("PUT", "/p?q=%20")
            assert request.body == b'{"a": 1}'
            assert (b"X-ReQ", b"1") in request.headers
            assert request.header("x-req") == "1"
        assert [request.connection for request in provider.received] == [0, 0]


async def test_expect_is_answered(session):
    """A client that expects 100-continue gets it before its body."""
    async with Replay([exchange("a", "ok")]) as provider:
        answer = await session.post(provider.url, data=b"x" * 5000, expect100=True)
        assert await answer.text() == "ok"
        assert len(provider.received[0].body) == 5000


def test_a_request_in_pieces():
    """Nothing is taken before it is whole, and what follows stays."""
    wire = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    for end in range(len(wire)):
        assert take_request(bytearray(wire[:end])) is None
    buffer = bytearray(wire + b"GET")
    assert take_request(buffer).body == b"abc"
    assert buffer == b"GET"


async def test_abandoned():
    """A client that leaves before the end is noted."""
    big = exchange("a", "x" * (64 << 20))
    async with Replay([big], "whole") as provider:
        host, port = provider.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read(10)
        writer.transport.abort()
        await eventually(lambda: not provider._connections)
        assert provider.received[0].answered


@pytest.mark.parametrize("provider_file", ["openai", "groq"])
async def test_recordings_reach_the_client(session, provider_file):
    """Recorded chat answers arrive byte for byte, with their status and headers."""
    exchanges = [
        one
        for one in recordings(provider_file, "chat_completions")
        if one["request"]["body"] is not None
    ]
    async with Replay(exchanges) as provider:
        for recorded in exchanges[:60]:
            answer = await session.post(
                provider.base_url(recorded["id"]) + "/chat/completions",
                json=recorded["request"]["body"],
            )
            assert await answer.read() == recorded_body(recorded)
            assert answer.status == recorded["response"]["status"]
            asked = provider.asked(recorded["id"])[0]
            assert json.loads(asked.body) == recorded["request"]["body"]


async def test_recorded_stream_to_the_official_client():
    """The official client reads a recorded stream, cut anywhere."""
    recorded = next(
        one
        for one in recordings("openai", "chat_completions")
        if one["stream"] and one["response"]["status"] == 200 and "usage" in one["features"]
    )
    texts = set()
    for segments in ("whole", "random", 1):
        async with Replay([recorded], segments) as provider:
            url = provider.base_url(recorded["id"])
            async with open_client(url) as client:
                stream = await client.chat.completions.create(**ask(), stream=True)
                texts.add("".join([chunk.model_dump_json() async for chunk in stream]))
    assert len(texts) == 1
