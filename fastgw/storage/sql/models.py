"""Models: what is known of upstream models and what they cost, by provider type and name.

Rows come from the catalogue; what an admin set is also kept in `overrides`, and no sync undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastgw.domain import Price
from fastgw.storage.sql.noun import Noun, Stored
from fastgw.storage.store import Session

T = TypeVar("T")


class StoredModel(Stored, kw_only=True):
    """A model. `provider` is the provider type; prices are pico-dollars a unit, None unknown."""

    provider: str
    name: str
    mode: str = ""
    context_window: int | None = None
    max_output_tokens: int | None = None
    input_pico: int | None = None
    output_pico: int | None = None
    cached_pico: int | None = None
    cache_write_pico: int | None = None
    reasoning_pico: int | None = None
    per_request_pico: int | None = None
    prices: dict[str, int] = {}
    features: tuple[str, ...] = ()
    deprecated_at: int | None = None
    source: str = "admin"
    overrides: dict[str, Any] = {}
    enabled: bool = True
    tags: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


MODELS = Noun("models", StoredModel, "model", fixed=("provider", "name"))

OVERRIDABLE = (
    "mode", "context_window", "max_output_tokens", "input_pico", "output_pico", "cached_pico",
    "cache_write_pico", "reasoning_pico", "per_request_pico", "prices", "features",
    "deprecated_at",
)  # fmt: skip
"""Fields that are facts: an admin's word for them outlives every sync."""

_PLAIN = ('"input_pico"', '"output_pico"')

BY_NAME = "SELECT id FROM models WHERE provider = $1 AND name = $2"
REVIVE = "UPDATE models SET deleted_at = NULL WHERE id = $1 AND deleted_at IS NOT NULL"
LOAD_ALL = "SELECT * FROM models WHERE deleted_at IS NULL ORDER BY provider, name"
LOAD_KNOWN = """SELECT provider, name, enabled, input_pico, output_pico, cached_pico,
  cache_write_pico, reasoning_pico, per_request_pico, prices, overrides, max_output_tokens,
  created_at
FROM models WHERE deleted_at IS NULL ORDER BY provider, name"""

create, get, find = MODELS.create, MODELS.get, MODELS.find
list = MODELS.page  # noqa: A001 - read as `models.list(...)`
hide, purge = MODELS.hide, MODELS.purge


async def update(db: Session, model_id: str, changes: Mapping[str, Any]) -> StoredModel:
    """Change the named fields as an admin does: facts among them become overrides."""
    async with db.transaction() as tx:
        row = await tx.fetchrow(MODELS.lock_sql, model_id)
        if row is None:
            raise MODELS.absent(model_id)
        overrides = MODELS.read(row).overrides
        overrides |= {name: changes[name] for name in changes if name in OVERRIDABLE}
        return await MODELS.update(tx, model_id, {**changes, "overrides": overrides})


async def put(db: Session, provider: str, name: str, **changes: Any) -> StoredModel:
    """Set facts of a model as an admin does, whether the catalogue knows it or not."""
    async with db.transaction() as tx:
        found = await tx.fetchval(BY_NAME, provider, name)
        if found is None:
            found = (await create(tx, provider=provider, name=name)).id
        await tx.execute(REVIVE, found)
        return await update(tx, found, changes)


async def load_all(db: Session) -> Sequence[StoredModel]:
    """Give every model, disabled ones too."""
    return [MODELS.read(row) for row in await db.fetch(LOAD_ALL)]


async def load_known(db: Session, make: Callable[..., T]) -> Sequence[T]:
    """Give what the flow must know of each model: `make` takes it by name.

    One pass without reading JSON: thousands of rows are read at every change of configuration.
    """
    return [
        make(
            provider_type=row["provider"],
            name=row["name"],
            enabled=row["enabled"] == 1,
            price=price_of(row),
            prices=_prices_of(row),
            max_output_tokens=row["max_output_tokens"],
            created_at=row["created_at"],
        )
        for row in await db.fetch(LOAD_KNOWN)
    ]


def _prices_of(row: Mapping[str, Any]) -> str:
    """Give the further lines; the catalogue's do not go with plain lines that an admin set."""
    own: str = row["overrides"]
    mixed = '"prices"' not in own and any(line in own for line in _PLAIN)
    return "{}" if mixed else row["prices"]


def price_of(row: Mapping[str, Any]) -> Price | None:
    """Give the price a row says, None when nobody said what a token costs."""
    input_, output, fee = row["input_pico"], row["output_pico"], row["per_request_pico"]
    if input_ is None and output is None and fee is None:
        return None
    return Price(
        input=input_ or 0,
        output=output or 0,
        cached=row["cached_pico"],
        cache_write=row["cache_write_pico"],
        reasoning=row["reasoning_pico"],
        per_request=fee or 0,
    )
