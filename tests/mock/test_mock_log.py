"""The log is the truth: what was received and sent to the byte, who left and when."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest

from fastgw.mock import credential_mark
from fastgw.mock.log import Log
from tests.mock.conftest import KEY, ask, open_client
from tests.mock.wire import send, talk
from tests.waiting import eventually


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "model", ["mock", "mock?non_ascii=1&delay_ms=1", "mock-404", "mock-garbage"]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_line_agrees_with_what_was_received(session, mock, model, stream):
    """Request and answer are logged to the byte, with their hashes."""
    body = json.dumps(ask(model, "größer 👋", stream=stream), ensure_ascii=False).encode()
    answer = await session.post("/v1/chat/completions?a=b", data=body)
    received = await answer.read()
    line = await eventually(lambda: mock.log and mock.log[0])
    assert line["body"].encode() == body
    assert (line["body_bytes"], line["body_sha256"]) == (len(body), sha(body))
    assert (line["bytes"], line["answer_sha256"]) == (len(received), sha(received))
    assert (line["method"], line["path"]) == ("POST", "/v1/chat/completions?a=b")
    assert (line["model"], line["stream"], line["status"]) == (model, stream, answer.status)
    assert answer.headers["x-request-id"] == line["id"]
    assert line["ended"] == "complete"
    assert line["gone_ms"] is None


async def test_stream_counts(mock):
    """Events, chunks and tokens of a stream are those that were received."""
    request = ask("mock", stream=True, n=2, stream_options={"include_usage": True})
    seen = await talk(mock.url, request)
    line = await eventually(lambda: mock.log and mock.log[0])
    assert line["events"] == len(seen.events) == 2 + 16 + 2 + 1 + 1
    assert line["chunks"] == line["sent"]["completion"] == len(seen.text.split()) + 1
    assert line["answer_id"] == seen.chunks[0]["id"]
    assert line["reported"] == seen.chunks[-1]["usage"]


async def test_credentials_are_masked(mock):
    """Headers are logged as they came but for credentials, which are comparable and unusable."""
    async with open_client(
        mock.base_url,
        default_headers={"X-Api-Key": "sk-other", "Cookie": "a=sk-crumb"},
    ) as client:
        await client.chat.completions.create(**ask())
    line = mock.log[0]
    headers = {name.lower(): value for name, value in line["headers"]}
    assert headers["authorization"] == f"Bearer {credential_mark(KEY)}"
    assert headers["x-api-key"] == credential_mark("sk-other")
    assert headers["user-agent"].startswith("AsyncOpenAI")
    assert line["credential"] == credential_mark(KEY)
    for secret in (KEY, "sk-other", "sk-crumb"):
        assert secret not in json.dumps(line)


async def test_body_that_is_not_text(session, mock):
    """A body that is no UTF-8 is logged in base64."""
    await session.post("/v1/chat/completions", data=b"\xff\x00")
    assert mock.log[0]["body"] == {"base64": "/wA="}


async def test_compressed_body_is_logged_as_received(session, mock):
    """A content coding is not undone."""
    await session.post(
        "/v1/chat/completions", data=b"\x1f\x8b\x08", headers={"content-encoding": "gzip"}
    )
    assert mock.log[0]["body_sha256"] == sha(b"\x1f\x8b\x08")


async def test_begin_line(mock):
    """An exchange is known from the moment its request was read."""
    _, writer = await send(mock.url, ask("mock-stall", stream=True))
    line = await eventually(lambda: mock.log.open and mock.log.open[0])
    assert (line["event"], line["model"], line["stream"]) == ("begin", "mock-stall", True)
    writer.transport.abort()
    end = await eventually(lambda: mock.log and mock.log[0])
    assert (end["event"], end["id"]) == ("end", line["id"])
    assert mock.log.open == []


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize(
    ("model", "stream"),
    [
        ("mock-stall-head", False),
        ("mock-stall", False),
        ("mock-stall?after=2", True),
        ("mock?latency_ms=60000", False),
        ("mock?latency_ms=60000", True),
        ("mock?chunks=9&delay_ms=60000", True),
    ],
)
async def test_client_gone(mock, model, stream, how):
    """A client that leaves is noticed whatever the mock was doing, and logged so."""
    _, writer = await send(mock.url, ask(model, stream=stream))
    await eventually(lambda: mock.log.open)
    if how == "reset":
        writer.transport.abort()
    else:
        writer.close()
    line = await eventually(lambda: mock.log and mock.log[0])
    assert line["ended"] == "client_gone"
    assert 0 < line["gone_ms"] <= line["ms"]
    assert line["billed"] == line["sent"]


async def test_client_gone_counts_what_was_sent(mock):
    """Tokens of a client that left mid-stream are those that were written, no more."""
    reader, writer = await send(mock.url, ask("mock?chunks=1000&delay_ms=5", stream=True))
    raw = b""
    while raw.count(b'"content"') < 6:
        raw += await reader.read(1 << 16)
    writer.transport.abort()
    line = await eventually(lambda: mock.log and mock.log[0])
    assert 5 <= line["sent"]["completion"] < 1000
    assert line["sent"] == line["billed"]
    assert line["chunks"] == line["sent"]["completion"]


async def test_client_gone_while_sending(mock):
    """A client that leaves inside its own request is logged, without a model."""
    host, port = mock.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
    await writer.drain()
    writer.close()
    line = await eventually(lambda: mock.log and mock.log[0])
    assert (line["ended"], line["model"], line["body_bytes"]) == ("client_gone", None, 0)


@pytest.mark.parametrize(
    ("model", "stream"),
    [
        ("mock-late?latency_ms=120", False),
        ("mock-late?latency_ms=120", True),
        ("mock-late?delay_ms=15", True),
    ],
)
async def test_late(mock, model, stream):
    """`mock-late` goes on after its client left and logs what it would have billed."""
    reader, writer = await send(mock.url, ask(model, stream=stream))
    await eventually(lambda: mock.log.open)
    if "delay" in model:
        await reader.readuntil(b'"content":"')
    writer.transport.abort()
    line = await eventually(lambda: mock.log and mock.log[0])
    assert line["ended"] == "client_gone"
    assert line["billed"] == {"prompt": 5, "completion": 8}
    assert line["sent"]["completion"] < 8
    assert line["gone_ms"] < line["ms"]
    assert line["ms"] > 100


async def test_late_with_a_client_that_stays(mock):
    """`mock-late` is honest to a client that stays."""
    seen = await talk(mock.url, ask("mock-late", stream=True))
    line = await eventually(lambda: mock.log and mock.log[0])
    assert len(seen.text.split()) == line["sent"]["completion"] == line["billed"]["completion"] == 8
    assert line["ended"] == "complete"


async def test_stop_ends_what_is_open(start_mock):
    """A server that stops cuts its clients and logs their exchanges as stopped."""
    mock = await start_mock()
    models = ("mock-stall", "mock-stall-head", "mock?delay_ms=60000")
    connections = [await send(mock.url, ask(model, stream=True)) for model in models]
    await eventually(lambda: len(mock.log.open) == 3)
    await mock.stop()
    assert [line["ended"] for line in mock.log] == ["stopped"] * 3
    for reader, writer in connections:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1 << 20)
        writer.close()


async def test_log_over_http(session, mock):
    """GET /mock/log shows what is over and what is open, DELETE forgets the former."""
    await session.post("/v1/chat/completions", json=ask())
    _, writer = await send(mock.url, ask("mock-stall"))
    await eventually(lambda: mock.log.open)
    shown = await (await session.get("/mock/log")).json()
    assert shown == {"exchanges": [mock.log[0]], "open": mock.log.open, "dropped": 0}
    assert (await (await session.delete("/mock/log")).json()) == {"forgotten": 1}
    assert list(mock.log) == []
    assert len(mock.log.open) == 1
    writer.transport.abort()


def test_memory_is_bounded():
    """The oldest lines leave memory when there are too many, and are counted."""
    log = Log(memory=1000)
    for number in range(100):
        log.end({"id": f"x{number}", "text": "a" * 80})
    assert 1 < len(log) < 12
    assert log[-1]["id"] == "x99"
    assert [line["id"] for line in log[-2:]] == ["x98", "x99"]
    assert log.dropped == 100 - len(log)
