"""Where a campaign is run: a gateway on a database of its own, clients, and looks into processes.

Everything is on the loopback. With `FASTGW_LANE=standard` it is served without the fast lane.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastgw.domain import UsageRecord
from fastgw.events.journal import SEG
from fastgw.storage import migrate
from tests import servers
from tests.answers import Answer, Answers
from tests.processes import Gateway, Mock

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "one two three"}]
PATIENCE_S = 30.0


@dataclass
class Bed:
    """A running gateway and a key for it."""

    gateway: Gateway
    key: str

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        url = urlsplit(self.gateway.url)
        assert url.hostname
        assert url.port
        return url.hostname, url.port

    def request(self, model: str, **fields: Any) -> bytes:
        """Give the bytes of a chat request."""
        body = json.dumps({"model": model, "messages": HI, **fields}).encode()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: gateway.test\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def chat(self, model: str, **fields: Any) -> Seen:
        """Ask once on a connection of its own."""
        return await ask(self.address, self.request(model, **fields))

    async def get(self, path: str) -> Seen:
        """Ask for a path on a connection of its own."""
        return await ask(self.address, get_request(path))

    async def records(self, least: int) -> list[UsageRecord]:
        """Give the usage records once there are so many."""
        return await asyncio.to_thread(self.gateway.records, least, 60)


def provider(base_url: str, *, name: str = "p", **fields: Any) -> dict[str, Any]:
    """Give the configuration of a provider."""
    return {
        "name": name,
        "type": "openai_compatible",
        "base_url": base_url,
        "timeouts": {"connect_s": 2, "first_byte_s": 5, "idle_s": 5, "total_s": 60},
        **fields,
    }


@asynccontextmanager
async def serving(
    config: dict[str, Any], *, engine: str = "sqlite", fast: bool = True
) -> AsyncIterator[Bed]:
    """Serve by a configuration; the exit must be clean and the log without a traceback."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="fastgw-adversity-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        url = await asyncio.to_thread(make_store, engine, folder, stack)
        fast = fast and os.environ.get("FASTGW_LANE") != "standard"
        server = {**config.get("server", {}), "fast_lane": fast}
        config = {**config, "server": server}
        gateway = await asyncio.to_thread(Gateway, folder, url, config)
        try:
            await asyncio.to_thread(gateway.ready)
            key = await asyncio.to_thread(gateway.create_key)
            yield Bed(gateway, key)
        finally:
            status = await asyncio.to_thread(gateway.stop)
        assert status == 0, gateway.text
        assert "Traceback" not in gateway.text, gateway.text


@asynccontextmanager
async def mocking(*options: str) -> AsyncIterator[Mock]:
    """Run the mock provider as a process."""
    with tempfile.TemporaryDirectory(prefix="fastgw-mock-") as folder:
        mock = await asyncio.to_thread(Mock, Path(folder), *options)
        try:
            yield mock
        finally:
            await asyncio.to_thread(mock.stop)


def make_store(engine: str, folder: Path, stack: ExitStack) -> str:
    """Make a database that goes with the stack; give its URL."""
    if engine == "sqlite":
        return f"sqlite:///{folder}/fastgw.db"
    server = servers.start_postgres()
    stack.callback(server.close)
    console = servers.Console(server.dsn)
    stack.callback(console.close)
    name = console.create()
    stack.callback(console.drop, name)
    console.run(migrate.upgrade(console.url(name)))
    return console.url(name)


# -- clients --------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What one client saw of one request."""

    answer: Answer | None
    fault: str = ""
    ending: str = ""
    """complete, closed (by the gateway, too early), reset, silent (nothing for too long)."""
    seconds: float = 0.0
    first_s: float = 0.0
    gaps: list[float] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The status, 0 when there was no answer."""
        return self.answer.status if self.answer is not None else 0

    @property
    def body(self) -> bytes:
        """The body as far as it came."""
        return bytes(self.answer.body) if self.answer is not None else b""

    @property
    def whole(self) -> bool:
        """Whether the answer's framing is complete."""
        return self.answer is not None and self.answer.whole and not self.fault

    @property
    def events(self) -> list[bytes]:
        """The events of a stream, the last one b"" when the stream ends between events."""
        return self.body.split(b"\n\n")


async def ask(
    address: tuple[str, int], request: bytes, *, patience: float = PATIENCE_S, gaps: bool = False
) -> Seen:
    """Send one request and read its answer to the end, however it ends."""
    started = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection(*address)
    except OSError as exc:
        return Seen(None, ending="refused", fault=str(exc))
    try:
        writer.write(request)
        return await read_answer(reader, started, patience=patience, gaps=gaps)
    finally:
        writer.transport.abort()


async def read_answer(
    reader: asyncio.StreamReader,
    started: float,
    *,
    patience: float = PATIENCE_S,
    gaps: bool = False,
) -> Seen:
    """Read one answer; the request was sent at `started`."""
    answers = Answers()
    seen = Seen(None)
    last = started
    while not answers.fault and not (answers.answers and answers.answers[0].whole):
        try:
            async with asyncio.timeout(patience):
                data = await reader.read(1 << 16)
        except TimeoutError:
            seen.ending = "silent"
            break
        except ConnectionError:
            seen.ending = "reset"
            break
        if not data:
            answers.end()
            seen.ending = "closed"
            break
        now = time.monotonic()
        seen.first_s = seen.first_s or now - started
        if gaps:
            seen.gaps.append(now - last)
            last = now
        answers.feed(data)
    seen.answer = answers.answers[0] if answers.answers else None
    seen.fault = answers.fault
    if seen.whole:
        seen.ending = "complete"
    seen.seconds = time.monotonic() - started
    return seen


def get_request(path: str) -> bytes:
    """Give the bytes of a request for a path."""
    return f"GET {path} HTTP/1.1\r\nhost: gateway.test\r\n\r\n".encode()


class Caller:
    """A client that keeps its connection, as the official ones do, and dials again when it must."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._tls = tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.dials = 0

    async def ask(self, request: bytes, *, patience: float = PATIENCE_S) -> Seen:
        """Send one request; a connection that ends with its answer is left."""
        started = time.monotonic()
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection(*self._address, ssl=self._tls)
            except OSError as exc:
                return Seen(None, ending="refused", fault=str(exc))
            self.dials += 1
            nodelay(self._streams[1])
        reader, writer = self._streams
        writer.write(request)
        seen = await read_answer(reader, started, patience=patience)
        if not seen.whole or seen.answer is None or seen.answer.closes:
            self.leave()
        return seen

    async def get(self, path: str) -> Seen:
        """Ask for a path."""
        return await self.ask(get_request(path))

    def leave(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def nodelay(writer: asyncio.StreamWriter) -> None:
    """Let each write leave at once."""
    plug = writer.get_extra_info("socket")
    plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def quantile(values: Sequence[float], share: float) -> float:
    """Give the value below which this share of the values lies."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))] if ranked else 0.0


# -- processes ------------------------------------------------------------------------------------


def resident_kib(pid: int) -> int:
    """Give the private memory of a process, without its journal: that is the kernel's cache."""
    total, counts = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith(("Private_Clean", "Private_Dirty")):
            total += counts * int(line.split()[1])
        elif line[0] in "0123456789abcdef":  # the first line of a mapping
            counts = not line.endswith(SEG)
    return total


def lift_descriptors() -> int:
    """Let this process open as many files as it may; give how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def descriptors(pid: int) -> int:
    """Give how many file descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
