"""What fastgw's own code costs, without sockets: CPU of this process a request and a chunk.

`python -m bench.gauge` makes a whole worker in this process, with everything on (a key, three
limits, two budgets, usage records), and drives one connection's protocol object by hand: both the
client's and the provider's transport are fakes that take bytes and keep the last. What is left is
the gateway's own work and, in a lane that needs it, the turns of the event loop. The kernel's work,
uvloop's transports and the writing of records to a database are not in it.

Nothing is asserted: the figure is printed in CI, so that a change of it can be seen. It is CPU
time, the smallest of several batches, and where the machine has a counter, instructions, which
hardly vary at all.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import uvloop

from bench.governed import MODEL, PROVIDER_TYPE, govern
from bench.instructions import Instructions
from fastgw import _ext
from fastgw._ext import counters
from fastgw.config import Settings
from fastgw.events.journal import Place
from fastgw.server.gateway import Gateway

BATCHES = 7
REQUESTS = 1000
CHUNKS = 5000
MOST_TURNS = 100_000
JSON_END, STREAM_END = b'"fp_gauge"}', b"0\r\n\r\n"

ANSWER_BODY = (
    b'{"id":"chatcmpl-gauge","object":"chat.completion","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"' + b"word " * 80 + b'",'
    b'"refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":280,'
    b'"completion_tokens":80,"total_tokens":360,"prompt_tokens_details":{"cached_tokens":0}},'
    b'"service_tier":"default","system_fingerprint":"fp_gauge"}'
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_gauge\r\n"
    b"content-length: %d\r\n\r\n" % len(ANSWER_BODY) + ANSWER_BODY
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"x-request-id: req_gauge\r\ntransfer-encoding: chunked\r\n\r\n"
)


def framed(event: bytes) -> bytes:
    """Give an event as one chunk."""
    return b"%x\r\n%b\r\n" % (len(event), event)


CHUNK = framed(
    b'data: {"id":"chatcmpl-gauge","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"bench","choices":[{"index":0,"delta":{"content":" word 000000"},'
    b'"finish_reason":null}]}\n\n'
)
LAST = (
    framed(
        b'data: {"id":"chatcmpl-gauge","object":"chat.completion.chunk","created":1700000000,'
        b'"model":"bench","choices":[],"usage":{"prompt_tokens":280,"completion_tokens":50,'
        b'"total_tokens":330}}\n\n'
    )
    + framed(b"data: [DONE]\n\n")
    + STREAM_END
)


class FakeTransport(asyncio.Transport):
    """Takes bytes and goes nowhere. `handle` is a socket that stays quiet, for who looks at it."""

    def __init__(self, handle: socket.socket) -> None:
        super().__init__({"socket": handle, "peername": ("127.0.0.1", 1), "sockname": ("", 1)})
        self.last = b""
        self.writes = 0

    def write(self, data: Any) -> None:
        """Take bytes."""
        self.last = data
        self.writes += 1

    def writelines(self, parts: Any) -> None:
        """Take bytes in parts."""
        for part in parts:
            self.write(part)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Change hands; whoever has it is driven by the protocol that was made first."""

    def get_write_buffer_size(self) -> int:
        """Say that everything has left."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Need none."""

    def is_closing(self) -> bool:
        """Stay open."""
        return False

    def pause_reading(self) -> None:
        """Nothing comes unless it is sent by hand."""

    def resume_reading(self) -> None:
        """Nothing comes unless it is sent by hand."""

    def close(self) -> None:
        """Stay open."""

    def abort(self) -> None:
        """Fail loudly: nothing here may break a connection off."""
        raise AssertionError("a connection was broken off")


@dataclass(frozen=True)
class Figure:
    """What one request or chunk costs."""

    what: str
    cpu_ns: float
    median_ns: float
    instructions: float | None


class Rig:
    """One client's connection and one to the provider, both driven from here."""

    def __init__(self, gateway: Gateway, key: str, handle: socket.socket) -> None:
        self.client = FakeTransport(handle)
        self.protocol = make_protocol(gateway)
        self.key = key
        self.handle = handle
        self.upstream: Any = None
        self.provider = FakeTransport(handle)
        self.instructions = Instructions()

    async def connect(self, factory: Callable[[], Any], *_: object) -> Any:
        """Be what makes a connection to the provider."""
        self.upstream = factory()
        self.upstream.connection_made(self.provider)
        return self.upstream

    def request(self, *, stream: bool) -> bytes:
        """Give a request as an official client sends it."""
        body: dict[str, Any] = {
            "messages": [
                {"role": "system", "content": "You are a careful assistant."},
                {"role": "user", "content": "Tell me what a gateway is for. " * 32},
            ],
            "model": MODEL,
            "max_tokens": 512,
        }
        if stream:
            body["stream"] = True
        text = json.dumps(body).encode()
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
            b"Accept: application/json\r\nContent-Type: application/json\r\n"
            b"User-Agent: OpenAI/Python 2.0.0\r\nX-Stainless-Lang: python\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
            % (self.key.encode(), len(text))
        ) + text

    async def until(self, is_there: Callable[[], bool]) -> None:
        """Let the loop turn until something is there; a lane without tasks needs no turn."""
        turns = 0
        while not is_there():
            await asyncio.sleep(0)
            turns += 1
            if turns > MOST_TURNS:
                raise RuntimeError(
                    f"the answer does not come; the last bytes: {self.client.last!r}"
                )

    async def ask(self, request: bytes) -> None:
        """Send a request, up to where it has reached the provider."""
        provider, seen = self.provider, self.provider.writes
        self.protocol.data_received(request)
        if provider.writes == seen:
            await self.until(lambda: provider.writes > seen)

    async def exchange(self, requests: int, request: bytes) -> None:
        """Do requests with JSON answers, one after the other.

        Nothing stands here that is not needed: what is measured takes few microseconds.
        """
        client, provider, receive = self.client, self.provider, self.protocol.data_received
        for _ in range(requests):
            seen = provider.writes
            receive(request)
            if provider.writes == seen:
                await self.until(lambda seen=seen: provider.writes > seen)
            self.upstream.data_received(ANSWER)
            if not client.last.endswith(JSON_END):
                await self.until(lambda: client.last.endswith(JSON_END))
            client.last = b""

    @contextmanager
    def metered(self, spent: list[tuple[int, int | None]]) -> Iterator[None]:
        """Note the CPU time and the instructions of what happens inside."""
        counted = self.instructions.read()
        began = time.process_time_ns()
        yield
        ended = time.process_time_ns()
        now = self.instructions.read()
        extra = None if counted is None or now is None else now - counted
        spent.append((ended - began, extra))


