"""What was spent since a moment, by whom a budget can be about.

Roll-ups tell it for whole periods. Since any other moment only the records themselves do, and the
caller asks for that only after a budget was reset.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from fastgw.storage.store import Session

COLUMNS = {
    "key": "key_id",
    "user": "user_id",
    "team": "team_id",
    "org": "org_id",
    "provider": "provider",
    "model": "requested_model",
}
_SPENT = "CAST(COALESCE(sum(cost_nano), 0) AS BIGINT) AS spent"
_SOURCES = {
    "day": ("usage_daily", "day"),
    "month": ("usage_monthly", "month"),
    "record": ("usage_records", "created_at"),
}
BY_VALUE = {
    (source, scope): f"""SELECT {column} AS value, {_SPENT} FROM {table}
WHERE {time} >= $1 AND {column} <> '' AND (CAST($2 AS TEXT) IS NULL OR {column} = $2)
GROUP BY {column}"""
    for source, (table, time) in _SOURCES.items()
    for scope, column in COLUMNS.items()
}
IN_ALL = {
    source: f"SELECT {_SPENT} FROM {table} WHERE {time} >= $1"
    for source, (table, time) in _SOURCES.items()
}
BY_TAG = f"SELECT name, value, {_SPENT} FROM usage_tags_daily WHERE day >= $1 GROUP BY name, value"
BY_TAGS = f"SELECT tags, {_SPENT} FROM usage_records WHERE created_at >= $1 GROUP BY tags"

_tags = msgspec.json.Decoder(dict[str, str])


async def since(
    db: Session, scope: str, at_ms: int, source: str, value: str | None = None
) -> Mapping[str, int]:
    """Give nano-dollars by value of a scope: an id, a name, `k=v` for a tag, "" for global.

    `source` is "day" or "month" (roll-ups; `at_ms` begins one) or "record". With `value` only that
    one is asked for, where that saves work.
    """
    if scope == "global":
        return {"": await db.fetchval(IN_ALL[source], at_ms)}
    if scope == "tag":
        return await _by_tag(db, at_ms, source)
    rows = await db.fetch(BY_VALUE[source, scope], at_ms, value)
    return {row["value"]: row["spent"] for row in rows}


async def _by_tag(db: Session, at_ms: int, source: str) -> Mapping[str, int]:
    spent: dict[str, int] = {}
    if source != "record":
        rows = await db.fetch(BY_TAG, at_ms)
        return {f"{row['name']}={row['value']}": row["spent"] for row in rows}
    for row in await db.fetch(BY_TAGS, at_ms):
        for name, value in _tags.decode(row["tags"]).items():
            spent[f"{name}={value}"] = spent.get(f"{name}={value}", 0) + row["spent"]
    return spent


_USED = {
    "requests": "count(*)",
    "tokens": "CAST(COALESCE(sum(input_tokens + output_tokens), 0) AS BIGINT)",
}
_SERVED = "created_at >= $1 AND upstream_model <> ''"
"""Records of requests that reached a provider: no others count."""
USED_BY_VALUE = {
    (metric, scope): f"""SELECT {column} AS value, {used} AS used FROM usage_records
WHERE {_SERVED} AND {column} IS NOT NULL GROUP BY {column}"""
    for metric, used in _USED.items()
    for scope, column in COLUMNS.items()
}
USED_IN_ALL = {
    metric: f"SELECT {used} AS used FROM usage_records WHERE {_SERVED}"
    for metric, used in _USED.items()
}
USED_BY_TAGS = {
    metric: f"SELECT tags, {used} AS used FROM usage_records WHERE {_SERVED} GROUP BY tags"
    for metric, used in _USED.items()
}


async def used_since(db: Session, scope: str, at_ms: int, metric: str) -> Mapping[str, int]:
    """Give requests or tokens by value of a scope, from the records since a moment."""
    if scope == "global":
        return {"": await db.fetchval(USED_IN_ALL[metric], at_ms)}
    if scope != "tag":
        rows = await db.fetch(USED_BY_VALUE[metric, scope], at_ms)
        return {row["value"]: row["used"] for row in rows}
    found: dict[str, int] = {}
    for row in await db.fetch(USED_BY_TAGS[metric], at_ms):
        for name, value in _tags.decode(row["tags"]).items():
            found[f"{name}={value}"] = found.get(f"{name}={value}", 0) + row["used"]
    return found
