"""Answers kept under a client's `Idempotency-Key`, and who is at one right now.

A row is claimed before anything is sent. Its owner beats while it works, so that others can tell a
slow one from a dead one without comparing clocks.
"""

from __future__ import annotations

import msgspec

from fastgw.domain import now_ms
from fastgw.storage.store import Session


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is there under an id: `status` is None while `owner` is at it.

    0 stands for an answer that was too large to be kept. `fields` are header lines.
    """

    fingerprint: bytes
    owner: str
    beat: int
    status: int | None
    streamed: bool
    fields: bytes
    body: bytes


TOO_LARGE = 0
ROW_BYTES = 200
"""What a row takes beside its answer, about."""

FIND = """SELECT fingerprint, owner, beat, status, streamed, fields, body
FROM kept_answers WHERE id = $1"""
EXPIRE = "DELETE FROM kept_answers WHERE id = $1 AND expires_at <= $2"
CLAIM = """INSERT INTO kept_answers
  (id, key_id, fingerprint, owner, size, expires_at, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT (id) DO NOTHING"""
TAKE_OVER = """UPDATE kept_answers SET owner = $2, beat = beat + 1, updated_at = $5
WHERE id = $1 AND owner = $3 AND beat = $4 AND status IS NULL"""
BEAT = """UPDATE kept_answers SET beat = beat + 1, updated_at = $2
WHERE owner = $1 AND status IS NULL"""
KEEP = """UPDATE kept_answers
SET status = $3, streamed = $4, fields = $5, body = $6, size = $7, updated_at = $8
WHERE id = $1 AND owner = $2 AND status IS NULL"""
RELEASE = "DELETE FROM kept_answers WHERE id = $1 AND owner = $2 AND status IS NULL"
PRUNE = "DELETE FROM kept_answers WHERE expires_at <= $1"
PRUNE_OLDEST = """DELETE FROM kept_answers WHERE status IS NOT NULL AND id IN (
  SELECT id FROM (
    SELECT id, sum(size) OVER (ORDER BY created_at DESC, id) AS newer FROM kept_answers
  ) AS sizes WHERE newer > $1)"""


async def claim(
    db: Session, kept_id: str, *, key_id: str, fingerprint: bytes, owner: str, ttl_ms: int
) -> KeptAnswer | None:
    """Begin to answer under an id; if somebody has or is at it, give that instead."""
    while True:
        now = now_ms()
        await db.execute(EXPIRE, kept_id, now)
        if await db.execute(
            CLAIM, kept_id, key_id, fingerprint, owner, ROW_BYTES, now + ttl_ms, now
        ):
            return None
        found = await find(db, kept_id)
        if found is not None:  # else it was given up just now
            return found


async def find(db: Session, kept_id: str) -> KeptAnswer | None:
    """Give what is there under an id."""
    row = await db.fetchrow(FIND, kept_id)
    if row is None:
        return None
    return KeptAnswer(
        fingerprint=row["fingerprint"],
        owner=row["owner"],
        beat=row["beat"],
        status=row["status"],
        streamed=bool(row["streamed"]),
        fields=row["fields"] or b"",
        body=row["body"] or b"",
    )


async def take_over(db: Session, kept_id: str, seen: KeptAnswer, owner: str) -> bool:
    """Become the owner, unless the one that was seen has stirred since."""
    return bool(await db.execute(TAKE_OVER, kept_id, owner, seen.owner, seen.beat, now_ms()))


async def beat(db: Session, owner: str) -> None:
    """Show that an owner is alive."""
    await db.execute(BEAT, owner, now_ms())


async def keep(
    db: Session,
    kept_id: str,
    owner: str,
    *,
    status: int,
    streamed: bool = False,
    fields: bytes = b"",
    body: bytes = b"",
) -> bool:
    """Keep an answer; False when somebody else has taken over meanwhile."""
    size = ROW_BYTES + len(fields) + len(body)
    changed = await db.execute(
        KEEP, kept_id, owner, status, int(streamed), fields, body, size, now_ms()
    )
    return bool(changed)


async def release(db: Session, kept_id: str, owner: str) -> None:
    """Give up: the next request under this id is a first one."""
    await db.execute(RELEASE, kept_id, owner)


async def prune(db: Session, most_bytes: int) -> None:
    """Forget what is too old, and the oldest of what is too much."""
    await db.execute(PRUNE, now_ms())
    await db.execute(PRUNE_OLDEST, most_bytes)
