"""A client that sends bytes as they are and tells what came back."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field


@dataclass
class Response:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, object]:
        """Give the error object; fails unless it is JSON in OpenAI's shape with an id."""
        assert self.headers["content-type"].startswith("application/json"), self
        assert self.headers["x-request-id"], self
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "Traceback" not in error["message"]
        return error


@dataclass
class Heard:
    """What one connection brought."""

    responses: list[Response] = field(default_factory=list)
    rest: bytes = b""
    """Bytes that are no whole answer."""
    closed: bool = False
    seconds: float = 0.0

    @property
    def statuses(self) -> list[int]:
        """Give the status of each answer."""
        return [response.status for response in self.responses]


class Ear(asyncio.Protocol):
    """Keeps what comes, also of a connection that is reset while we write (httpcore does too)."""

    def __init__(self, enough: int, *, head: bool) -> None:
        self.heard = Heard()
        self.done = asyncio.get_running_loop().create_future()
        self._enough = enough
        self._head = head
        self._buffer = bytearray()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (response := take(self._buffer, head=self._head)) is not None:
            if response.status >= 200:
                self.heard.responses.append(response)
        if len(self.heard.responses) >= self._enough:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.closed = True
        self._may_write.set()
        self._end()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    async def send(self, pieces: list[bytes], *, eof: bool) -> None:
        """Write it all, as far as it is taken."""
        for piece in pieces:
            if self.heard.closed or self.transport.is_closing():
                return
            self.transport.write(piece)
            await asyncio.sleep(0)
            await self._may_write.wait()
        if eof:
            self.transport.write_eof()

    def finish(self) -> Heard:
        """Give what was heard."""
        if not self.heard.closed:
            self.transport.abort()
        self.heard.rest = bytes(self._buffer)
        return self.heard


async def talk(
    port: int,
    pieces: list[bytes],
    *,
    patience: float = 10.0,
    head: bool = False,
    eof: bool = False,
    enough: int = 1000,
) -> Heard:
    """Send the pieces and listen until the server closes, `enough` answers came or patience ends.

    `head` says that answers have no body.
    """
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    _, ear = await loop.create_connection(lambda: Ear(enough, head=head), "127.0.0.1", port)
    sending = loop.create_task(ear.send(pieces, eof=eof))
    try:
        await asyncio.wait([ear.done], timeout=patience)
    finally:
        sending.cancel()
        heard = ear.finish()
    heard.seconds = time.monotonic() - began
    return heard


def take(buffer: bytearray, *, head: bool = False) -> Response | None:
    """Take the first whole answer off a buffer."""
    at = buffer.find(b"\r\n\r\n") + 4
    if at < 4:
        return None
    line, *fields = buffer[: at - 4].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    status = int(line.split(" ")[1])
    body = b""
    if head or status < 200 or status == 204:
        pass
    elif headers.get("transfer-encoding") == "chunked":
        size = -1
        while size:
            end = buffer.find(b"\r\n", at)
            if end < 0:
                return None
            size = int(buffer[at:end], 16)
            at = end + 2 + size + 2
            if len(buffer) < at:
                return None
            body += buffer[end + 2 : at - 2]
    else:
        at += int(headers["content-length"])
        if len(buffer) < at:
            return None
        body = bytes(buffer[at - int(headers["content-length"]) : at])
    del buffer[:at]
    return Response(status, headers, body)
