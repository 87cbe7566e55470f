"""Budgets: ceilings on spend in a calendar period, for whatever they match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastgw.storage.sql.noun import Noun, Stored
from fastgw.storage.store import Session


class Budget(Stored, kw_only=True):
    """A budget of nano-dollars. `match` is an id, a name, `k=v` for the scope tag, or `*`."""

    scope: str
    match: str = "*"
    limit_nano: int
    period: str
    hard: bool = True
    shared: bool = False
    enabled: bool = True
    tags: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


BUDGETS = Noun("budgets", Budget, "budget", named="match_value", columns={"match": "match_value"})

LOAD_ALL = "SELECT * FROM budgets WHERE deleted_at IS NULL AND enabled = 1 ORDER BY created_at, id"
SAME_RULE = """SELECT id FROM budgets WHERE scope = $1 AND match_value = $2 AND period = $3
AND deleted_at IS NULL"""

create, get, update = BUDGETS.create, BUDGETS.get, BUDGETS.update
list = BUDGETS.page  # noqa: A001 - read as `budgets.list(...)`
hide, purge = BUDGETS.hide, BUDGETS.purge


async def put(db: Session, **values: Any) -> Budget:
    """Create a budget, or change the one with the same scope, match and period."""
    wanted = BUDGETS.make(**values)
    async with db.transaction() as tx:
        found = await tx.fetchval(SAME_RULE, wanted.scope, wanted.match, wanted.period)
        return await (create(tx, **values) if found is None else update(tx, found, values))


async def load_all(db: Session) -> Sequence[Budget]:
    """Give every budget in force."""
    return [BUDGETS.read(row) for row in await db.fetch(LOAD_ALL)]
