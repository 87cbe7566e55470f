"""Writing catalogue facts to the models table: the first seeding, and syncs with their record.

What an admin set (`overrides`) wins over every file; what an admin disabled or deleted stays so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fastgw.catalog.facts import ModelFacts
from fastgw.catalog.sync import Change, Changes, diff, refuse_loss
from fastgw.domain import now_ms
from fastgw.storage.sql.models import MODELS, StoredModel, price_of
from fastgw.storage.sql.noun import Noun, Stored
from fastgw.storage.store import Load, Session

Key = tuple[str, str]


class CatalogSync(Stored, kw_only=True):
    """One sync: where from, how it went, and each fact that changed."""

    source: str
    status: str = "done"
    finished_at: int | None = None
    added: int = 0
    changed: int = 0
    deprecated: int = 0
    unchanged: int = 0
    kept_overrides: int = 0
    changes: tuple[dict[str, Any], ...] = ()
    error: str | None = None


ADMIN = "admin"
"""`source` of a model that no file brought."""

SYNCS = Noun("catalog_syncs", CatalogSync, "catalog_sync", named="source")
ADD = Load("models", MODELS.inserted)
EVERY_MODEL = "SELECT * FROM models"
DEPRECATE = """UPDATE models SET deprecated_at = $3
WHERE provider = $1 AND name = $2 AND deprecated_at IS NULL"""

get = SYNCS.get
list = SYNCS.page  # noqa: A001 - read as `catalog_syncs.list(...)`


async def read(db: Session) -> dict[Key, StoredModel]:
    """Give every model, hidden ones too, by (provider type, name)."""
    models = map(MODELS.read, await db.fetch(EVERY_MODEL))
    return {(model.provider, model.name): model for model in models}


def facts_of(model: StoredModel) -> ModelFacts:
    """Give a stored model as the catalogue's record."""
    return ModelFacts(
        provider=model.provider,
        name=model.name,
        mode=model.mode,
        context_window=model.context_window,
        max_output_tokens=model.max_output_tokens,
        price=price_of(msgspec.structs.asdict(model)),
        features=model.features,
        deprecated_at=model.deprecated_at,
        extra=model.prices,
    )


def values_of(facts: ModelFacts) -> dict[str, Any]:
    """Give the columns a model's facts fill."""
    price = facts.price
    return {
        "mode": facts.mode,
        "context_window": facts.context_window,
        "max_output_tokens": facts.max_output_tokens,
        "input_pico": price and price.input,
        "output_pico": price and price.output,
        "cached_pico": price and price.cached,
        "cache_write_pico": price and price.cache_write,
        "reasoning_pico": price and price.reasoning,
        "per_request_pico": price and price.per_request,
        "prices": facts.extra,
        "features": facts.features,
        "deprecated_at": facts.deprecated_at,
    }


def plan(stored: Mapping[Key, StoredModel], facts: Iterable[ModelFacts]) -> tuple[Changes, int]:
    """Say what the facts change in what is stored, and how many models keep an override.

    What an admin made and no file names is none of the catalogue's business.
    """
    wanted = {(one.provider, one.name): one for one in facts}
    kept = 0
    for key, model in stored.items():
        if model.overrides and key in wanted:
            wanted[key] = facts_of(_merged(model, wanted[key]))
            kept += 1
    old = {
        key: facts_of(model)
        for key, model in stored.items()
        if model.source != ADMIN or key in wanted
    }
    return diff(old, wanted), kept


async def sync(
    db: Session, facts: Iterable[ModelFacts], *, source: str, dry_run: bool = False
) -> tuple[Changes, CatalogSync]:
    """Bring the models up to the facts and keep a record of it; CatalogError refuses a fragment.

    With `dry_run` nothing is written. Models the facts do not name are deprecated, not removed.
    """
    facts = [*facts]
    async with db.transaction() as tx:
        stored = await read(tx)
        changes, kept = plan(stored, facts)
        refuse_loss({key: facts_of(model) for key, model in stored.items()}, changes)
        deprecated = len(changes.deprecated)
        touched = len(changes.updated) + deprecated
        record = SYNCS.make(
            source=source,
            finished_at=now_ms(),
            added=len(changes.added),
            changed=len(changes.updated),
            deprecated=deprecated,
            unchanged=len(stored) - touched,
            kept_overrides=kept,
            changes=[_shown(change) for change in changes.changed],
        )
        if not dry_run:
            await write(tx, stored, changes, origin="sync")
            await SYNCS.insert(tx, record)
    return changes, record


async def fail(db: Session, *, source: str, error: str) -> CatalogSync:
    """Keep a record of a sync that came to nothing."""
    return await SYNCS.create(db, source=source, status="failed", finished_at=now_ms(), error=error)


async def write(
    tx: Session, stored: Mapping[Key, StoredModel], changes: Changes, *, origin: str
) -> None:
    """Write planned changes: new models in one go, so that the configuration changes once."""
    added = [
        MODELS.make(provider=facts.provider, name=facts.name, source=origin, **values_of(facts))
        for facts in changes.added
    ]
    if added:
        rows = [tuple(MODELS.write(model, MODELS.fields_inserted)) for model in added]
        await tx.load(ADD, rows)
    for facts in changes.updated:
        model = stored[facts.provider, facts.name]
        merged = msgspec.structs.replace(model, **values_of(facts), source=origin)
        await tx.execute(MODELS.update_sql, model.id, *MODELS.write(merged, MODELS.writable))
    now = now_ms()
    for provider, name in changes.deprecated:
        await tx.execute(DEPRECATE, provider, name, now)


def _merged(model: StoredModel, facts: ModelFacts) -> StoredModel:
    """Give the model with the facts, but for what an admin set."""
    values = values_of(facts)
    news = {name: value for name, value in values.items() if name not in model.overrides}
    return msgspec.structs.replace(model, **news)


def _shown(change: Change) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(change)
    return shown
