"""H-7 and H-8: clients that send or read slowly, or nothing at all, beside honest ones.

    python -m tests.adversity.wire.slow --connections 1000 --silent 3000

runs the whole of it with the default time-outs against a gateway of its own and prints the figures;
`test_slow.py` runs a small form. Attackers: `head` sends a header line a second, `body` ten bytes a
second, `read` takes nothing of a large answer, `late` the same of one that runs out of time first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from fastgw.storage import migrate
from tests.adversity.wire.canned import Canned, Plan
from tests.adversity.wire.memory import descriptors, resident
from tests.adversity.wire.raw import talk
from tests.processes import Gateway, run

KINDS = ("read", "late", "head", "body")
DEAF = ("read", "late")
LARGE = 24 << 20
ESTABLISHED = 1
PAUSE_S = 0.005


@dataclass
class Figures:
    """What one attack showed."""

    lasted: dict[str, list[float]] = field(default_factory=dict)
    """By kind, how long each attacker was endured; infinite if it was not closed."""
    quiet: list[float] = field(default_factory=list)
    """How long honest requests took before it."""
    loud: list[float] = field(default_factory=list)
    """And during it."""
    failed: int = 0
    """Honest requests that failed."""


class Attacker(asyncio.Protocol):
    """Sends `first`, then `rest` a little at a time, and never reads if `deaf`."""

    def __init__(self, first: bytes, rest: bytes, *, deaf: bool) -> None:
        self._first, self._rest, self._deaf = first, rest, deaf
        self.began = time.monotonic()
        self.closed = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._first)
        if self._deaf:
            transport.pause_reading()
            self._look()
        elif self._rest:
            self._drip()

    def _look(self) -> None:
        """Ask the kernel whether the connection still stands: who does not read is not told."""
        if self.closed.done():
            return
        state = self.transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, 1
        )
        if state[0] != ESTABLISHED:
            self.connection_lost(None)
        else:
            asyncio.get_running_loop().call_later(0.05, self._look)

    def _drip(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self._rest)
            asyncio.get_running_loop().call_later(1.0, self._drip)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(time.monotonic() - self.began)


def chat(key: str, model: str, *, stream: bool, extra: int = 0, provider: str = "canned") -> bytes:
    """Give a whole request, which announces `extra` bytes more than it has."""
    body = json.dumps({"model": f"{provider}/{model}", "messages": [], "stream": stream}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
        % (key.encode(), len(body) + extra, body)
    )


def prepare(provider: Canned) -> None:
    """Tell the provider what an honest client gets, and a deaf one."""
    body = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    provider.plans["honest"] = Plan([head % len(body) + body], hold=True)


def stream_of(size: int) -> Plan:
    """Give a stream of about so many bytes."""
    event = b"data: %b\n\n" % (b"x" * 65526)
    framed = b"%x\r\n%b\r\n" % (len(event), event)
    return Plan(
        [
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n",
            b"transfer-encoding: chunked\r\n\r\n",
            *[framed] * (size // len(framed)),
            b"0\r\n\r\n",
        ]
    )


async def attack(provider: Canned, port: int, key: str, count: int, patience: float) -> Figures:
    """Let `count` attackers of each kind come, with an honest client beside them."""
    figures = Figures()
    await honest(port, key, figures, figures.quiet, 100)
    provider.plans["large"] = stream_of(0)
    for name in ("canned", "brief"):  # so that the fast lane has met them
        await talk(port, [chat(key, "large", stream=True, provider=name)], enough=1)
    provider.plans["large"] = stream_of(LARGE)
    scripts = {
        "head": (b"GET / HTTP/1.1\r\nhost: a\r\n", b"x-a: b\r\n"),
        "body": (chat(key, "honest", stream=False, extra=100_000), b"          "),
        "read": (chat(key, "large", stream=True), b""),
        "late": (chat(key, "large", stream=True, provider="brief"), b""),
    }
    attackers = {}
    for kind in KINDS:
        attackers[kind] = await connect(port, count, *scripts[kind], deaf=kind in DEAF)
        await settle(port, key, figures)
    waits = [each.closed for kind in KINDS for each in attackers[kind]]
    if waits:
        company = asyncio.create_task(honest(port, key, figures, figures.loud, None))
        await asyncio.wait(waits, timeout=patience)
        company.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await company
    for kind, each in attackers.items():
        figures.lasted[kind] = [
            one.closed.result() if one.closed.done() else float("inf") for one in each
        ]
        await dismiss(each)
    return figures


async def settle(port: int, key: str, figures: Figures) -> None:
    """Wait until what an attack sets off is over: until honest requests are answered as before."""
    usual = 3 * p99(figures.quiet) / 1000
    for _ in range(20):
        times: list[float] = []
        await honest(port, key, figures, times, 20)
        if max(times) <= usual:
            return


async def dismiss(attackers: list[Attacker]) -> None:
    """Close what is open still."""
    for each in attackers:
        each.transport.abort()
    await asyncio.sleep(0.1)


async def connect(
    port: int, count: int, first: bytes, rest: bytes, *, deaf: bool = False
) -> list[Attacker]:
    """Open the attackers' connections, a hundred at a time."""
    loop = asyncio.get_running_loop()
    attackers: list[Attacker] = []

    async def one() -> None:
        sock = socket.socket()
        if deaf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        _, made = await loop.create_connection(lambda: Attacker(first, rest, deaf=deaf), sock=sock)
        attackers.append(made)

    for done in range(0, count, 100):
        await asyncio.gather(*(one() for _ in range(min(100, count - done))))
    return attackers


