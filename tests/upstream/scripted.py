"""Raw scripted upstreams, a sink that writes down what it is told, and both builds of the room."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import struct
import sys
from contextlib import contextmanager
from types import SimpleNamespace

from fastgw.domain import Timeouts
from fastgw.errors import UpstreamFault
from tests.waiting import eventually

TEXTS = ("deadlines", "connection", "origin")
"""The modules that are compiled from the text beside them."""
PATIENT = Timeouts(connect_s=60, first_byte_s=60, idle_s=60, total_s=120)
CANARY = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ncanary"


@contextmanager
def _pure_imports():
    """Let imports inside give the pure build, and leave no trace of it."""
    import fastgw

    rooms = ("fastgw.upstream", "fastgw._ext")
    kept = {name: module for name, module in sys.modules.items() if name.startswith(rooms)}
    attributes = {name: getattr(fastgw, name) for name in ("upstream", "_ext")}
    for name in kept:
        del sys.modules[name]
    before = os.environ.get("FASTGW_PURE")
    os.environ["FASTGW_PURE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTGW_PURE"]
        else:
            os.environ["FASTGW_PURE"] = before
        for name in [name for name in sys.modules if name.startswith(rooms)]:
            del sys.modules[name]
        sys.modules.update(kept)
        for name, module in attributes.items():
            setattr(fastgw, name, module)


def _gather():
    names = ("deadlines", "connection", "origin", "dial", "pool")
    rooms = {name: importlib.import_module(f"fastgw.upstream.{name}") for name in names}
    ext = importlib.import_module("fastgw._ext")
    return SimpleNamespace(**rooms, http1=ext.http1, build=ext.BUILD)


def load_rooms():
    """Give the modules of the room by build; without a compiler there is only the pure one."""
    found = {}
    rooms = _gather()
    if rooms.build == "compiled" and all(
        not getattr(rooms, name).__file__.endswith(".py") for name in TEXTS
    ):
        found["compiled"] = rooms
    with _pure_imports():
        found["pure"] = _gather()
    assert all(getattr(found["pure"], name).__file__.endswith(".py") for name in TEXTS)
    return found


class Clock:
    """A clock that goes only when told."""

    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time

    def advance(self, seconds):
        self.time += seconds


class Recorder:
    """A sink that writes down what it is told and refuses to be told too much."""

    def __init__(self, on_head=None, on_data=None, on_end=None):
        self.heads = []
        self.chunks = []
        self.size = 0
        self.error = None
        self.ended = False
        self.attempt = None
        self.done = asyncio.Event()
        self._on_head = on_head
        self._on_data = on_data
        self._on_end = on_end

    @property
    def body(self):
        return b"".join(self.chunks)

    @property
    def outcome(self):
        """What happened, short enough to compare."""
        if self.error is not None:
            return type(self.error).__name__
        return "end" if self.ended else "open"

    def upstream_head(self, head):
        assert not self.done.is_set()
        assert not self.heads
        self.heads.append(head)
        if self._on_head:
            self._on_head(self)

    def upstream_data(self, data):
        assert not self.done.is_set()
        assert self.heads
        assert type(data) is bytes
        assert data
        self.chunks.append(data)
        self.size += len(data)
        if self._on_data:
            self._on_data(self)

    def upstream_end(self):
        assert not self.done.is_set()
        assert self.heads
        self.ended = True
        self.done.set()
        if self._on_end:
            self._on_end(self)

    def upstream_failed(self, error):
        assert not self.done.is_set()
        assert isinstance(error, UpstreamFault)
        self.error = error
        self.done.set()

    async def finished(self):
        """Wait for the end or the failure; give itself."""
        async with asyncio.timeout(30):
            await self.done.wait()
        return self


def listening(room, recorder):
    """Give a sink of this build that tells a recorder, which is of none."""

    class Listener(room.connection.Sink):
        upstream_head = staticmethod(recorder.upstream_head)
        upstream_data = staticmethod(recorder.upstream_data)
        upstream_end = staticmethod(recorder.upstream_end)
        upstream_failed = staticmethod(recorder.upstream_failed)

    return Listener()


class Peer:
    """One connection as the scripted upstream sees it."""

    def __init__(self, number, reader, writer):
        self.number = number
        self.reader = reader
        self.writer = writer
        self.over = asyncio.Event()
        """Set when the script has ended: its last read met the end of the connection."""

    async def request(self):
        """Read one request; give its head and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return head, await self.reader.readexactly(length)

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def send_bytewise(self, data):
        """Send single bytes (of much: 2000 pieces), each to be read alone if the loop lets it."""
        step = max(1, len(data) // 2000)
        for at in range(0, len(data), step):
            if self.writer.transport.is_closing():
                raise ConnectionResetError("the gateway has enough")
            self.writer.write(data[at : at + step])
            await asyncio.sleep(0)

    def close(self):
        self.writer.transport.abort()

    def close_sending(self):
        self.writer.write_eof()

    def reset(self):
        """End the connection with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self):
        """Wait until the gateway has ended the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


class Upstream:
    """A server on loopback that runs a script for each connection.

    `peers` are the connections in order; a script that fails fails the test.
    """

    def __init__(self, script, *, tls=None):
        self._script = script
        self._tls = tls
        self._tasks = set()
        self.failures = []
        self.peers = []
        self.port = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._tls, limit=1 << 17
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind, *_):
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self.peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0)
        if kind is None and self.failures:
            raise self.failures[0]

    async def _serve(self, reader, writer):
        peer = Peer(len(self.peers), reader, writer)
        self.peers.append(peer)
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            await self._script(peer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception as failure:  # noqa: BLE001 - raised again when the server is left
            self.failures.append(failure)
        finally:
            peer.over.set()
            self._tasks.discard(task)

    def stop_listening(self):
        """Refuse further connections."""
        self._server.close()


def answering(answer, *, then=CANARY):
    """Give a script that answers the first request of all with `answer`, others with `then`."""
    seen = []

    async def script(peer):
        while True:
            seen.append(await peer.request())
            await peer.send(answer if len(seen) == 1 else then)

    script.seen = seen
    return script


def request(body=b"{}", path=b"/v1/x", method=b"POST"):
    """Give the head of a request with this body."""
    return (
        b"%b %b HTTP/1.1\r\nhost: upstream\r\naccept-encoding: identity\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % (method, path, len(body))
    )


async def settled(predicate, what=""):
    """Wait for a fact that needs nothing but the loop to turn."""
    return await eventually(predicate, timeout=60, what=what)
