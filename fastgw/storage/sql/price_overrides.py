"""Price overrides: what a deployment, a provider, a team or a key pays instead, from a date on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastgw.domain import PriceOverride
from fastgw.errors import InvalidRequest
from fastgw.storage.sql.noun import Noun, Stored
from fastgw.storage.store import Session


class StoredOverride(Stored, kw_only=True):
    """An override as it is stored; `fastgw.domain.PriceOverride` is what the flow sees.

    Either a multiplier, in millionths, or `lines` in pico-dollars a unit, by the names of the
    fields of `fastgw.domain.Price`.
    """

    scope: str
    match: str
    model: str = "*"
    multiplier_ppm: int | None = None
    lines: dict[str, int] = {}
    starts_at: int = 0
    ends_at: int | None = None
    enabled: bool = True
    tags: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


OVERRIDES = Noun(
    "price_overrides",
    StoredOverride,
    "price",
    named="match_value",
    columns={"match": "match_value"},
)

LOAD_ALL = """SELECT * FROM price_overrides WHERE deleted_at IS NULL AND enabled = 1
ORDER BY created_at, id"""

get, hide, purge = OVERRIDES.get, OVERRIDES.hide, OVERRIDES.purge
list = OVERRIDES.page  # noqa: A001 - read as `price_overrides.list(...)`


async def create(db: Session, **values: Any) -> StoredOverride:
    """Store an override; InvalidRequest when it says nothing or makes no sense."""
    made = OVERRIDES.make(**values)
    _of(made)
    await OVERRIDES.insert(db, made)
    return made


async def update(db: Session, override_id: str, changes: dict[str, Any]) -> StoredOverride:
    """Change the named fields."""
    async with db.transaction() as tx:
        changed = await OVERRIDES.update(tx, override_id, changes)
        _of(changed)
        return changed


async def load_all(db: Session) -> Sequence[PriceOverride]:
    """Give every override in force or to come, as the flow sees it."""
    return [_of(OVERRIDES.read(row)) for row in await db.fetch(LOAD_ALL)]


def _of(stored: StoredOverride) -> PriceOverride:
    try:
        return PriceOverride(
            id=stored.id,
            scope=stored.scope,
            match=stored.match,
            model=stored.model,
            multiplier_ppm=stored.multiplier_ppm,
            lines=stored.lines or None,
            starts_at=stored.starts_at,
            ends_at=stored.ends_at,
        )
    except ValueError as exc:
        raise InvalidRequest(str(exc)) from exc