def make_protocol(gateway: Gateway) -> Any:
    """Make the protocol of a new client connection: what listens is what is measured."""
    return gateway._front()


async def gauge_requests(rig: Rig) -> Figure:
    """Measure whole JSON exchanges."""
    request = rig.request(stream=False)
    await rig.exchange(REQUESTS, request)
    spent: list[tuple[int, int | None]] = []
    for _ in range(BATCHES):
        with rig.metered(spent):
            await rig.exchange(REQUESTS, request)
    return figure("request", spent, REQUESTS)


async def gauge_chunks(rig: Rig) -> Figure:
    """Measure the chunks of a stream that has begun, one event each, one read each."""
    request = rig.request(stream=True)
    spent: list[tuple[int, int | None]] = []
    for _ in range(BATCHES + 1):
        await rig.ask(request)
        rig.upstream.data_received(STREAM_HEAD + CHUNK)
        await rig.until(lambda: CHUNK in rig.client.last)
        passed = rig.client.writes
        take = rig.upstream.data_received
        with rig.metered(spent):
            for _ in range(CHUNKS):
                take(CHUNK)
        if rig.client.writes - passed != CHUNKS:
            raise RuntimeError(f"{rig.client.writes - passed} writes for {CHUNKS} chunks")
        rig.upstream.data_received(LAST)
        await rig.until(lambda: rig.client.last.endswith(STREAM_END))
    return figure("chunk", spent[1:], CHUNKS)


def figure(what: str, spent: list[tuple[int, int | None]], count: int) -> Figure:
    """Give the figure of several batches of `count`."""
    counted = [each for _, each in spent if each is not None]
    return Figure(
        what,
        cpu_ns=min(ns for ns, _ in spent) / count,
        median_ns=median(ns for ns, _ in spent) / count,
        instructions=min(counted) / count if counted else None,
    )


def settings(folder: Path) -> Settings:
    """Give the configuration of the worker; nothing of it is ever dialled."""
    return Settings.model_validate(
        {
            "database": {"url": f"sqlite:///{folder}/fastgw.db"},
            "journal": {"dir": f"{folder}/journal"},
            "logs": {"level": "warning"},
            "providers": [
                {
                    "name": "gauge",
                    "type": PROVIDER_TYPE,
                    "base_url": "http://127.0.0.1:9/v1",
                    "api_key": "gauge-credential",
                }
            ],
            "models": [{"name": MODEL, "deployments": [{"provider": "gauge", "model": MODEL}]}],
        }
    )


async def gauge(folder: Path) -> tuple[list[Figure], Any]:
    """Make a worker, measure, and let go of it; also give which lane served how much."""
    wanted = settings(folder)
    governed = await govern(wanted.database.url.reveal())
    place = Place.make(Path(wanted.journal.dir))
    gateway = Gateway(wanted, counters.Board(4 << 20, 1), 0, place)
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        await gateway.start()
        rig = Rig(gateway, governed.key, ours)

        def connect(*arguments: Any) -> Awaitable[Any]:
            return rig.connect(arguments[-1])

        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            with patch("fastgw.upstream.pool.connect", connect):
                rig.protocol.connection_made(rig.client)
                figures = [await gauge_requests(rig), await gauge_chunks(rig)]
                lanes = gateway.describe()["lanes"]["served"]
                rig.protocol.connection_lost(None)
                rig.upstream.connection_lost(None)
        finally:
            gc.enable()
        await gateway.drain()
    return figures, lanes


def main(argv: list[str] | None = None) -> int:
    """Measure and print; nothing is judged."""
    parser = argparse.ArgumentParser(prog="python -m bench.gauge", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(prefix="fastgw-gauge-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        figures, lanes = runner.run(gauge(Path(folder)))
    for each in figures:
        counted = "no counter here" if each.instructions is None else f"{each.instructions:,.0f}"
        print(
            f"own code, {_ext.BUILD} build: {each.cpu_ns:9,.0f} ns a {each.what}"
            f" (median {each.median_ns:,.0f}; instructions: {counted})"
        )
    served = ", ".join(f"{count:,} {series}" for series, count in lanes.items())
    print(f"requests by lane: {served}")
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in figures], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
