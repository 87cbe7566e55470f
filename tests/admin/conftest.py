"""The admin sub-application on a real store of each engine, and people who may use it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import argon2
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from fastgw.admin import make_admin, passwords
from fastgw.admin.passwords import hash_now
from fastgw.domain import Secret
from fastgw.storage import Store, open_store
from fastgw.storage.sql import admins, audit
from fastgw.storage.sql.admins import Admin
from fastgw.wire import json

EMAIL = "root@example.com"
PASSWORD = "correct horse battery"
SECRET = Secret("a secret that signs tokens in tests")
SECURITY_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


class Answer:
    """One answer, read."""

    def __init__(self, response: ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = body.decode()
        self.json: Any = json.loads(body) if body else None

    @property
    def code(self) -> str:
        """The error's code."""
        return self.json["error"]["code"]


class API:
    """Asks the admin API; every answer is checked for what every answer must have."""

    def __init__(self, client: TestClient[Any, Any], store: Store) -> None:
        self.client = client
        self.store = store

    async def ask(
        self,
        method: str,
        path: str,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        **rest: Any,
    ) -> Answer:
        """Send a request."""
        sent = dict(headers or {})
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        async with self.client.request(method, path, headers=sent, **rest) as response:
            answer = Answer(response, await response.read())
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value, path
        assert answer.headers["x-request-id"]
        if answer.status >= 400:
            assert answer.headers["content-type"].startswith("application/json")
            assert {"code", "message"} == answer.json["error"].keys()
        if answer.status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
        return answer

    async def login(self, email: str = EMAIL, password: str = PASSWORD) -> Answer:
        """Log in."""
        return await self.ask(
            "POST", "/admin/auth/login", json={"email": email, "password": password}
        )

    async def refresh(self, token: str) -> Answer:
        """Use a refresh token."""
        return await self.ask("POST", "/admin/auth/refresh", json={"refresh_token": token})

    async def me(self, token: str | None) -> Answer:
        """Ask who is logged in."""
        return await self.ask("GET", "/admin/me", token)

    async def audited(self) -> list[tuple[str, str, str | None]]:
        """Give action, name and id of everybody on record, oldest first."""
        entries = (await audit.page(self.store)).items
        return [(e.action, e.actor_name, e.actor_id) for e in reversed(entries)]


REAL_HASHER, REAL_NOBODY = passwords._hasher, passwords._NOBODY
"""What the gateway uses."""


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let argon2 take 1 MiB instead of 40: a login should not be the slow part of a test."""
    cheap = argon2.PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", cheap)
    monkeypatch.setattr(passwords, "_NOBODY", cheap.hash("nobody"))


@pytest.fixture
def password_hash() -> str:
    """The hash of PASSWORD with today's parameters."""
    return hash_now(PASSWORD)


@pytest.fixture(scope="session")
def old_password_hash() -> str:
    """The hash of PASSWORD with parameters of the past."""
    return argon2.PasswordHasher(time_cost=1, memory_cost=512, parallelism=1).hash(PASSWORD)


@pytest.fixture
async def root(store: Store, password_hash: str) -> Admin:
    """An account with the role admin."""
    return await admins.create(store, email=EMAIL, password_hash=password_hash, role="admin")


@pytest.fixture
async def api(store: Store) -> AsyncIterator[API]:
    """The API, served."""
    async with served(store) as api:
        yield api


@pytest.fixture
async def one_store(sqlite_url: str) -> AsyncIterator[Store]:
    """A store of one engine, for what no engine can change."""
    opened = await open_store(sqlite_url, migrate=False)
    yield opened
    await opened.close()


@pytest.fixture
async def one_api(one_store: Store) -> AsyncIterator[API]:
    """The API on it."""
    async with served(one_store) as api:
        yield api


class served:  # noqa: N801 - used as a function
    """Serve the sub-application `admin` at /admin."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.store = store
        self.admin = make_admin(store, SECRET, **options)
        app = web.Application()
        app.add_subapp("/admin", self.admin)
        self.client = TestClient(TestServer(app))

    async def __aenter__(self) -> API:
        await self.client.start_server()
        return API(self.client, self.store)

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
