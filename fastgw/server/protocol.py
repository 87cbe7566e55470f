"""One client connection in front of aiohttp: only well-framed requests pass, and none for ever.

aiohttp lets through what others read differently, never times out a client that has begun, and
answers its own parser's faults past every handler. So each byte goes through `Framing` first. What
it refuses is replaced by a stand-in request, which the handler answers with the fault: in turn
after the requests before it, in JSON, as the last answer of the connection. Touches the transport
and the loop's deadlines.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.http_parser import HttpRequestParser
from aiohttp.web_protocol import RequestHandler

from fastgw._ext import request as heads
from fastgw.errors import CannotStart, GatewayError, InvalidHTTP, RequestTimeout
from fastgw.server.door import address_of, descriptor_of, reset
from fastgw.upstream.deadlines import Deadline, Deadlines

if TYPE_CHECKING:
    from fastgw.server.door import Door
    from fastgw.server.reply import Answered

DRAINED = 65536
"""So much of a body that nobody wants is read to keep a connection."""
LINGER_S = 2.0
"""So long the rest of it may take, so that the answer is not lost with a reset."""
LEAST_RATE = 1024
"""Bytes a second that a body must bring on average; slower is an attack, or no use."""

_STAND_IN = b"%b %b HTTP/1.1\r\nhost: _\r\nconnection: close\r\n\r\n"
_SHOWN = re.compile(rb"/[A-Za-z0-9._~/:-]*")
"""A path that can stand in a stand-in, for the error's shape."""


_PARSER_SINCE = (3, 14, 1)
"""aiohttp versions before it accept what llhttp's strict mode does not."""


def check_parser(parser: type = HttpRequestParser, version: str = aiohttp.__version__) -> None:
    """Raise CannotStart unless aiohttp reads requests with its compiled, strict parser."""
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    if not parser.__module__.endswith("._http_parser") or numbers < _PARSER_SINCE:
        raise CannotStart(
            f"aiohttp {version} here has no strict HTTP parser; install 3.14.1 or newer with its "
            "compiled extension"
        )


class Patience(msgspec.Struct, frozen=True):
    """How long a client may take, in seconds."""

    header_s: float = 10
    """For a head, from the connection or from its first byte."""
    body_s: float = 30
    """For each period of a body: it brings `LEAST_RATE` on average, or ends."""
    keepalive_s: float = 75
    """Between two requests."""
    write_s: float = 30
    """To take some of an answer that waits for it."""


class Watch(Deadline):
    """A deadline that calls back."""

    __slots__ = ("_overdue",)

    def __init__(self, overdue: Callable[[], None]) -> None:
        super().__init__()
        self._overdue = overdue

    def expired(self) -> None:
        """Act on it."""
        self._overdue()


