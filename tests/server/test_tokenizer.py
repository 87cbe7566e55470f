"""The tokenizer process: started on first need, one a folder, and never missed when it dies.

Its worst day: it is killed while it counts, it hangs, it cannot be started at all. An exchange that
waits for it is closed all the same, with what the estimator says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fastgw.catalog import tokens
from fastgw.domain import UsageRecord
from fastgw.server import tokenizer as tokenizer_module
from fastgw.server.tokenizer import Counts, Tokenizer
from fastgw.server.tokenizing import Question
from tests.scripted import Close, Hold, Request, Scripted
from tests.server.conftest import BODY, CHAT, Serve, Served
from tests.waiting import eventually

PROMPT = json.dumps({"messages": [{"role": "user", "content": "Say hello to the world."}]}).encode()


@pytest.fixture
async def tokenizer(tmp_path: Path) -> AsyncIterator[Tokenizer]:
    """A worker's way to the tokenizer of a fresh folder."""
    made = Tokenizer(tmp_path)
    yield made
    await made.close()


def text(number: int) -> Question:
    return Question("text", "gpt-4o", b"word " * number)


def pid_of(tokenizer: Tokenizer) -> int:
    assert tokenizer._process is not None
    return tokenizer._process.pid


async def test_it_counts_as_the_catalogue_does(tokenizer):
    """Prompts, answers with their escapes, plain text; what cannot be read has no count."""
    assert await tokenizer.count(Question("prompt", "gpt-4o", PROMPT)) == tokens.prompt(
        PROMPT, "gpt-4o"
    )
    said = json.dumps('Grüße\n"du" 😀')[1:-1].encode()
    assert await tokenizer.count(Question("answer", "gpt-4", said, 2)) == tokens.answer(
        'Grüße\n"du" 😀', 2, "gpt-4"
    )
    assert await tokenizer.count(text(3)) == 4
    assert await tokenizer.count(Question("answer", "gpt-4o", rb"\ud83d")) is None
    assert await tokenizer.count(Question("prompt", "gpt-4o", b"[")) is None
    assert await tokenizer.count(text(3)) == 4, "and it is still there"


async def test_workers_share_one(tmp_path):
    """Two that need it at the same moment end up with the same process."""
    both = [Tokenizer(tmp_path), Tokenizer(tmp_path)]
    assert await asyncio.gather(*(each.count(text(5)) for each in both)) == [6, 6]
    processes = [each._process for each in both if each._process is not None]

    def alive() -> int:
        return sum(process.returncode is None for process in processes)

    await eventually(lambda: alive() == 1)
    for each in both:
        await each.close()
    assert alive() == 0


async def test_a_killed_one_is_replaced(tokenizer):
    """The next question starts another."""
    assert await tokenizer.count(text(1)) == 2
    for number in (2, 3):
        killed = pid_of(tokenizer)
        os.kill(killed, signal.SIGKILL)
        assert await tokenizer.count(text(number)) == number + 1
        assert pid_of(tokenizer) != killed


async def test_one_that_hangs_is_not_waited_for_twice(tokenizer, monkeypatch):
    """The first question waits its time, those behind it none."""
    assert await tokenizer.count(text(1)) == 2
    monkeypatch.setattr(tokenizer_module, "_ANSWER_S", 0.2)
    os.kill(pid_of(tokenizer), signal.SIGSTOP)
    try:
        asked = [asyncio.ensure_future(tokenizer.count(text(n))) for n in range(2, 200)]
        async with asyncio.timeout(10):
            assert set(await asyncio.gather(*asked)) == {None}
    finally:
        os.kill(pid_of(tokenizer), signal.SIGCONT)
    monkeypatch.setattr(tokenizer_module, "_ANSWER_S", 20)
    tokenizer._rest_until = 0.0
    assert await tokenizer.count(text(3)) == 4


async def test_none_at_all(tmp_path, monkeypatch):
    """A machine that starts no process: no count, and no error."""
    monkeypatch.setattr(tokenizer_module.sys, "executable", str(tmp_path / "missing"))
    monkeypatch.setattr(tokenizer_module, "_START_S", 0.5)
    tokenizer = Tokenizer(tmp_path)
    assert await tokenizer.count(text(1)) is None
    await tokenizer.close()


