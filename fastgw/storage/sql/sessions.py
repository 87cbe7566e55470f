"""Admin sessions: one refresh token after the other, each good for one use.

A used refresh token that comes again was copied, so its whole family ends (RFC 9700 §4.14.2).
"""

from __future__ import annotations

import msgspec

from fastgw.domain import now_ms
from fastgw.storage.sql.noun import new_id
from fastgw.storage.store import Session


class AdminSession(msgspec.Struct, kw_only=True):
    """One refresh token of a login. The token itself is stored as its SHA-256 only."""

    id: str
    family: str
    admin_id: str | None
    service_token_id: str | None
    expires_at: int
    token_version: int
    """The account's at login: a change of password or role ends refresh tokens too."""


class Reused(msgspec.Struct, frozen=True):
    """A used refresh token came again and has just ended its login."""

    admin_id: str | None
    service_token_id: str | None


INSERT = """INSERT INTO admin_sessions
  (id, family, admin_id, service_token_id, token_version, refresh_hash, expires_at,
   created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)"""
BY_HASH = "SELECT * FROM admin_sessions WHERE refresh_hash = $1 FOR UPDATE"
USE = "UPDATE admin_sessions SET used_at = $2 WHERE id = $1"
END_FAMILY = "UPDATE admin_sessions SET revoked_at = $2 WHERE family = $1 AND revoked_at IS NULL"
ALIVE = """SELECT count(*) FROM admin_sessions
WHERE family = $1 AND revoked_at IS NULL AND expires_at > $2"""
PRUNE = "DELETE FROM admin_sessions WHERE expires_at < $1"


async def start(
    db: Session,
    *,
    refresh_hash: bytes,
    expires_at: int,
    admin_id: str | None = None,
    service_token_id: str | None = None,
    token_version: int = 0,
) -> AdminSession:
    """Begin a family with its first refresh token; give one of the two ids."""
    session = AdminSession(
        id=new_id("refresh"),
        family=new_id("session"),
        admin_id=admin_id,
        service_token_id=service_token_id,
        expires_at=expires_at,
        token_version=token_version,
    )
    return await _insert(db, session, refresh_hash)


async def rotate(
    db: Session, refresh_hash: bytes, *, next_hash: bytes, expires_at: int
) -> AdminSession | Reused | None:
    """Use a refresh token and store the next one; None when it is unknown or over."""
    now = now_ms()
    async with db.transaction() as tx:
        row = await tx.fetchrow(BY_HASH, refresh_hash)
        if row is None:
            return None
        owner = (row["admin_id"], row["service_token_id"])
        if row["used_at"] is not None:
            return Reused(*owner) if await tx.execute(END_FAMILY, row["family"], now) else None
        if row["revoked_at"] is not None or row["expires_at"] <= now:
            return None
        await tx.execute(USE, row["id"], now)
        session = AdminSession(
            id=new_id("refresh"),
            family=row["family"],
            admin_id=row["admin_id"],
            service_token_id=row["service_token_id"],
            expires_at=expires_at,
            token_version=row["token_version"],
        )
        return await _insert(tx, session, next_hash)


async def is_alive(db: Session, family: str) -> bool:
    """Tell whether a login was neither ended nor ran out."""
    return bool(await db.fetchval(ALIVE, family, now_ms()))


async def end(db: Session, family: str) -> None:
    """End a login: none of its refresh tokens works any more."""
    await db.execute(END_FAMILY, family, now_ms())


async def prune(db: Session) -> int:
    """Forget sessions that ran out."""
    return await db.execute(PRUNE, now_ms())


async def _insert(db: Session, session: AdminSession, refresh_hash: bytes) -> AdminSession:
    owner = (session.admin_id, session.service_token_id, session.token_version)
    values = (session.id, session.family, *owner, refresh_hash, session.expires_at)
    await db.execute(INSERT, *values, now_ms())
    return session
