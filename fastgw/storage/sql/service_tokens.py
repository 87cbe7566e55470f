"""Service tokens: how a program logs in to the admin API. Only the SHA-256 is stored."""

from __future__ import annotations

from typing import Any

from fastgw.domain import now_ms
from fastgw.storage.sql.noun import Noun, Stored
from fastgw.storage.store import Session
from fastgw.wire.apikey import same_digest


class ServiceToken(Stored, kw_only=True):
    """A service's right to log in, with a role as admins have."""

    name: str
    hint: str = ""
    role: str
    token_version: int = 1
    expires_at: int | None = None
    last_used_at: int | None = None
    enabled: bool = True
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


SERVICE_TOKENS = Noun(
    "service_tokens",
    ServiceToken,
    "service_token",
    fixed=("hint", "token_version", "last_used_at"),
    hidden=("hash",),
)

BY_NAME = "SELECT * FROM service_tokens WHERE name = $1 AND deleted_at IS NULL"
TOUCH = "UPDATE service_tokens SET last_used_at = $2 WHERE id = $1"

get, find = SERVICE_TOKENS.get, SERVICE_TOKENS.find
list = SERVICE_TOKENS.page  # noqa: A001 - read as `service_tokens.list(...)`
hide, purge = SERVICE_TOKENS.hide, SERVICE_TOKENS.purge


async def create(db: Session, *, digest: bytes, **values: Any) -> ServiceToken:
    """Store a service token by the SHA-256 of its text."""
    token = SERVICE_TOKENS.make(**values)
    await SERVICE_TOKENS.insert(db, token, digest)
    return token


async def check(db: Session, name: str, digest: bytes) -> ServiceToken | None:
    """Give the service token of this name if the digest is its own and it may log in now."""
    row = await db.fetchrow(BY_NAME, name)
    if row is None or not same_digest(row["hash"], digest):
        return None
    token = SERVICE_TOKENS.read(row)
    now = now_ms()
    if not token.enabled or (token.expires_at is not None and token.expires_at <= now):
        return None
    await db.execute(TOUCH, token.id, now)
    return token
