"""Every fault does what its name says, on the wire and to the official client."""

from __future__ import annotations

import json
import re
import time

import aiohttp
import openai
import pytest

from fastgw.mock.behaviour import NAMED, ModelNameError, read_model
from fastgw.mock.options import Options
from tests.mock.conftest import ask
from tests.mock.wire import talk
from tests.waiting import eventually

ERRORS = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", ERRORS)
async def test_statuses(client, mock, status, stream):
    """`mock-<status>` is refused with that status, the client's error class, and costs nothing."""
    with pytest.raises(ERRORS[status]) as raised:
        await client.chat.completions.create(**ask(f"mock-{status}", stream=stream))
    assert raised.value.status_code == status
    assert raised.value.body.keys() == {"message", "type", "param", "code"}
    assert mock.log[0]["status"] == status
    assert mock.log[0]["billed"] == {"prompt": 0, "completion": 0}
    assert mock.log[0]["ended"] == "complete"


@pytest.mark.parametrize(
    ("model", "value"),
    [("mock-429", "1"), ("mock-429?retry_after=7.5", "7.5"), ("mock?status=429", None)],
)
async def test_retry_after(session, model, value):
    """429 carries retry-after, the one asked for if any."""
    answer = await session.post("/v1/chat/completions", json=ask(model))
    assert answer.headers.get("retry-after") == value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["cut", "reset"])
async def test_broken_off(mock, fault, stream):
    """`mock-cut` and `mock-reset` end inside an event or a body, framing unfinished."""
    seen = await talk(mock.url, ask(f"mock-{fault}", stream=stream))
    assert seen.status == 200
    assert seen.end == {"cut": "eof", "reset": "reset"}[fault]
    line = await eventually(lambda: mock.log and mock.log[0])
    assert line["ended"] == fault
    assert line["bytes"] == len(seen.body) > 0
    if stream:
        assert len(seen.text.split()) == line["sent"]["completion"] == 4
        assert not seen.body.endswith(b"\n\n")
        assert b"[DONE]" not in seen.body
    else:
        with pytest.raises(ValueError):
            json.loads(seen.body)
        assert line["sent"]["completion"] == 0
        assert line["billed"]["completion"] == 8


@pytest.mark.parametrize("after", [0, 1, 8, 100])
async def test_after(mock, after):
    """`after` counts whole content chunks; however late, [DONE] never gets through."""
    request = ask(f"mock-cut?after={after}", stream=True, stream_options={"include_usage": True})
    seen = await talk(mock.url, request)
    assert len(seen.text.split()) == min(after, 8)
    assert b"[DONE]" not in seen.body
    if after == 100:
        assert seen.chunks[-1]["usage"]["completion_tokens"] == 8
        assert seen.body.endswith(b"data: [")


@pytest.mark.parametrize("fault", ["cut", "reset"])
@pytest.mark.parametrize("stream", [False, True])
async def test_broken_off_to_the_client(client, fault, stream):
    """The official client takes a broken answer for a connection error."""

    async def call():
        answer = await client.chat.completions.create(**ask(f"mock-{fault}", stream=stream))
        if stream:
            async for _ in answer:
                pass

    with pytest.raises(openai.APIConnectionError):
        await call()


@pytest.mark.parametrize(
    ("model", "stream", "events"),
    [
        ("mock-stall", True, 0),
        ("mock-stall", False, 0),
        ("mock-stall?after=3", True, 4),
    ],
)
async def test_stall(mock, model, stream, events):
    """`mock-stall` gives a head, some chunks when asked, then silence until the client leaves."""
    seen = await talk(mock.url, ask(model, stream=stream), silence=0.2)
    assert (seen.status, seen.end) == (200, "silent")
    assert len(seen.events) == events
    line = await eventually(lambda: mock.log and mock.log[0])
    assert line["ended"] == "client_gone"


