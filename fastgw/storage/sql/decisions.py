"""Decisions that clients asked to have kept: why a request was served as it was, or refused."""

from __future__ import annotations

import msgspec

from fastgw.domain import now_ms
from fastgw.errors import NotFound
from fastgw.storage.store import Session

KEPT_MS = 7 * 86_400_000
MOST = 100_000


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision, as JSON; its id is the usage record's."""

    id: str
    key_id: str
    decision: str
    created_at: int


PUT = """INSERT INTO decisions (id, key_id, decision, created_at, updated_at)
VALUES ($1, $2, $3, $4, $4) ON CONFLICT (id) DO NOTHING"""
GET = "SELECT id, key_id, decision, created_at FROM decisions WHERE id = $1"
PRUNE = "DELETE FROM decisions WHERE created_at < $1"
PRUNE_OLDEST = """DELETE FROM decisions WHERE id IN (
  SELECT id FROM (
    SELECT id, row_number() OVER (ORDER BY created_at DESC, id) AS place FROM decisions
  ) AS places WHERE place > $1)"""


async def put(db: Session, *, exchange_id: str, key_id: str, decision: str) -> None:
    """Keep a decision."""
    await db.execute(PUT, exchange_id, key_id, decision, now_ms())


async def get(db: Session, exchange_id: str) -> Decision:
    """Give one; NotFound."""
    row = await db.fetchrow(GET, exchange_id)
    if row is None:
        raise NotFound(f"no decision {exchange_id!r}")
    return Decision(**row)


async def prune(db: Session) -> None:
    """Forget what is older than a week, and the oldest of too many."""
    await db.execute(PRUNE, now_ms() - KEPT_MS)
    await db.execute(PRUNE_OLDEST, MOST)
