"""Puts the admin sub-application together: every route says who may call it, or it does not start.

The role is checked before body and existence, and is the account's present one, not the token's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import IntEnum

import msgspec
import structlog
from aiohttp import web

from fastgw._ext import ids
from fastgw.admin import session
from fastgw.admin.body import InvalidBody
from fastgw.admin.passwords import Passwords
from fastgw.admin.throttle import Throttle
from fastgw.admin.tokens import Tokens
from fastgw.domain import Secret
from fastgw.errors import (
    BodyTooLarge,
    GatewayError,
    InternalError,
    InvalidAdminToken,
    InvalidRequest,
    MethodNotAllowed,
    NotAllowed,
    NotFound,
)
from fastgw.flow.accept import label_of
from fastgw.storage import Store
from fastgw.wire import json

log = structlog.get_logger(__name__)


class Role(IntEnum):
    """Who may call a route; each includes those before it. PUBLIC needs no token."""

    PUBLIC = 0
    VIEWER = 1
    EDITOR = 2
    ADMIN = 3


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Route(msgspec.Struct, frozen=True):
    """One line of the route table."""

    method: str
    path: str
    role: Role
    handler: Handler

    def __post_init__(self) -> None:
        if not isinstance(self.role, Role):
            raise TypeError(f"{self.method} {self.path} must say which role may call it")


ROUTES = (
    Route("POST", "/auth/login", Role.PUBLIC, session.login),
    Route("POST", "/auth/refresh", Role.PUBLIC, session.refresh),
    Route("POST", "/auth/logout", Role.VIEWER, session.logout),
    Route("GET", "/me", Role.VIEWER, session.me),
)

_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
_FREE_BY_ACCOUNT = 10
_FREE_BY_ADDRESS = 50
"""Failures that cost nothing; many people may share an address."""

_labels = ids.Source("req_")


def make_admin(
    store: Store, jwt_secret: Secret, routes: Iterable[Route] = ROUTES
) -> web.Application:
    """Make the sub-application, to be mounted at `/admin`."""
    app = web.Application(middlewares=[_answer])
    app[session.STORE] = store
    app[session.TOKENS] = Tokens(jwt_secret)
    app[session.PASSWORDS] = Passwords()
    app[session.ACCOUNTS] = Throttle(_FREE_BY_ACCOUNT)
    app[session.ADDRESSES] = Throttle(_FREE_BY_ADDRESS)
    app.on_cleanup.append(_close)
    for route in routes:
        app.router.add_route(route.method, route.path, _guarded(route))
    return app


async def _close(app: web.Application) -> None:
    app[session.PASSWORDS].close()


def _guarded(route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if route.role is not Role.PUBLIC:
            await _authorize(request, route.role)
        return await route.handler(request)

    return handle


async def _authorize(request: web.Request, least: Role) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise InvalidAdminToken("send an access token as Authorization: Bearer …")
    claims = request.app[session.TOKENS].read(token.strip())
    admin = await session.account_of(request.app[session.STORE], claims)
    if Role[admin.role.upper()] < least:
        raise NotAllowed(f"this needs the role {least.name.lower()}")
    request[session.ACCOUNT] = admin
    request[session.FAMILY] = claims.sid


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every answer the security headers, and errors the admin API's shape."""
    label = label_of(request.headers, _labels.next)
    request[session.LABEL] = label
    response: web.StreamResponse
    try:
        response = await handler(request)
    except GatewayError as exc:
        response = _refusal(exc)
    except web.HTTPException as exc:
        response = _refusal(_explain(exc, request))
    except ConnectionError:
        raise  # nobody is there to answer
    except Exception:
        log.exception("admin_request_failed", request_id=label)
        response = _refusal(InternalError("something went wrong on our side"))
    response.headers.update(_HEADERS)
    response.headers["x-request-id"] = label
    return response


def _refusal(error: GatewayError) -> web.Response:
    shown: dict[str, object] = {"error": {"code": error.code, "message": error.message}}
    if isinstance(error, InvalidBody):
        shown["detail"] = error.detail
    response = web.Response(
        status=error.status, body=json.dumps(shown), content_type="application/json"
    )
    if error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        response.headers["allow"] = ", ".join(sorted(error.allowed))
    if error.retry_after is not None:
        response.headers["retry-after"] = str(max(1, round(error.retry_after)))
    return response


def _explain(exc: web.HTTPException, request: web.Request) -> GatewayError:
    """Turn aiohttp's own refusals into ours."""
    if isinstance(exc, web.HTTPMethodNotAllowed):
        return MethodNotAllowed(
            f"{request.method} is not allowed here", allowed=frozenset(exc.allowed_methods)
        )
    if isinstance(exc, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge("the body is too large")
    if exc.status == 404:
        return NotFound("there is no such route")
    error = InvalidRequest(exc.reason)
    error.status = exc.status
    return error
