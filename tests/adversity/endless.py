"""A provider whose streams never end: as much as it may send, or one event and then silence."""

from __future__ import annotations

import asyncio
import socket
import sys
from types import TracebackType
from typing import Any, Self

import uvloop

from tests.adversity import stream
from tests.adversity.bed import lift_descriptors

BLOCK = 64 * 1024


class Endless:
    """The server. `flood`: offer up to `most` bytes; else one event, then silence."""

    def __init__(self, *, flood: bool, most: int = 1 << 30) -> None:
        self.flood = flood
        self.most = most
        self.url = ""
        self.live: set[_Stream] = set()
        self.sent = 0
        """Bytes of bodies that the kernel has taken, of all streams."""
        event = stream.event("x" * 1000)
        self.block = b"".join(stream.chunk(event) for _ in range(BLOCK // len(event)))

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Stream(self), "127.0.0.1", 0, backlog=4096)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.close()
        for each in tuple(self.live):
            each.transport.abort()
        await self._server.wait_closed()


class _Stream(asyncio.Protocol):
    """One connection. A request is over when its body's closing brace has come."""

    def __init__(self, server: Endless) -> None:
        self._server = server
        self._paused = False
        self._sent = 0
        self._begun = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        plug = transport.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BLOCK)  # what waits, waits elsewhere
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(0)
        self._server.live.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.live.discard(self)
        self._paused = True

    def data_received(self, data: bytes) -> None:
        if not self._begun and data.endswith(b"}"):
            self._begun = True
            self.transport.write(stream.HEAD + stream.chunk(stream.event("hello")))
            if self._server.flood:
                self._send()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send()

    def _send(self) -> None:
        """Write block by block, as fast as the kernel takes them."""
        while self._server.flood and not self._paused and self._sent < self._server.most:
            self.transport.write(self._server.block)
            self._sent += len(self._server.block)
            self._server.sent += len(self._server.block)
            if not self._paused:
                asyncio.get_running_loop().call_soon(self._send)
                return


async def serve_idle() -> None:
    """Serve silent streams as a process of its own, until standard input ends."""
    async with Endless(flood=False) as endless:
        print(endless.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    lift_descriptors()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_idle())
