"""How stored objects are shown: names as they are stored, times as ISO 8601, money as dollars."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from fastgw.cli.output import iso
from fastgw.domain import usd

if TYPE_CHECKING:
    from fastgw.storage import Store
    from fastgw.storage.sql.noun import Noun

PAGE = 500


def shown(record: msgspec.Struct) -> dict[str, Any]:
    """Give a record as it is printed; `deleted_at` of what is not deleted is left out."""
    row: dict[str, Any] = {}
    for name, value in msgspec.to_builtins(record).items():
        if name == "deleted_at":
            continue
        if name.endswith("_at"):
            row[name] = iso(value)
        elif name.endswith("_nano"):
            row[name.removesuffix("_nano") + "_usd"] = usd(value)
        else:
            row[name] = value
    return row


async def listing(
    store: Store,
    noun: Noun[Any],
    *,
    search: str = "",
    limit: int = 0,
    show: Callable[[Any], dict[str, Any]] = shown,
) -> list[dict[str, Any]]:
    """Give what is stored, newest first, at most `limit` (0: all)."""
    rows: list[dict[str, Any]] = []
    cursor = None
    while not limit or len(rows) < limit:
        size = min(PAGE, limit - len(rows)) if limit else PAGE
        page = await noun.page(store, q=search, limit=size, cursor=cursor)
        rows += map(show, page.items)
        cursor = page.cursor
        if cursor is None:
            break
    return rows