@pytest.mark.parametrize("stream", [False, True])
async def test_stall_head(mock, stream):
    """`mock-stall-head` never answers at all."""
    seen = await talk(mock.url, ask("mock-stall-head", stream=stream), first=0.2)
    assert (seen.head, seen.end) == (b"", "silent")
    line = await eventually(lambda: mock.log and mock.log[0])
    assert (line["ended"], line["status"], line["bytes"]) == ("client_gone", 0, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_garbage(session, stream):
    """`mock-garbage` is a 200 HTML page; `mock-garbage-json` claims to be right and is not."""
    page = await session.post("/v1/chat/completions", json=ask("mock-garbage", stream=stream))
    assert (page.status, page.content_type) == (200, "text/html")
    assert (await page.text()).startswith("<!doctype html>")
    answer = await session.post(
        "/v1/chat/completions", json=ask("mock-garbage-json", stream=stream)
    )
    assert answer.content_type == ("text/event-stream" if stream else "application/json")
    with pytest.raises(ValueError):
        json.loads((await answer.text()).removeprefix("data: "))


@pytest.mark.parametrize(
    ("model", "words", "done"),
    [
        ("mock-error-event", 4, False),
        ("mock-error-event?after=0", 0, False),
        ("mock-error-event?done=1", 4, True),
        ("mock-error-event?after=100", 8, False),
    ],
)
async def test_error_event(mock, client, model, words, done):
    """`mock-error-event` streams some chunks, then an error event, and ends its framing cleanly."""
    seen = await talk(mock.url, ask(model, stream=True))
    assert seen.end == "whole"
    assert len(seen.text.split()) == words
    assert seen.chunks[-1]["error"]["type"] == "server_error"
    assert seen.body.endswith(b"data: [DONE]\n\n") == done
    with pytest.raises(openai.APIError, match="had an error"):
        async for _ in await client.chat.completions.create(**ask(model), stream=True):
            pass


async def test_error_body(session):
    """`mock-error-event` without a stream is a 200 whose body is an error."""
    answer = await session.post("/v1/chat/completions", json=ask("mock-error-event"))
    assert (answer.status, list(await answer.json())) == (200, ["error"])


async def test_pace(mock):
    """Chunks wait for their delay; the head, the role and what follows the last do not."""
    begin = time.perf_counter()
    seen = await talk(mock.url, ask("mock?chunks=5&delay_ms=40", stream=True))
    assert len(seen.text.split()) == 5
    assert time.perf_counter() - begin > 0.155
    assert read_model("mock-slow", Options()).chunk_delay_ms == 1000


async def test_latency(mock):
    """The head waits for the latency."""
    seen = await talk(mock.url, ask("mock-503?latency_ms=80"))
    assert seen.status == 503
    assert mock.log[0]["ms"] > 79


async def test_error_rate(start_mock):
    """A share of requests fails, the same ones under the same seed, and trying again can help."""
    runs = []
    for _ in range(2):
        mock = await start_mock(error_rate=0.5, seed=7, chunks=1)
        async with aiohttp.ClientSession(mock.url) as session:
            for _ in range(40):
                await session.post("/v1/chat/completions", json=ask())
        runs.append([line["status"] for line in mock.log])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 429, 500, 503}
    assert 10 <= runs[0].count(200) <= 30


@pytest.mark.parametrize("model", NAMED)
def test_names_are_read(model):
    """Every listed name is read, with parameters of its own too."""
    assert read_model(model, Options()) == read_model(f"{model}?chunks=20", Options())


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("mock?", "''"),
        ("mock?chunks", "'chunks'"),
        ("mock?chunk=5", "'chunk=5'"),
        ("mock?chunks=5&chunks=6", "chunks occurs twice"),
        ("mock?chunks=-1", "chunks must be"),
        ("mock?chunks=5.0", "chunks must be"),
        ("mock?chunks=٣", "chunks must be"),
        ("mock?delay_ms=1e3", "delay_ms must be"),
        ("mock?delay_ms=-1", "delay_ms must be"),
        ("mock?delay_ms=nan", "delay_ms must be"),
        ("mock?status=200", "status must be"),
        ("mock?usage=maybe", "exact, more, less"),
        ("mock?late=yes", "late must be 0 or 1"),
        ("mock?a=1&", "'a=1'"),
    ],
)
async def test_parameters_are_strict(session, model, named):
    """A parameter that is unknown, repeated or malformed is refused with a 400 that says which."""
    with pytest.raises(ModelNameError, match=re.escape(named)):
        read_model(model, Options())
    answer = await session.post("/v1/chat/completions", json=ask(model))
    assert answer.status == 400
    assert named in (await answer.json())["error"]["message"]


@pytest.mark.parametrize(
    "options",
    [{"error_rate": 1.5}, {"latency_ms": -1}, {"chunks": -1}, {"port": 70000}],
)
def test_options_are_checked(options):
    """An option out of range is refused by name."""
    name = next(iter(options)).replace("_", "-")
    with pytest.raises(ValueError, match=name):
        Options(**options)
