"""Answers of ours as aiohttp responses: errors in the client API's shape, JSON, plain text."""

from __future__ import annotations

import math

from aiohttp import web

from fastgw._ext import limits
from fastgw.errors import GatewayError, MethodNotAllowed, UpstreamFault
from fastgw.flow.exchange import Exchange
from fastgw.flow.relay import SERVER, visible
from fastgw.server.reply import date_field, status_line
from fastgw.wire.shapes import Shapes, shapes

_PATIENCE_S = 60
"""A client should not sit and retry what takes longer."""


def json_reply(
    body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Give a JSON answer."""
    headers = {"server": SERVER, **(headers or {})}
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")


def error_reply(error: GatewayError, exchange: Exchange) -> web.Response:
    """Render an error for the client: shape, status and the headers that say what to do next."""
    return json_reply(*_error_of(error, exchange))


def error_bytes(error: GatewayError, exchange: Exchange) -> bytes:
    """Give the same as a whole HTTP/1.1 answer."""
    body, status, headers = _error_of(error, exchange)
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return b"".join(
        (
            status_line(status),
            "".join(lines).encode("latin-1"),
            b"server: %b\r\ncontent-type: application/json\r\n" % SERVER.encode(),
            date_field(),
            b"content-length: %d\r\n\r\n" % len(body),
            body,
        )
    )


def _error_of(error: GatewayError, exchange: Exchange) -> tuple[bytes, int, dict[str, str]]:
    headers = {"x-fastgw-id": exchange.id}
    if exchange.deployment is not None:
        headers["x-fastgw-provider"] = exchange.deployment.provider.name
        headers["x-fastgw-model"] = visible(exchange.deployment.model)
        headers["x-fastgw-attempts"] = str(exchange.attempts)
    if exchange.explanation is not None and exchange.explanation.kept:
        headers["x-fastgw-decision"] = exchange.id
    if exchange.guard is not None:
        lines = exchange.guard.fields(limits.now_us()).decode("ascii").splitlines()
        headers |= {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
    shape = shapes(exchange.client_api, exchange.endpoint)
    return _render(error, shape, exchange.request_id, headers)


def dry_reply(decision: bytes, exchange: Exchange) -> web.Response:
    """Give a decision as the answer."""
    labels = shapes(exchange.client_api, exchange.endpoint).label_headers
    headers = {**dict.fromkeys(labels, exchange.request_id), "x-fastgw-id": exchange.id}
    if exchange.explanation is not None and exchange.explanation.kept:
        headers["x-fastgw-decision"] = exchange.id
    return json_reply(decision, headers=headers)


def route_error(error: GatewayError, request_id: str, client_api: str) -> web.Response:
    """Render an error of a request that never became an exchange."""
    return json_reply(*_render(error, shapes(client_api), request_id, {}))


def _render(
    error: GatewayError, shape: Shapes, request_id: str, headers: dict[str, str]
) -> tuple[bytes, int, dict[str, str]]:
    """Give body, status and headers."""
    headers |= dict.fromkeys(shape.label_headers, request_id)
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if (
        (error.retry_after or 0) > _PATIENCE_S
        or (isinstance(error, UpstreamFault) and error.billed)
        or (error.status == 429 and not error.retryable)
    ):
        headers["x-should-retry"] = "false"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = ", ".join(sorted(error.allowed))
    return shape.error_body(error, request_id), error.status, headers