class ClientProtocol(RequestHandler):
    """aiohttp's protocol behind the checks; `take_up` and `put_down` frame each handler call."""

    __slots__ = (
        *("_address", "_answered", "_body_since", "_deadlines", "_door", "_fault", "_faulty"),
        *("_framing", "_leaving", "_patience", "_received", "_serving", "_stall"),
        *("_taken_up", "_waits_for", "_watch", "keeps_idle"),
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        deadlines: Deadlines,
        patience: Patience,
        door: Door | None,
        keeps_idle: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(manager, **kwargs)
        self._deadlines = deadlines
        self._patience = patience
        self._door = door
        self.keeps_idle = keeps_idle
        """Whether the time between two requests is ours to bound."""
        self._address: str | None = None
        self._framing = heads.Framing()
        self._watch = Watch(self._overdue)
        self._waits_for = ""
        self._stall: Watch | None = None
        self._body_since = 0
        self._received = 0
        self._taken_up = 0
        self._answered = 0
        self._serving: web.BaseRequest | None = None
        self._fault: GatewayError | None = None
        self._faulty = 0
        self._leaving: asyncio.Transport | None = None

    # -- the connection -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in, or not."""
        if self._door is not None:
            address = address_of(transport)
            if not self._door.enter(address, descriptor_of(transport)):
                cast("asyncio.Transport", transport).abort()
                return
            self._address = address
        super().connection_made(transport)
        self._wait_for("head", self._patience.header_s)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of everything."""
        self._deadlines.disarm(self._watch)
        if self._stall is not None:
            self._deadlines.disarm(self._stall)
        if self._door is not None and self._address is not None:
            self._door.leave(self._address)
            self._address = None
        super().connection_lost(exc)
        self._leaving = self._serving = None

    def data_received(self, data: bytes) -> None:
        """Pass on what is well framed."""
        if self._leaving is not None:
            self._discard(len(data))
            return
        if not data:  # aiohttp goes on with what it kept
            super().data_received(data)
            return
        self._received += len(data)
        passed = self._framing.take(data)
        if passed:
            super().data_received(passed)
        fault = self._framing.fault
        if fault is not None and self._fault is None:
            self.refuse(InvalidHTTP(fault.message, status=fault.status))
        self._set_deadline()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Tell a client that has ended in the middle of a request; else it has left."""
        framing = self._framing
        waiting = self._answered if framing.midway else self._answered + 1
        if (
            (framing.midway or framing.remaining)
            and self._fault is None
            and self._leaving is None
            and framing.requests == waiting
            and self.transport is not None
            and self.transport.can_write_eof()
        ):
            self.refuse(InvalidHTTP("the request is incomplete", status=400))
            return True
        return None

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        if self._stall is None:
            self._stall = Watch(self._stalled)
        self._deadlines.arm(self._stall, self._patience.write_s)

    def resume_writing(self) -> None:
        """Stop waiting for it."""
        if self._stall is not None:
            self._deadlines.disarm(self._stall)
        super().resume_writing()

    # -- the requests ---------------------------------------------------------------------------

    def take_up(self, request: web.BaseRequest) -> None:
        """Note which request is being served; raises the fault if it is the one at fault."""
        self._taken_up += 1
        self._serving = request
        if self._fault is not None and self._taken_up == self._faulty:
            raise self._fault

    def put_down(self, response: Answered) -> None:
        """Decide what follows the answer: the rest of a small body is read, of a large one not."""
        self._answered = self._taken_up
        self._serving = None
        if self._is_over():
            response.force_close()
        self._set_deadline()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the answer; a last one to a client that may be sending is not lost with a reset."""
        finished = await super().finish_response(request, resp, start_time)
        if self._is_over():
            self._leave()
        return finished

    def _is_over(self) -> bool:
        """Tell whether nothing can follow the newest answer."""
        if self._fault is not None:
            return self._faulty <= self._answered
        if self._answered < self._framing.requests:
            return False
        return self._framing.last or not 0 <= self._framing.remaining <= DRAINED

    def refuse(self, error: GatewayError) -> None:
        """Answer `error` in its turn, and end the connection with it."""
        if self._fault is not None:
            return
        self._fault = error
        framing = self._framing
        if framing.remaining:
            self._faulty = framing.requests
            if self._answered >= self._faulty:
                self._leave()  # nobody waits for the rest
            elif self._taken_up == self._faulty and self._serving is not None:
                self._serving.content.set_exception(error)
        else:
            self._faulty = framing.requests + 1
            method = b"HEAD" if framing.asks_head else b"POST"  # which says if a body may follow
            super().data_received(_STAND_IN % (method, self._path()))

    def _path(self) -> bytes:
        """Give the path of the newest request line that was read, as far as it can be shown."""
        path = self._framing.target.partition(b"?")[0]
        return path if _SHOWN.fullmatch(path) else b"/"

    # -- time -----------------------------------------------------------------------------------

    def _set_deadline(self) -> None:
        framing = self._framing
        if self._leaving is not None:
            return
        behind = framing.requests - self._answered
        if self._fault is not None or self.transport is None:
            self._wait_for("", 0)
        elif framing.remaining and behind <= 1:
            self._wait_for("body", self._patience.body_s)
        elif behind:
            self._wait_for("", 0)  # what comes meanwhile may have to wait for us
        elif framing.midway:
            self._wait_for("head", self._patience.header_s)
        elif not self.keeps_idle:
            self._wait_for("", 0)
        elif framing.requests:
            self._wait_for("request", self._patience.keepalive_s)

    def _wait_for(self, what: str, seconds: float) -> None:
        """Arm the deadline, unless it runs for the same already."""
        if what == self._waits_for:
            return
        self._waits_for = what
        if what:
            self._body_since = self._received
            self._deadlines.arm(self._watch, seconds)
        else:
            self._deadlines.disarm(self._watch)

    def _overdue(self) -> None:
        what, self._waits_for = self._waits_for, ""
        if self._leaving is not None:
            reset(self._leaving)
        elif self.transport is None:
            return
        elif what == "body":
            enough = self._received - self._body_since >= LEAST_RATE * self._patience.body_s
            if enough or not self.transport.is_reading():  # it is we who do not read
                self._set_deadline()
            else:
                self.refuse(RequestTimeout("the body did not arrive in time"))
        elif self._framing.midway:
            self.refuse(RequestTimeout("the head of the request did not arrive in time"))
        elif self.transport.get_write_buffer_size():
            reset(self.transport)
        else:
            self.transport.close()

    def _stalled(self) -> None:
        transport = self._leaving or self.transport
        if transport is not None:
            reset(transport)

    # -- the end --------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Close the sending side, and the rest once the client has heard of it (RFC 9112 9.6)."""
        transport, self.transport = self.transport, None
        if transport is None:
            return
        super().force_close()
        self._leaving = transport
        self._received = 0
        if transport.can_write_eof():
            transport.write_eof()
            self._waits_for = ""
            self._wait_for("end", LINGER_S)
        else:
            transport.close()

    def _discard(self, size: int) -> None:
        self._received += size
        if self._received > DRAINED and self._leaving is not None:
            self._leaving.pause_reading()  # a close would reset it before it has read the answer