async def honest(
    port: int, key: str, figures: Figures, times: list[float], count: int | None
) -> None:
    """Ask in a row, for ever without `count`."""
    request = chat(key, "honest", stream=False)
    while count is None or len(times) < count:
        heard = await talk(port, [request], enough=1)
        times.append(heard.seconds)
        figures.failed += heard.statuses != [200]
        await asyncio.sleep(PAUSE_S)


def p99(times: Sequence[float]) -> float:
    """Give the 99th percentile in milliseconds."""
    return sorted(times)[int(len(times) * 0.99)] * 1000 if times else 0.0


def render(figures: Figures) -> str:
    """Give the figures as text."""
    lines = [
        f"{kind}: {len(lasted)} attackers, closed after {min(lasted):.2f} to {max(lasted):.2f} s"
        for kind, lasted in figures.lasted.items()
        if lasted
    ]
    lines.append(
        f"honest: {len(figures.loud)} requests, {figures.failed} failed, "
        f"p99 {p99(figures.quiet):.1f} -> {p99(figures.loud):.1f} ms"
    )
    return "H-7 " + "; ".join(lines)


async def keep_silent(port: int, count: int, pids: list[int], patience: float) -> tuple[int, float]:
    """Open connections that send nothing; give what each costs in bytes, and the longest's age."""
    before = resident(pids)
    attackers = await connect(port, count, b"", b"")
    cost = (resident(pids) - before) * 1024 // count
    await asyncio.wait([each.closed for each in attackers], timeout=patience)
    ages = [each.closed.result() if each.closed.done() else float("inf") for each in attackers]
    await dismiss(attackers)
    return cost, max(ages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--silent", type=int, default=3000)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Canned() as provider, tempfile.TemporaryDirectory() as name:
        prepare(provider)
        url = f"sqlite:///{name}/fastgw.db"
        run(migrate.upgrade(url))
        account = {"name": "canned", "type": "openai_compatible", "base_url": provider.url + "/v1"}
        brief = {**account, "name": "brief", "timeouts": {"total_s": 5}}
        gateway = Gateway(Path(name), url, {"providers": [account, brief]})
        try:
            gateway.ready()
            port = urlsplit(gateway.url).port or 0
            key = gateway.create_key()
            workers = gateway.children()
            base = descriptors(workers)
            say(render(asyncio.run(attack(provider, port, key, options.connections, 90))))
            time.sleep(5)
            say(f"H-7 descriptors: {base} before, {descriptors(workers)} five seconds after")
            cost, age = asyncio.run(keep_silent(port, options.silent, workers, 30))
            say(f"H-8 {options.silent} silent: {cost} bytes each, closed by {age:.2f} s")
        finally:
            gateway.stop()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
