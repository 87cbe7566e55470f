"""Log in, stay logged in, log out: `/admin/auth/*` and `/admin/me`."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from typing import Any

from aiohttp import web
from pydantic import Field, SecretStr

from fastgw.admin.body import Strict, read_body
from fastgw.admin.passwords import Passwords, needs_rehash
from fastgw.admin.throttle import Throttle
from fastgw.admin.tokens import LIFETIME_S, Claims, Tokens
from fastgw.domain import now_ms
from fastgw.errors import GatewayError, InvalidAdminToken, NotFound
from fastgw.storage import Session, Store
from fastgw.storage.sql import admins, audit, sessions
from fastgw.storage.sql.admins import Admin
from fastgw.wire import json

STORE = web.AppKey("store", Store)
TOKENS = web.AppKey("tokens", Tokens)
PASSWORDS = web.AppKey("passwords", Passwords)
ACCOUNTS = web.AppKey("accounts", Throttle)
ADDRESSES = web.AppKey("addresses", Throttle)
ACCOUNT = web.RequestKey("account", Admin)
FAMILY = web.RequestKey("family", str)
LABEL = web.RequestKey("label", str)

_REFRESH_LIFETIME_MS = 24 * 3600 * 1000


class Login(Strict):
    """Body of `POST /admin/auth/login`."""

    email: str = Field(max_length=320)
    password: SecretStr = Field(max_length=1024)


class Refresh(Strict):
    """Body of `POST /admin/auth/refresh`."""

    refresh_token: SecretStr = Field(max_length=200)


async def login(request: web.Request) -> web.Response:
    """Exchange e-mail and password for tokens; wrong ones cost time and are on record."""
    body = await read_body(request, Login)
    email = body.email.strip().lower()
    accounts, addresses, address = request.app[ACCOUNTS], request.app[ADDRESSES], _network(request)
    addresses.begin(address)
    accounts.begin(email)
    store = request.app[STORE]
    try:
        admin = await _check(request, email, body.password.get_secret_value())
    except GatewayError:  # of ours: it was no guess
        addresses.take_back(address)
        accounts.take_back(email)
        raise
    if admin is None:
        await _note(request, store, "login_failed", name=email)
        raise InvalidAdminToken("wrong e-mail or password")
    addresses.take_back(address)
    accounts.forget(email)
    token = secrets.token_urlsafe(32)
    async with store.transaction() as tx:
        started = await sessions.start(
            tx,
            refresh_hash=_digest(token),
            expires_at=now_ms() + _REFRESH_LIFETIME_MS,
            admin_id=admin.id,
            token_version=admin.token_version,
        )
        await admins.touch_login(tx, admin.id)
        await _note(request, tx, "login", admin_id=admin.id, name=admin.email)
    return _tokens(request, admin, started.family, token)


async def _check(request: web.Request, email: str, password: str) -> Admin | None:
    """Give the account that these belong to, in the same time whether or not there is one."""
    store, passwords = request.app[STORE], request.app[PASSWORDS]
    found = await admins.find_by_email(store, email)
    known_hash = found[1].reveal() if found is not None else None
    right = await passwords.verify(known_hash, password)
    if found is None or known_hash is None or not right or not found[0].enabled:
        return None
    if needs_rehash(known_hash):
        await admins.rehash(store, found[0].id, known_hash, await passwords.hash(password))
    return found[0]


async def refresh(request: web.Request) -> web.Response:
    """Exchange a refresh token for new tokens; one that was used before ends the whole login."""
    body = await read_body(request, Refresh)
    store, addresses, address = request.app[STORE], request.app[ADDRESSES], _network(request)
    addresses.begin(address)
    token = secrets.token_urlsafe(32)
    async with store.transaction() as tx:
        rotated = await sessions.rotate(
            tx,
            _digest(body.refresh_token.get_secret_value()),
            next_hash=_digest(token),
            expires_at=now_ms() + _REFRESH_LIFETIME_MS,
        )
        if isinstance(rotated, sessions.Reused):
            await _note(request, tx, "refresh_reused", admin_id=rotated.admin_id)
    if not isinstance(rotated, sessions.AdminSession) or rotated.admin_id is None:
        raise InvalidAdminToken("this refresh token is unknown, used or over")
    addresses.take_back(address)
    admin = await _find(store, rotated.admin_id, rotated.token_version)
    return _tokens(request, admin, rotated.family, token)


async def logout(request: web.Request) -> web.Response:
    """End this login: neither its access nor its refresh token works any more."""
    admin = request[ACCOUNT]
    async with request.app[STORE].transaction() as tx:
        await sessions.end(tx, request[FAMILY])
        await _note(request, tx, "logout", admin_id=admin.id, name=admin.email)
    return web.Response(status=204)


async def me(request: web.Request) -> web.Response:
    """Say who is logged in."""
    admin = request[ACCOUNT]
    return _json({"id": admin.id, "email": admin.email, "name": admin.name, "role": admin.role})


async def account_of(store: Store, claims: Claims) -> Admin:
    """Give the account behind a token's claims as it is now; raises `InvalidAdminToken`."""
    if not await sessions.is_alive(store, claims.sid):
        raise InvalidAdminToken("this login has ended")
    return await _find(store, claims.sub, claims.ver)


async def _find(store: Store, admin_id: str, token_version: int) -> Admin:
    try:
        admin = await admins.get(store, admin_id)
    except NotFound as exc:
        raise InvalidAdminToken("this account is gone") from exc
    if not admin.enabled or admin.token_version != token_version:
        raise InvalidAdminToken("this account has changed; log in again")
    return admin


def _tokens(request: web.Request, admin: Admin, family: str, refresh_token: str) -> web.Response:
    access = request.app[TOKENS].issue(admin.id, admin.token_version, family)
    return _json({"access_token": access, "refresh_token": refresh_token, "expires_in": LIFETIME_S})


def _json(value: Any) -> web.Response:
    return web.Response(body=json.dumps(value), content_type="application/json")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _network(request: web.Request) -> str:
    """Give what one client can send from: an IPv4 address, or an IPv6 network of 64 bits."""
    remote = request.remote or ""
    if ":" not in remote:
        return remote
    address = ipaddress.IPv6Address(remote.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))


async def _note(
    request: web.Request, db: Session, action: str, *, admin_id: str | None = None, name: str = ""
) -> None:
    await audit.append(
        db,
        actor_type="admin",
        action=action,
        noun="admin_sessions",
        actor_id=admin_id,
        actor_name=name,
        address=request.remote,
        request_id=request[LABEL],
    )
