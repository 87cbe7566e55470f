"""Limits: ceilings on requests, tokens or concurrency, for whatever they match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastgw.storage.sql.noun import Noun, Stored
from fastgw.storage.store import Session

RESET_AT = "reset_at"
"""In a rule's metadata: epoch milliseconds; what was before no longer counts."""


class Limit(Stored, kw_only=True):
    """A limit. `match` is an id, a name, `k=v` for the scope tag, or `*`.

    Behind ` & ` it may name more that has to match: `key_1 & model=gpt-*`.
    """

    scope: str
    match: str = "*"
    metric: str
    limit: int
    window_s: int = 60
    algorithm: str = "sliding_window"
    burst: int | None = None
    shared: bool = False
    enabled: bool = True
    tags: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


LIMITS = Noun(
    "limits",
    Limit,
    "limit",
    named="match_value",
    columns={"match": "match_value", "limit": "limit_value"},
)

LOAD_ALL = "SELECT * FROM limits WHERE deleted_at IS NULL AND enabled = 1 ORDER BY created_at, id"
SAME_RULE = """SELECT id FROM limits WHERE scope = $1 AND match_value = $2 AND metric = $3
AND window_s = $4 AND deleted_at IS NULL"""

create, get, update = LIMITS.create, LIMITS.get, LIMITS.update
list = LIMITS.page  # noqa: A001 - read as `limits.list(...)`
hide, purge = LIMITS.hide, LIMITS.purge


async def put(db: Session, **values: Any) -> Limit:
    """Create a limit, or change the one with the same scope, match, metric and window."""
    wanted = LIMITS.make(**values)
    async with db.transaction() as tx:
        found = await tx.fetchval(
            SAME_RULE, wanted.scope, wanted.match, wanted.metric, wanted.window_s
        )
        return await (create(tx, **values) if found is None else update(tx, found, values))


async def load_all(db: Session) -> Sequence[Limit]:
    """Give every limit in force."""
    return [LIMITS.read(row) for row in await db.fetch(LOAD_ALL)]
