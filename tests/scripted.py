"""A provider that does exactly what a test says, byte by byte: for answers no server would give.

    async with Scripted([Request(), b"HTTP/1.1 200 OK\\r\\n...", Reset()]) as provider:
        ... provider.url ...; provider.connections[0].requests

One script a connection, in order of arrival; the last one serves all further connections. A script
is a list of steps: bytes are written as they are (and handed to the kernel before the next step),
the classes below are the rest. At its end the connection is closed, unless `Hold` stands there.
Take the `Request` off before closing: the kernel turns a close over unread bytes into a reset.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from tests.replay import Received, take_request


@dataclass(frozen=True)
class Request:
    """Read one whole request, answering an Expect."""


@dataclass(frozen=True)
class Pause:
    """Do nothing for a while; for time-outs, not for synchronisation."""

    seconds: float


@dataclass(frozen=True)
class Wait:
    """Do nothing until the test sets the event."""

    event: asyncio.Event


@dataclass(frozen=True)
class Hold:
    """Keep the connection until the client closes it."""


@dataclass(frozen=True)
class HalfClose:
    """Send FIN and go on reading."""


@dataclass(frozen=True)
class Close:
    """Send FIN and drop the connection."""


@dataclass(frozen=True)
class Reset:
    """Drop the connection with a TCP reset."""


@dataclass(frozen=True)
class Play:
    """Read requests and play to each the script that its `model` names, until one closes."""

    scripts: Mapping[str, Sequence[Step]]


Step = bytes | Request | Pause | Wait | Hold | HalfClose | Close | Reset | Play


@dataclass(eq=False)
class Connection:
    """What happened on one connection."""

    number: int
    requests: list[Received] = field(default_factory=list)
    rest: bytearray = field(default_factory=bytearray)
    """Bytes received that made no whole request (yet)."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """The client closed or reset it."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """The script came to its end, or the client left in its middle."""


class Scripted:
    """The server; `connections` in order of arrival."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        assert scripts, "a script is needed"
        self.connections: list[Connection] = []
        self.url = ""
        self.port = 0
        self._scripts = scripts
        self._writers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._play, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = tuple(self._writers)
        for task in tasks:
            self._writers[task].transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def requests(self) -> list[Received]:
        """All whole requests of all connections."""
        return [request for connection in self.connections for request in connection.requests]

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._writers[task] = writer
        connection = Connection(len(self.connections))
        self.connections.append(connection)
        script = self._scripts[min(connection.number, len(self._scripts) - 1)]
        plug = writer.get_extra_info("socket")
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for step in script:
                await self._step(step, connection, reader, writer)
                if writer.transport.is_closing():
                    break
        except (ConnectionError, EOFError):
            connection.gone.set()
        finally:
            connection.finished.set()
            writer.transport.close()
            del self._writers[task]

    async def _step(
        self,
        step: Step,
        connection: Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        match step:
            case bytes():
                writer.write(step)
                await flush(writer)
            case Request():
                await read_request(connection, reader, writer)
            case Pause():
                await asyncio.sleep(step.seconds)
            case Wait():
                await step.event.wait()
            case Hold():
                while data := await reader.read(1 << 16):
                    connection.rest += data
                connection.gone.set()
            case HalfClose():
                writer.write_eof()
            case Close():
                writer.transport.close()
            case Play():
                while not writer.transport.is_closing():
                    await read_request(connection, reader, writer)
                    model = json.loads(connection.requests[-1].body)["model"]
                    for each in step.scripts[model]:
                        await self._step(each, connection, reader, writer)
                        if writer.transport.is_closing():
                            return
            case Reset():
                linger = struct.pack("ii", 1, 0)
                plug = writer.get_extra_info("socket")
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()


async def flush(writer: asyncio.StreamWriter) -> None:
    """Wait until everything written is the kernel's, so that steps keep their order."""
    writer.transport.set_write_buffer_limits(0)
    await writer.drain()


async def read_request(
    connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Read until one request is whole; EOFError when the client leaves before that."""
    continued = False
    while True:
        taken = take_request(connection.rest, connection.number)
        if isinstance(taken, Received):
            connection.requests.append(taken)
            return
        if taken == "expects" and not continued:
            continued = True
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = await reader.read(1 << 16)
        if not data:
            raise EOFError
        connection.rest += data
