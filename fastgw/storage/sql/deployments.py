"""Deployments: what serves a public model name, in order, and what to fall back to.

Providers are named, not referred to: they may live in the configuration file alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from fastgw.domain import now_ms
from fastgw.errors import NotFound
from fastgw.storage.sql.noun import new_id
from fastgw.storage.store import Session

T = TypeVar("T")

DEPLOYMENTS = """SELECT model, provider, upstream_model, weight, created_at FROM deployments
WHERE enabled = 1 ORDER BY model, position, id"""
FALLBACKS = "SELECT model, fallback, created_at FROM fallbacks ORDER BY model, position, id"
INSERT_DEPLOYMENT = """INSERT INTO deployments
  (id, model, provider, upstream_model, weight, position, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7)"""
INSERT_FALLBACK = """INSERT INTO fallbacks (id, model, fallback, position, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $5)"""
DELETE_DEPLOYMENTS = "DELETE FROM deployments WHERE model = $1"
DELETE_FALLBACKS = "DELETE FROM fallbacks WHERE model = $1"


async def put(
    db: Session,
    model: str,
    deployments: Iterable[tuple[str, str, int]],
    fallbacks: Iterable[str] = (),
) -> None:
    """Say what serves `model`: (provider name, upstream model, weight) in order, and fallbacks."""
    now = now_ms()
    async with db.transaction() as tx:
        await tx.execute(DELETE_DEPLOYMENTS, model)
        await tx.execute(DELETE_FALLBACKS, model)
        for position, (provider, upstream_model, weight) in enumerate(deployments):
            row = (new_id("deployment"), model, provider, upstream_model, weight, position, now)
            await tx.execute(INSERT_DEPLOYMENT, *row)
        for position, fallback in enumerate(fallbacks):
            row_ = (new_id("fallback"), model, fallback, position, now)
            await tx.execute(INSERT_FALLBACK, *row_)


async def delete(db: Session, model: str) -> None:
    """Forget what serves `model`."""
    async with db.transaction() as tx:
        gone = await tx.execute(DELETE_DEPLOYMENTS, model)
        if not gone + await tx.execute(DELETE_FALLBACKS, model):
            raise NotFound(f"no deployment of {model!r}")


async def load_routes(db: Session, make: Callable[..., T]) -> Sequence[T]:
    """Give each public model: `make` takes name, deployments, fallbacks and created_at."""
    routes: dict[str, dict[str, Any]] = {}
    for row in await db.fetch(DEPLOYMENTS):
        route = routes.setdefault(row["model"], _route(row["model"], row["created_at"]))
        route["deployments"] += ((row["provider"], row["upstream_model"], row["weight"]),)
    for row in await db.fetch(FALLBACKS):
        route = routes.setdefault(row["model"], _route(row["model"], row["created_at"]))
        route["fallbacks"] += (row["fallback"],)
    return [make(**route) for route in routes.values()]


def _route(name: str, created_at: int) -> dict[str, Any]:
    return {"name": name, "deployments": (), "fallbacks": (), "created_at": created_at}
