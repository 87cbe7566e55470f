"""The command as a process, on its own loop (uvloop): serving, faults, signals, the log file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import aiohttp
import openai
import pytest

from tests.mock.conftest import KEY, ask
from tests.mock.wire import send, talk
from tests.waiting import eventually, eventually_sync

SERVE = "from fastgw.mock import Options, serve; serve(Options(log={log!r}, chunks=3))"


@pytest.fixture
def process(tmp_path):
    """The command as a process, its base URL and its log file."""
    path = tmp_path / "mock.jsonl"
    command = [sys.executable, "-c", SERVE.format(log=str(path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        line = child.stdout.readline()
        assert line.startswith("mock provider on http://127.0.0.1:")
        yield child, line.split()[-1], path
        child.kill()


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_command(process):
    """The command serves, logs to a private file, and ends on SIGTERM with nothing left open."""
    child, base_url, path = process
    with openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0, timeout=10) as client:
        client.chat.completions.create(**ask())
        stream = client.chat.completions.create(**ask("mock-stall?after=1"), stream=True)
        next(iter(stream))
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
        with pytest.raises(openai.APIConnectionError):
            list(stream)
    lines = read_lines(path)
    assert [line["event"] for line in lines] == ["begin", "end", "begin", "end"]
    assert [line.get("ended") for line in lines] == [None, "complete", None, "stopped"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_killed_command_leaves_whole_lines(process):
    """kill -9 leaves a file of whole lines that says what had begun and what was over."""
    child, base_url, path = process
    with openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0, timeout=10) as client:
        client.chat.completions.create(**ask())
        stream = client.chat.completions.create(**ask("mock-stall?after=1"), stream=True)
        next(iter(stream))
        child.kill()
        child.wait(10)
        with pytest.raises(openai.APIConnectionError):
            list(stream)
    lines = eventually_sync(lambda: read_lines(path))
    assert [(line["event"], line["model"]) for line in lines] == [
        ("begin", "mock"),
        ("end", "mock"),
        ("begin", "mock-stall?after=1"),
    ]


@pytest.fixture(scope="module")
def url():
    """The URL of a process that many tests share."""
    command = [sys.executable, "-c", SERVE.format(log=None)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        yield child.stdout.readline().split()[-1].removesuffix("/v1")
        child.terminate()
        assert child.wait(10) == 0


async def logged(url, model, where="exchanges"):
    """Give the log line of an exchange, over HTTP."""

    async def look():
        async with aiohttp.ClientSession(url) as session:
            shown = await (await session.get("/mock/log")).json()
        return next((line for line in shown[where] if line["model"] == model), None)

    return await eventually(look)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "end", "ended"),
    [
        ("mock", "whole", "complete"),
        ("mock-cut", "eof", "cut"),
        ("mock-reset", "reset", "reset"),
        ("mock-stall", "silent", "client_gone"),
        ("mock-stall-head", "silent", "client_gone"),
    ],
)
async def test_faults(url, model, stream, end, ended):
    """Faults are the same on this loop as on the other."""
    name = f"{model}?chunks={5 + stream}"
    silent = {"silence": 0.2} if model == "mock-stall" else {"first": 0.2}
    seen = await talk(url, ask(name, stream=stream), **(silent if end == "silent" else {}))
    assert seen.end == end
    assert (await logged(url, name))["ended"] == ended


@pytest.mark.parametrize("leave", ["mid-stream", "before the head"])
async def test_client_gone(url, leave):
    """A client that leaves is noticed here too."""
    name = "mock?chunks=9&delay_ms=60000" if leave == "mid-stream" else "mock?latency_ms=60000"
    reader, writer = await send(url, ask(name, stream=True))
    await logged(url, name, "open")
    if leave == "mid-stream":
        await reader.readuntil(b'"content":"')
        writer.close()
    else:
        writer.transport.abort()
    assert (await logged(url, name))["ended"] == "client_gone"


async def test_slow_reader(url):
    """A gigabyte for a client that does not read stays unmade here too."""
    name = "mock?chunks=1000000&chunk_bytes=1000"
    _, writer = await send(url, ask(name, stream=True))
    assert (await talk(url, ask(stream=True))).end == "whole"
    writer.transport.abort()
    assert (await logged(url, name))["bytes"] < 32 << 20
