"""The audit log: who changed what. Append-only: the database refuses anything else."""

from __future__ import annotations

from typing import Any

import msgspec

from fastgw.domain import Secret, now_ms
from fastgw.storage.sql.noun import Page, new_id, page_size, read_cursor, write_cursor
from fastgw.storage.store import Row, Session


class Entry(msgspec.Struct, kw_only=True):
    """One change. `before` and `after` are JSON values with secrets masked."""

    id: str
    created_at: int
    actor_type: str
    actor_id: str | None
    actor_name: str
    action: str
    noun: str
    object_id: str | None
    before: Any
    after: Any
    address: str | None
    request_id: str | None


APPEND = """INSERT INTO audit_log (id, created_at, updated_at, actor_type, actor_id, actor_name,
  action, noun, object_id, before_json, after_json, address, request_id)
VALUES ($1, $2, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"""
LIST = """SELECT * FROM audit_log WHERE (created_at, id) < ($1, $2)
ORDER BY created_at DESC, id DESC LIMIT $3"""


async def append(
    tx: Session,
    *,
    actor_type: str,
    action: str,
    noun: str,
    actor_id: str | None = None,
    actor_name: str = "",
    object_id: str | None = None,
    before: Any = None,
    after: Any = None,
    address: str | None = None,
    request_id: str | None = None,
) -> None:
    """Note a change, in the transaction that makes it."""
    texts = (_json(before), _json(after))
    actor = (actor_type, actor_id, actor_name)
    what = (action, noun, object_id)
    await tx.execute(APPEND, new_id("audit"), now_ms(), *actor, *what, *texts, address, request_id)


async def page(db: Session, *, limit: int = 50, cursor: str | None = None) -> Page[Entry]:
    """Give a page of changes, newest first."""
    rows = await db.fetch(LIST, *read_cursor(cursor), page_size(limit) + 1)
    items = [_entry(row) for row in rows[:limit]]
    more = len(rows) > limit
    return Page(items, write_cursor(items[-1].created_at, items[-1].id) if more else None)


def _entry(row: Row) -> Entry:
    before, after = row["before_json"], row["after_json"]
    return Entry(
        id=row["id"],
        created_at=row["created_at"],
        actor_type=row["actor_type"],
        actor_id=row["actor_id"],
        actor_name=row["actor_name"],
        action=row["action"],
        noun=row["noun"],
        object_id=row["object_id"],
        before=None if before is None else msgspec.json.decode(before),
        after=None if after is None else msgspec.json.decode(after),
        address=row["address"],
        request_id=row["request_id"],
    )


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value, enc_hook=_mask).decode()


def _mask(value: object) -> str:
    if isinstance(value, Secret):
        return value.masked()
    raise TypeError(f"{type(value).__name__} is no JSON value")
