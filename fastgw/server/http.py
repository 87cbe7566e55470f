"""aiohttp's server, made ours: every answer is JSON in the client API's shape, nothing else leaks.

Model routes go straight to the lane; all else goes through the aiohttp application.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from fastgw._ext import ids
from fastgw._ext import request as heads
from fastgw.errors import (
    BodyTooLarge,
    GatewayError,
    InternalError,
    InvalidHTTP,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from fastgw.flow import accept
from fastgw.flow.relay import SERVER
from fastgw.server.carry import Carry
from fastgw.server.door import Door
from fastgw.server.endpoints import client_api_of
from fastgw.server.protocol import LINGER_S, ClientProtocol, Patience
from fastgw.server.replies import route_error
from fastgw.server.reply import Answered
from fastgw.upstream.deadlines import Deadlines

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[Answered]]

_NEVER_S = 1e9
"""For aiohttp's own timer, which knows nothing of a front and of bodies."""

_labels = ids.Source("req_")


class GatewayServer(web.Server):
    """Makes one protocol a connection and picks the handler of each request."""

    def __init__(
        self,
        app: web.Application,
        hot: dict[str, Handler],
        *,
        deadlines: Deadlines | None = None,
        patience: Patience | None = None,
        door: Door | None = None,
        **kwargs: Any,
    ) -> None:
        base = app._make_handler()  # noqa: SLF001 - what AppRunner calls; there is no public name
        super().__init__(
            self._dispatch,
            request_factory=base.request_factory,
            handler_cancellation=True,
            access_log=None,
            max_line_size=2 * heads.MAX_LINE,  # ours is the verdict
            max_field_size=2 * heads.MAX_LINE,
            max_headers=2 * heads.MAX_FIELDS,
            lingering_time=LINGER_S,
            keepalive_timeout=_NEVER_S,
            **kwargs,
        )
        self._deadlines = deadlines or Deadlines(self._loop)
        self._patience = patience or Patience()
        self._door = door
        self._app_handler = base.request_handler
        self._hot = hot
        self.fronted = False
        """Whether somebody else lets connections in and holds them between requests."""
        self.draining = False
        """Whether each answer is to be the last on its connection."""

    def __call__(self) -> GatewayProtocol:
        """Make the protocol of a new connection."""
        return GatewayProtocol(
            self,
            loop=self._loop,
            deadlines=self._deadlines,
            patience=self._patience,
            door=None if self.fronted else self._door,
            keeps_idle=not self.fronted,
            **self._kwargs,
        )

    def is_busy(self) -> bool:
        """Tell whether a client has not taken all of its answer yet."""
        return any(
            each.transport is not None and each.transport.get_write_buffer_size()
            for each in self.connections
        )

    async def _dispatch(self, request: Any) -> Any:
        hot = None
        if request.method == "POST" and "expect" not in request.headers:
            hot = self._hot.get(request.raw_path)
        response: Answered
        client: ClientProtocol = request.protocol
        try:
            client.take_up(request)
            response = await (hot or self._app_handler)(request)
        except web.HTTPException as exc:
            response = _route_error(_explain(exc, request), request)
        except GatewayError as exc:
            response = _route_error(exc, request)
        if self.draining:
            response.force_close()
        client.put_down(response)
        return response


class GatewayProtocol(ClientProtocol):
    """One client connection; faults that aiohttp itself finds are answered in our shape."""

    __slots__ = ("carry", "front", "reason")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.front: Any = None
        """The connection's fast lane, which lends it to us; None: it is ours for good."""
        self.reason = "default"
        """Why the fast lane does not serve the present request."""
        self.carry: Carry | None = None
        """What the fast lane has begun of the present request."""

    def take_carry(self) -> Carry | None:
        """Give what the fast lane has begun of the present request, once."""
        carry, self.carry = self.carry, None
        return carry

    def is_resting(self) -> bool:
        """Tell whether everything is answered and the next request is awaited."""
        return (
            self._waiter is not None
            and not self._messages
            and not self._request_in_progress
            and not self._upgraded
            and not self._close
            and not self._force_close
        )

    async def finish_response(
        self, request: Any, resp: Any, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send what is left of an answer; then the fast lane may have the connection back."""
        result = await super().finish_response(request, resp, start_time)
        if self.front is not None:
            self._loop.call_soon(self.front.answered)
        return result

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take the end of the connection; what nobody took over is accounted for."""
        self.front = None
        carry = self.take_carry()
        if carry is not None:
            carry.forsake()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: Any,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - what aiohttp would have shown
    ) -> web.StreamResponse:
        """Answer what never reached a handler, or what a handler failed to answer."""
        if isinstance(exc, ConnectionError):
            raise exc
        if request.writer.output_size > 0:
            log.error("answer_broken", exc_info=exc)
            raise ConnectionResetError("the head is out: no error can be rendered")
        error: GatewayError
        if status == 400:
            error = InvalidHTTP("the request is not valid HTTP/1.1")
        else:
            log.error("request_failed", status=status, exc_info=exc)
            error = InternalError("something went wrong on our side")
        # aiohttp names no path where it could not read the request; we have read it before.
        api = client_api_of(self._path().decode("ascii"), {})
        response = route_error(error, _labels.next(), api)
        response.force_close()
        return response


async def name_server(_: web.Request, response: web.StreamResponse) -> None:
    """Say who answers, and not which libraries in which versions."""
    response.headers["server"] = SERVER


def _route_error(error: GatewayError, request: web.Request) -> web.Response:
    api = client_api_of(request.path, request.headers)
    return route_error(error, label_of(request), api)


def label_of(request: web.Request) -> str:
    """Give the client's request id if it is sane, else a new one."""
    return accept.label_of(request.headers, _labels.next)


def _explain(exc: web.HTTPException, request: web.Request) -> GatewayError:
    """Turn aiohttp's own refusals into ours."""
    if isinstance(exc, web.HTTPMethodNotAllowed):
        allowed = frozenset(exc.allowed_methods)
        return MethodNotAllowed(
            f"{request.method} is not allowed here; use {' or '.join(sorted(allowed))}",
            allowed=allowed,
        )
    if isinstance(exc, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge("the body is too large")
    if exc.status == 404:
        return NotFound("there is no such route")
    error = InvalidRequest(exc.reason)
    error.status = exc.status
    return error