def test_counts_are_kept_for_a_while():
    """As many as there is room for, the latest ones, until they are too old."""
    counts = Counts(size=2, ttl_s=1000)
    for number in range(3):
        counts.keep(b"%d" % number, number)
    assert [counts.find(b"%d" % number) for number in range(3)] == [None, 1, 2]
    assert len(counts) == 2
    old = Counts(ttl_s=-1)
    old.keep(b"x", 1)
    assert old.find(b"x") is None


# Exchanges whose usage nobody reported.

WORDS = ("Hel", "lo, ", "dear", " world", "! How", " are you?")
EVENTS = b"".join(
    b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": {"content": word}}]}).encode()
    for word in WORDS
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM = HEAD + b"%x\r\n%b\r\n" % (len(EVENTS), EVENTS)
WHOLE = HEAD + b"%x\r\n%bdata: [DONE]\n\n\r\n0\r\n\r\n" % (len(EVENTS) + 14, EVENTS)
MESSAGE = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "".join(WORDS)}}]}
PLAIN = json.dumps(MESSAGE).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(PLAIN),
    PLAIN,
)
SCRIPTS = {
    "stream": ([Request(), WHOLE] * 6 + [Hold()], True, "estimated"),
    "broken": ([Request(), STREAM, Close()], True, "partial"),
    "plain": ([Request(), ANSWER] * 6 + [Hold()], False, "estimated"),
}


def watch(served: Served) -> list[UsageRecord]:
    """Give the list that the gateway's records will be in."""
    seen: list[UsageRecord] = []
    before: Any = served.gateway.context.record

    def record(each: UsageRecord) -> None:
        seen.append(each)
        if before is not None:
            before(each)

    served.gateway.context.record = record
    return seen


async def ask(served: Served, key: str, stream: bool) -> None:
    headers = {"authorization": f"Bearer {key}"}
    asked = {**BODY, "stream": stream}
    async with served.client.post(served.url + CHAT, json=asked, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        with contextlib.suppress(aiohttp.ClientPayloadError):  # a stream that broke
            await answer.content.read()


def expected(stream: bool) -> tuple[int, int]:
    asked = json.dumps({**BODY, "stream": stream}).encode()
    return tokens.prompt(asked, "m"), tokens.answer("".join(WORDS), 0, "m")


@pytest.mark.parametrize("kind", SCRIPTS)
async def test_what_nobody_reported_is_counted(kind, serve: Serve, provider, sqlite_url):
    """In both lanes, streams that ended well or ill and plain answers: exactly what went out."""
    script, stream, source = SCRIPTS[kind]
    async with Scripted(script) as silent:
        config = {"name": "p", "type": "openai_compatible", "base_url": silent.url + "/v1",
                  "models": ["m"]}  # fmt: skip
        served = await serve(sqlite_url, providers=[config])
        key = await served.create_key()
        records = watch(served)
        for _ in range(3):
            await ask(served, key, stream)
        await eventually(lambda: len(records) == 3, 20)
    assert {record.usage_source for record in records} == {source}
    assert {(each.input_tokens, each.output_tokens) for each in records} == {expected(stream)}


async def test_no_exchange_is_lost_with_the_tokenizer(
    serve: Serve, provider, sqlite_url, monkeypatch
):
    """It is stopped while exchanges wait and the gateway drains: all are recorded, estimated."""
    monkeypatch.setattr(tokenizer_module, "_ANSWER_S", 0.3)
    script, stream, _ = SCRIPTS["stream"]
    async with Scripted(script) as silent:
        config = {"name": "p", "type": "openai_compatible", "base_url": silent.url + "/v1",
                  "models": ["m"]}  # fmt: skip
        served = await serve(sqlite_url, providers=[config])
        key = await served.create_key()
        records = watch(served)
        assert await served.gateway.tokenizer.count(text(1)) == 2
        stopped = pid_of(served.gateway.tokenizer)
        os.kill(stopped, signal.SIGSTOP)
        try:
            for _ in range(4):
                await ask(served, key, stream)
            async with asyncio.timeout(10):
                await served.gateway.recounts.settled()
        finally:
            os.kill(stopped, signal.SIGCONT)
    assert len(records) == 4
    assert {record.usage_source for record in records} == {"estimated"}
    assert all(record.input_tokens > 0 and record.output_tokens > 0 for record in records)
    assert served.gateway._board.read()['fastgw_dropped_total{what="token_counts"}'] >= 4
