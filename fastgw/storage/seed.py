"""Fill a database: the catalogue's models, and a small organisation to try things with.

Idempotent: seeding twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from fastgw.catalog.facts import ModelFacts
from fastgw.domain import NANO, Secret
from fastgw.errors import NotFound
from fastgw.storage.sql import (
    aliases,
    budgets,
    catalog_syncs,
    keys,
    limits,
    orgs,
    teams,
    users,
)
from fastgw.storage.store import Session


class Seeded(msgspec.Struct, frozen=True):
    """How many models a seeding added, changed, and left as they were."""

    added: int
    changed: int
    unchanged: int


class Demo(msgspec.Struct, frozen=True):
    """Demo data. The texts of the keys are there only the first time, when they were made."""

    org_id: str
    team_id: str
    user_id: str
    keys: dict[str, Secret]


DEMO_KEYS: dict[str, dict[str, Any]] = {
    "demo": {"tags": {"app": "demo"}, "client_tags": ("job",)},
    "demo-batch": {"tags": {"app": "batch"}, "priority": 2},
    "demo-limited": {"tags": {"app": "limited"}, "allowed_models": ("demo*", "gpt-4o-mini")},
}


async def catalogue(db: Session, facts: Iterable[ModelFacts]) -> Seeded:
    """Add the models that are missing and bring those up to date that came from a seeding.

    What a sync or an admin wrote since is newer and stays; nothing is deprecated.
    """
    facts = [*facts]
    async with db.transaction() as tx:
        stored = await catalog_syncs.read(tx)
        newer = {key for key, model in stored.items() if model.source != "catalogue"}
        ours = [one for one in facts if (one.provider, one.name) not in newer]
        changes, _ = catalog_syncs.plan(stored, ours)
        changes = msgspec.structs.replace(changes, deprecated=())
        await catalog_syncs.write(tx, stored, changes, origin="catalogue")
    added, changed = len(changes.added), len(changes.updated)
    return Seeded(added=added, changed=changed, unchanged=len(facts) - added - changed)


async def demo(db: Session, *, model: str = "demo") -> Demo:
    """Make an organisation with a team, a user, keys, an alias, limits and budgets, once."""
    async with db.transaction() as tx:
        try:
            org = await orgs.find(tx, "Demo org")
        except NotFound:
            return await _make_demo(tx, model)
        team, user = await teams.find(tx, "Demo team"), await users.find(tx, "Demo user")
        return Demo(org_id=org.id, team_id=team.id, user_id=user.id, keys={})


async def _make_demo(tx: Session, model: str) -> Demo:
    org = await orgs.create(tx, name="Demo org")
    team = await teams.create(tx, name="Demo team", org_id=org.id, priority=5)
    user = await users.create(
        tx, name="Demo user", email="demo@example.com", team_id=team.id, org_id=org.id
    )
    made = {}
    for name, values in DEMO_KEYS.items():
        key, made[name] = await keys.create(tx, name=name, user_id=user.id, **values)
        if name == "demo-limited":
            await limits.put(
                tx, scope="key", match=key.id, metric="requests", limit=60, window_s=60
            )
            await budgets.put(tx, scope="key", match=key.id, limit_nano=NANO, period="day")
    await limits.put(tx, scope="team", match=team.id, metric="tokens", limit=1_000_000, window_s=60)
    await budgets.put(tx, scope="org", match=org.id, limit_nano=100 * NANO, period="month")
    await aliases.put(tx, name="demo-alias", model=model, tags={"app": "alias"})
    return Demo(org_id=org.id, team_id=team.id, user_id=user.id, keys=made)
