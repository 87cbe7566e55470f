"""Usage records and roll-ups out: pages, exports, summaries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec

from fastgw.domain import UsageRecord
from fastgw.errors import InvalidRequest
from fastgw.storage.sql.noun import LATEST, Page, page_size, read_cursor, write_cursor
from fastgw.storage.sql.usage import DAY_MS, SUMS, month_bounds
from fastgw.storage.store import Row, Session

EXPORT_PAGE = 1000
UNKNOWN = ""
"""The group of what has no key, user, team, org, provider or model."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which records: `since` included, `until` excluded, epoch milliseconds; None filters nothing.

    `model` is the requested one, `tag` a (name, value).
    """

    since: int = 0
    until: int = LATEST[0]
    key_id: str | None = None
    user_id: str | None = None
    team_id: str | None = None
    org_id: str | None = None
    provider: str | None = None
    model: str | None = None
    status: int | None = None
    tag: tuple[str, str] | None = None


class Summary(msgspec.Struct, kw_only=True):
    """Sums of one group. `group` is an id, a name, a model, `YYYY-MM-DD`, `YYYY-MM` or `k=v`."""

    group: str
    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_nano: int
    duration_ms: int


# LIKE is case-sensitive on one engine only, so a tag is looked for by taking its text out.
_MATCHES = """created_at >= $1 AND created_at < $2
AND (CAST($3 AS TEXT) IS NULL OR key_id = $3)
AND (CAST($4 AS TEXT) IS NULL OR user_id = $4)
AND (CAST($5 AS TEXT) IS NULL OR team_id = $5)
AND (CAST($6 AS TEXT) IS NULL OR org_id = $6)
AND (CAST($7 AS TEXT) IS NULL OR provider = $7)
AND (CAST($8 AS TEXT) IS NULL OR requested_model = $8)
AND (CAST($9 AS BIGINT) IS NULL OR status = $9)
AND (CAST($10 AS TEXT) IS NULL OR replace(tags, $10, '') <> tags)"""
LIST = f"""SELECT * FROM usage_records WHERE {_MATCHES} AND (created_at, id) < ($11, $12)
ORDER BY created_at DESC, id DESC LIMIT $13"""
EXPORT = f"""SELECT * FROM usage_records WHERE {_MATCHES} AND (created_at, id) > ($11, $12)
ORDER BY created_at, id LIMIT $13"""
BY_ID = "SELECT * FROM usage_records WHERE id = $1 ORDER BY created_at DESC LIMIT 1"

_TOTALS = ", ".join(f"CAST(COALESCE(sum({name}), 0) AS BIGINT) AS {name}" for name in SUMS)
_ROLLED = """
AND (CAST($3 AS TEXT) IS NULL OR key_id = $3)
AND (CAST($4 AS TEXT) IS NULL OR user_id = $4)
AND (CAST($5 AS TEXT) IS NULL OR team_id = $5)
AND (CAST($6 AS TEXT) IS NULL OR org_id = $6)
AND (CAST($7 AS TEXT) IS NULL OR provider = $7)
AND (CAST($8 AS TEXT) IS NULL OR requested_model = $8)"""
_SOME = "HAVING sum(requests) > 0"
"""A group whose only records were held, and settled in another, has none left."""
GROUPS = {
    "key": "key_id",
    "user": "user_id",
    "team": "team_id",
    "org": "org_id",
    "provider": "provider",
    "model": "requested_model",
    "upstream_model": "upstream_model",
    "day": "day",
}
SUMMARIES = {
    group: f"""SELECT {column} AS grouped, {_TOTALS} FROM usage_daily
WHERE day >= $1 AND day < $2 {_ROLLED} GROUP BY {column} {_SOME}
ORDER BY cost_nano DESC, grouped"""
    for group, column in GROUPS.items()
} | {
    "month": f"""SELECT month AS grouped, {_TOTALS} FROM usage_monthly
WHERE month >= $1 AND month < $2 {_ROLLED} GROUP BY month {_SOME} ORDER BY grouped""",
    "total": f"""SELECT '' AS grouped, {_TOTALS} FROM usage_daily
WHERE day >= $1 AND day < $2 {_ROLLED}""",
}
SUMMARY_BY_TAG = f"""SELECT name, value, {_TOTALS} FROM usage_tags_daily
WHERE day >= $1 AND day < $2 AND (CAST($3 AS TEXT) IS NULL OR name = $3)
GROUP BY name, value {_SOME} ORDER BY cost_nano DESC, name, value"""

_COUNTED = ", ".join(
    [
        "count(*) AS requests",
        "CAST(COALESCE(sum(CASE WHEN status >= 400 THEN 1 ELSE 0 END), 0) AS BIGINT) AS errors",
        *(f"CAST(COALESCE(sum({name}), 0) AS BIGINT) AS {name}" for name in SUMS[2:]),
    ]
)
_OF_A_RECORD = {
    **{name: f"COALESCE({name}, '')" for name in ("key_id", "user_id", "team_id", "org_id")},
    "requested_model": "CASE WHEN provider = '' THEN '' ELSE requested_model END",
    "day": f"created_at - created_at % {DAY_MS}",
}
RECORD_SUMMARIES = {
    group: f"""SELECT {_OF_A_RECORD.get(column, column)} AS grouped, {_COUNTED} FROM usage_records
