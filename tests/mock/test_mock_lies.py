"""Every lie about usage is told as its name says, and the log keeps the truth."""

from __future__ import annotations

import pytest

from tests.mock.conftest import ask
from tests.mock.wire import talk

TRUTH = {"prompt": 5, "completion": 8}
DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def counts(prompt, completion, total=None):
    total = prompt + completion if total is None else total
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


TOLD = {
    "mock": counts(5, 8) | DETAILS,
    "mock-usage-more": counts(11, 17) | DETAILS,
    "mock-usage-less": counts(2, 4) | DETAILS,
    "mock-usage-null": None,
    "mock-usage-huge": counts(10**18, 10**18) | DETAILS,
    "mock-usage-negative": counts(-5, -8) | DETAILS,
    "mock-usage-string": counts("5", "8", "13"),
}


@pytest.mark.parametrize("model", TOLD)
async def test_plain(session, mock, model):
    """A plain answer reports what the name says; the log has that and the truth."""
    answer = await session.post("/v1/chat/completions", json=ask(model))
    assert (await answer.json())["usage"] == TOLD[model] == mock.log[0]["reported"]
    assert mock.log[0]["sent"] == mock.log[0]["billed"] == TRUTH


@pytest.mark.parametrize("model", TOLD)
async def test_stream(mock, model):
    """A stream that was asked for usage tells the same in its last event, and nothing before."""
    request = ask(model, stream=True, stream_options={"include_usage": True})
    seen = await talk(mock.url, request)
    assert [chunk["usage"] for chunk in seen.chunks[:-1]] == [None] * 10
    assert seen.chunks[-1]["choices"] == []
    assert seen.chunks[-1]["usage"] == TOLD[model] == mock.log[0]["reported"]
    assert mock.log[0]["sent"] == TRUTH


async def test_none(session, mock):
    """`mock-usage-none` has no usage member anywhere, asked for or not."""
    answer = await session.post("/v1/chat/completions", json=ask("mock-usage-none"))
    assert "usage" not in await answer.json()
    request = ask("mock-usage-none", stream=True, stream_options={"include_usage": True})
    seen = await talk(mock.url, request)
    assert len(seen.chunks) == 10
    assert b"usage" not in seen.body.replace(b"mock-usage", b"")
    assert [line["reported"] for line in mock.log] == [None, None]


@pytest.mark.parametrize("asked", [False, True])
async def test_in_content(mock, asked):
    """`mock-usage-in-content` puts usage in the last event with choices, in none of its own."""
    request = ask("mock-usage-in-content", stream=True, n=2)
    if asked:
        request["stream_options"] = {"include_usage": True}
    seen = await talk(mock.url, request)
    assert [chunk.get("usage") for chunk in seen.chunks[:-1]] == [None] * 19
    assert seen.chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert seen.chunks[-1]["usage"] == counts(5, 16) | DETAILS == mock.log[0]["reported"]


async def test_null_everywhere(mock):
    """`mock-usage-null` has a null in every event even when nobody asked."""
    seen = await talk(mock.url, ask("mock-usage-null", stream=True))
    assert [chunk["usage"] for chunk in seen.chunks] == [None] * 10


async def test_always(mock):
    """`mock-usage-always` sends the usage event unasked."""
    seen = await talk(mock.url, ask("mock-usage-always", stream=True))
    assert seen.chunks[-1]["usage"] == TOLD["mock"]
    assert seen.chunks[-1]["choices"] == []


async def test_running(mock):
    """`mock-usage-running` counts up in every content event."""
    seen = await talk(mock.url, ask("mock-usage-running", stream=True))
    told = [chunk["usage"]["completion_tokens"] for chunk in seen.chunks if "usage" in chunk]
    assert told == list(range(1, 9))
    assert mock.log[0]["reported"]["completion_tokens"] == 8


async def test_cached(session):
    """`cached` reports prompt tokens as cached, never more than there were."""
    for asked, told in ((3, 3), (99, 5)):
        answer = await session.post("/v1/chat/completions", json=ask(f"mock?cached={asked}"))
        usage = (await answer.json())["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == told


@pytest.mark.parametrize("stream", [False, True])
async def test_ignore_max(mock, stream):
    """`mock-ignore-max` answers in full whatever the maximum says."""
    await talk(mock.url, ask("mock-ignore-max", max_tokens=2, stream=stream))
    assert mock.log[0]["sent"]["completion"] == 8


async def test_cut_before_usage_reports_nothing(mock):
    """A usage event that never left whole is not logged as reported."""
    request = ask("mock-cut", stream=True, stream_options={"include_usage": True})
    await talk(mock.url, request)
    assert mock.log[0]["reported"] is None
