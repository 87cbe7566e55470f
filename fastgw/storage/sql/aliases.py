"""Model aliases: another name for a model, with tags and, if wanted, a key that pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastgw.domain import Alias
from fastgw.storage.sql.noun import Noun, Stored
from fastgw.storage.store import Session


class ModelAlias(Stored, kw_only=True):
    """An alias as it is stored; `fastgw.domain.Alias` is what the flow sees."""

    name: str
    model: str
    billing_key_id: str | None = None
    enabled: bool = True
    tags: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


ALIASES = Noun("model_aliases", ModelAlias, "alias")

LOAD_ALL = "SELECT * FROM model_aliases WHERE deleted_at IS NULL AND enabled = 1 ORDER BY name"
SAME_NAME = "SELECT id FROM model_aliases WHERE name = $1 AND deleted_at IS NULL"

create, get, find, update = ALIASES.create, ALIASES.get, ALIASES.find, ALIASES.update
list = ALIASES.page  # noqa: A001 - read as `aliases.list(...)`
hide, purge = ALIASES.hide, ALIASES.purge


async def put(db: Session, **values: Any) -> ModelAlias:
    """Create an alias, or change the one of that name."""
    wanted = ALIASES.make(**values)
    async with db.transaction() as tx:
        found = await tx.fetchval(SAME_NAME, wanted.name)
        return await (create(tx, **values) if found is None else update(tx, found, values))


async def load_all(db: Session) -> Sequence[Alias]:
    """Give every alias in force as the flow sees it."""
    return [
        Alias(
            name=alias.name,
            model=alias.model,
            tags=alias.tags,
            billing_key_id=alias.billing_key_id,
        )
        for alias in map(ALIASES.read, await db.fetch(LOAD_ALL))
    ]
