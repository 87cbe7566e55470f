"""Answers of ours as aiohttp responses: errors in the client API's shape, JSON, plain text."""

from __future__ import annotations

import math

from aiohttp import web

from fastgw._ext import limits
from fastgw.errors import GatewayError, MethodNotAllowed, UpstreamFault
from fastgw.flow.exchange import Exchange
from fastgw.flow.relay import SERVER, visible
from fastgw.wire import openai

_PATIENCE_S = 60
"""A client should not sit and retry what takes longer."""


def json_reply(
    body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Give a JSON answer."""
    headers = {"server": SERVER, **(headers or {})}
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")


def error_reply(error: GatewayError, exchange: Exchange | None = None) -> web.Response:
    """Render an error for the client: shape, status and the headers that say what to do next."""
    headers = {}
    if exchange is not None:
        headers["x-request-id"] = exchange.request_id
        headers["x-fastgw-id"] = exchange.id
        if exchange.deployment is not None:
            headers["x-fastgw-provider"] = exchange.deployment.provider.name
            headers["x-fastgw-model"] = visible(exchange.deployment.model)
            headers["x-fastgw-attempts"] = str(exchange.attempts)
        if exchange.guard is not None:
            lines = exchange.guard.fields(limits.now_us()).decode("ascii").splitlines()
            headers |= {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
    return _reply(error, headers)


def route_error(error: GatewayError, request_id: str) -> web.Response:
    """Render an error of a request that never became an exchange."""
    return _reply(error, {"x-request-id": request_id})


def _reply(error: GatewayError, headers: dict[str, str]) -> web.Response:
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
    return json_reply(openai.error_body(error), error.status, headers)
