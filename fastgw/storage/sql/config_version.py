"""The configuration's version and what changed since.

Kept by triggers, so that a change made with psql or sqlite3 is noticed as well.
"""

from __future__ import annotations

from fastgw.storage.store import Session

KEPT = 10_000
"""Versions whose changes are kept; whoever is further behind reads everything anew."""

CURRENT = "SELECT version FROM config_version WHERE id = 1"
BOUNDS = "SELECT version, pruned_to FROM config_version WHERE id = 1"
CHANGES = """SELECT version, noun, object_id FROM config_changes WHERE version > $1
ORDER BY version, noun, object_id"""
PRUNE_TO = """UPDATE config_version SET pruned_to = version - $1
WHERE id = 1 AND version - $1 > pruned_to RETURNING pruned_to"""
PRUNE = "DELETE FROM config_changes WHERE version <= $1"


async def current(db: Session) -> int:
    """Give the version; it grows with every change."""
    version: int = await db.fetchval(CURRENT)
    return version


async def changes_since(db: Session, version: int) -> list[tuple[int, str, str]] | None:
    """Give (version, table, object id) of each change after `version`, oldest first.

    None when that is no longer known: too long ago, or another database was put in place.
    """
    # The changes are read first: what is pruned after that is in them already.
    rows = await db.fetch(CHANGES, version)
    bounds = await db.fetchrow(BOUNDS)
    assert bounds is not None, "the migration made it"
    if not bounds["pruned_to"] <= version <= bounds["version"]:
        return None
    return [(row["version"], row["noun"], row["object_id"]) for row in rows]


async def prune(db: Session, kept: int = KEPT) -> int:
    """Forget all but the last `kept` versions; give how many changes went."""
    async with db.transaction() as tx:
        pruned_to = await tx.fetchval(PRUNE_TO, kept)
        return 0 if pruned_to is None else await tx.execute(PRUNE, pruned_to)
