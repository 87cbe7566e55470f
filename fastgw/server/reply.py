"""An answer that leaves as bytes: the head rebuilt from checked fields, the body as it came.

aiohttp's own responses cost more than everything else the lane does, so the lane hands aiohttp an
object that has already answered: of a response its request loop asks only what `Reply` has.
`tests/server/test_reply.py` fails clearly should an aiohttp release ask for more.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from aiohttp import web

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class _Date:
    """The Date field (RFC 9110 §6.6.1), made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._field = b""

    def field(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._field = b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
        return self._field


_date = _Date()


def date_field() -> bytes:
    """Give the Date line."""
    return _date.field()


def status_line(status: int) -> bytes:
    """Give the first line of an answer."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


class Reply:
    """One answer on one client connection, whole or in pieces.

    `keep_alive`, `prepare` and `write_eof` are what aiohttp asks once the handler has returned.
    """

    __slots__ = ("_chunked", "_head", "_protocol", "_transport", "keep_alive", "started", "status")

    def __init__(self, request: web.BaseRequest) -> None:
        self._protocol: Any = request.protocol
        self._transport = request.transport
        self._chunked = request.version >= (1, 1)
        self._head = b""
        self.keep_alive = bool(request.keep_alive)
        self.started = False
        """Whether the head is decided, so that nothing else can be answered."""
        self.status = 0

    # -- writing --------------------------------------------------------------------------------

    def whole(self, status: int, fields: bytes, body: bytes) -> None:
        """Send a complete answer in one write."""
        self._start(status)
        length = b"content-length: %d\r\n\r\n" % len(body)
        self._send(b"".join((*self._lines(status, fields), length, body)))

    def begin(self, status: int, fields: bytes) -> None:
        """Begin an answer of unknown length; the head leaves with the first bytes of the body."""
        self._start(status)
        if self._chunked:
            framing = b"transfer-encoding: chunked\r\n\r\n"
        else:
            self.keep_alive = False  # HTTP/1.0: the end of the connection is the end of the body
            framing = b"connection: close\r\n\r\n"
        self._head = b"".join((*self._lines(status, fields), framing))

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        head, self._head = self._head, b""
        if self._chunked:
            self._send(b"%b%x\r\n%b\r\n" % (head, len(data), data))
        else:
            self._send(head + data)

    def end(self) -> None:
        """Complete an answer that was begun."""
        head, self._head = self._head, b""
        if self._chunked:
            self._send(head + b"0\r\n\r\n")
        elif head:
            self._send(head)

    def break_off(self) -> None:
        """Leave an answer incomplete: what was written goes out, then the connection ends."""
        self.keep_alive = False
        if self._transport is not None:
            self._transport.close()

    def force_close(self) -> None:
        """End the connection once this answer is out."""
        self.keep_alive = False

    @property
    def blocked(self) -> bool:
        """Whether the client reads more slowly than we write."""
        return bool(self._protocol.writing_paused)

    async def drained(self, request: web.BaseRequest) -> None:
        """Wait until the client has caught up; ConnectionError when it leaves instead."""
        await request.writer.drain()

    # -- for aiohttp ----------------------------------------------------------------------------

    async def prepare(self, _request: web.BaseRequest) -> None:
        """Do nothing: the head is out."""

    async def write_eof(self) -> None:
        """Do nothing: the body is out."""

    # -- inside ---------------------------------------------------------------------------------

    def _start(self, status: int) -> None:
        self.started = True
        self.status = status

    def _lines(self, status: int, fields: bytes) -> tuple[bytes, ...]:
        connection = b"" if self.keep_alive or not self._chunked else b"connection: close\r\n"
        return status_line(status), fields, date_field(), connection

    def _send(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client left")
        transport.write(data)


Answered = web.StreamResponse | Reply
"""What a handler may give to aiohttp's request loop."""
