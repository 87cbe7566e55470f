"""Keys: what we issue. Only the SHA-256 of a key is stored; its text is given once."""

from __future__ import annotations

from typing import Any

import msgspec

from fastgw.domain import Principal, Secret
from fastgw.storage.sql.noun import Noun, Stored
from fastgw.storage.store import Row, Session
from fastgw.wire.apikey import make_key, same_digest

DEFAULT_PRIORITY = 5


class Key(Stored, kw_only=True):
    """A key as its owner sees it. The hash has no field here, so it cannot be returned."""

    name: str
    hint: str = ""
    user_id: str | None = None
    team_id: str | None = None
    org_id: str | None = None
    enabled: bool = True
    expires_at: int | None = None
    allowed_models: tuple[str, ...] = ()
    allowed_ips: tuple[str, ...] = ()
    client_tags: tuple[str, ...] = ()
    priority: int | None = None
    tags: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


KEYS = Noun("api_keys", Key, "key", fixed=("hint",), hidden=("hash",))

PRINCIPALS = """SELECT k.id, k.name, k.hash, k.expires_at, k.tags,
  k.allowed_models, k.allowed_ips, k.client_tags, k.user_id, t.id AS team_id, o.id AS org_id,
  COALESCE(k.priority, t.priority) AS priority,
  k.enabled AS key_enabled,
  u.enabled AS user_enabled, u.deleted_at AS user_deleted, u.expires_at AS user_expires,
  t.enabled AS team_enabled, t.deleted_at AS team_deleted, t.expires_at AS team_expires,
  o.enabled AS org_enabled, o.deleted_at AS org_deleted, o.expires_at AS org_expires
FROM api_keys k
LEFT JOIN users u ON u.id = k.user_id
LEFT JOIN teams t ON t.id = COALESCE(k.team_id, u.team_id)
LEFT JOIN orgs o ON o.id = COALESCE(k.org_id, t.org_id, u.org_id)
WHERE """
FIND_BY_HASH = PRINCIPALS + "k.hash = $1 AND k.deleted_at IS NULL"
FIND_BY_ID = PRINCIPALS + "k.id = $1"
SET_HASH = """UPDATE api_keys SET hash = $2, hint = $3
WHERE id = $1 AND deleted_at IS NULL"""
LAST_USED = "SELECT last_used_at FROM api_key_activity WHERE key_id = $1"

get, find, update = KEYS.get, KEYS.find, KEYS.update
list = KEYS.page  # noqa: A001 - read as `keys.list(...)`
revoke, purge = KEYS.hide, KEYS.purge

_names = msgspec.json.Decoder(tuple[str, ...])
_tags = msgspec.json.Decoder(dict[str, str])


async def create(db: Session, **values: Any) -> tuple[Key, Secret]:
    """Make a key and give its text, which nobody can read again."""
    secret, digest, hint = make_key()
    key = KEYS.make(**values, hint=hint)
    await KEYS.insert(db, key, digest)
    return key, secret


async def find_by_hash(db: Session, digest: bytes) -> Principal | None:
    """Give who calls, in one statement; None when no key has this hash or it was revoked.

    A disabled or deleted owner disables the key, and the earliest expiry of all counts.
    """
    row = await db.fetchrow(FIND_BY_HASH, digest)
    if row is None or not same_digest(row["hash"], digest):
        return None
    return _principal(row)


async def find_principal(db: Session, key_id: str) -> Principal | None:
    """Give whom a key stands for, whatever became of it; None when there never was such a key."""
    row = await db.fetchrow(FIND_BY_ID, key_id)
    return None if row is None else _principal(row)


async def regenerate(db: Session, key_id: str) -> tuple[Key, Secret]:
    """Give a key a new text; the old one stops working."""
    secret, digest, hint = make_key()
    async with db.transaction() as tx:
        if not await tx.execute(SET_HASH, key_id, digest, hint):
            raise KEYS.absent(key_id)
        return await get(tx, key_id), secret


async def last_used(db: Session, key_id: str) -> int | None:
    """Give when the key was last seen in a usage record."""
    at: int | None = await db.fetchval(LAST_USED, key_id)
    return at


def _principal(row: Row) -> Principal:
    owners = ("user", "team", "org")
    expiries = [row["expires_at"], *(row[f"{owner}_expires"] for owner in owners)]
    enabled = row["key_enabled"] and all(
        row[f"{owner}_enabled"] != 0 and row[f"{owner}_deleted"] is None for owner in owners
    )
    priority = row["priority"]
    return Principal(
        key_id=row["id"],
        name=row["name"],
        enabled=bool(enabled),
        expires_at=min((at for at in expiries if at is not None), default=None),
        allowed_models=_names.decode(row["allowed_models"]),
        tags=_tags.decode(row["tags"]),
        client_tags=_names.decode(row["client_tags"]),
        allowed_ips=_names.decode(row["allowed_ips"]),
        user_id=row["user_id"],
        team_id=row["team_id"],
        org_id=row["org_id"],
        priority=DEFAULT_PRIORITY if priority is None else priority,
    )