WHERE {_MATCHES} GROUP BY 1 ORDER BY cost_nano DESC, grouped"""
    for group, column in GROUPS.items()
} | {"total": f"SELECT '' AS grouped, {_COUNTED} FROM usage_records WHERE {_MATCHES}"}
"""By the records themselves, which alone know of status and of all tags together."""


async def page(
    db: Session, wanted: Filter, *, limit: int = 50, cursor: str | None = None
) -> Page[UsageRecord]:
    """Give a page of records, newest first."""
    rows = await db.fetch(LIST, *_arguments(wanted), *read_cursor(cursor), page_size(limit) + 1)
    items = [_record(row) for row in rows[:limit]]
    more = len(rows) > limit
    return Page(items, write_cursor(items[-1].created_at, items[-1].id) if more else None)


async def get(db: Session, record_id: str) -> UsageRecord | None:
    """Give the record with this id of ours."""
    row = await db.fetchrow(BY_ID, record_id)
    return None if row is None else _record(row)


async def export(db: Session, wanted: Filter) -> AsyncIterator[UsageRecord]:
    """Give every record, oldest first, a page in memory at a time and none locked meanwhile."""
    last = (-1, "")
    while True:
        rows = await db.fetch(EXPORT, *_arguments(wanted), *last, EXPORT_PAGE)
        for row in rows:
            yield _record(row)
        if len(rows) < EXPORT_PAGE:
            return
        last = (rows[-1]["created_at"], rows[-1]["id"])


async def summary(db: Session, group_by: str, wanted: Filter) -> list[Summary]:
    """Sum up by one of GROUPS, `month`, `total`, `tag` or `tag:NAME`, in whole UTC days.

    Read from the roll-ups, or with a status or a tag from the records. A summary by tag has no
    other filter than time.
    """
    if group_by == "tag" or group_by.startswith("tag:"):
        return await _summary_by_tag(db, group_by[4:] or None, wanted)
    sql = SUMMARIES.get(group_by)
    if sql is None:
        known = ", ".join(sorted([*SUMMARIES, "tag", "tag:NAME"]))
        raise InvalidRequest(f"group_by must be one of {known}", param="group_by")
    since, until = _whole_days(wanted)
    if wanted.status is not None or wanted.tag is not None:
        if group_by == "month":
            raise InvalidRequest("a summary by month has neither status nor tag", param="group_by")
        sql = RECORD_SUMMARIES[group_by]
        rows = await db.fetch(sql, since, until, *_arguments(wanted)[2:])
    else:
        if group_by == "month":
            since = month_bounds(since)[0]
        rows = await db.fetch(sql, since, until, *_arguments(wanted)[2:8])
    return [_summary(_group_name(group_by, row["grouped"]), row) for row in rows]


async def _summary_by_tag(db: Session, name: str | None, wanted: Filter) -> list[Summary]:
    if wanted != Filter(since=wanted.since, until=wanted.until):
        raise InvalidRequest("a summary by tag has no other filter than time", param="group_by")
    rows = await db.fetch(SUMMARY_BY_TAG, *_whole_days(wanted), name)
    return [_summary(f"{row['name']}={row['value']}", row) for row in rows]


def _arguments(wanted: Filter) -> tuple[object, ...]:
    tag = wanted.tag
    # Tags are written with sorted keys and without spaces, so this is how one looks inside.
    text = tag and msgspec.json.encode({tag[0]: tag[1]}).decode()[1:-1]
    owners = (wanted.key_id, wanted.user_id, wanted.team_id, wanted.org_id)
    return (
        *(wanted.since, wanted.until),
        *owners,
        *(wanted.provider, wanted.model, wanted.status, text),
    )


def _whole_days(wanted: Filter) -> tuple[int, int]:
    until = min(wanted.until, LATEST[0] - DAY_MS)
    return wanted.since // DAY_MS * DAY_MS, -(-until // DAY_MS) * DAY_MS


def _group_name(group_by: str, value: object) -> str:
    if group_by not in {"day", "month"}:
        return str(value)
    assert isinstance(value, int)
    text = datetime.fromtimestamp(value / 1000, UTC).date().isoformat()
    return text if group_by == "day" else text[:7]


def _summary(group: str, row: Row) -> Summary:
    return Summary(group=group, **{name: row[name] for name in SUMS})


def _record(row: Row) -> UsageRecord:
    values = {name: row[name] for name in UsageRecord.__struct_fields__}
    values["tags"] = msgspec.json.decode(values["tags"], type=dict[str, str])
    values["stream"] = values["stream"] == 1
    return UsageRecord(**values)
