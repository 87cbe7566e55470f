"""Usage records in, and the roll-ups that move with them.

A batch is summed up here, in groups of records that are alike, and the groups move the roll-ups in
the transaction that writes the records. Offering a record twice counts it once: a batch that is not
new as a whole is undone, and written again by way of a staging table, which tells what is new.

A `held` row says what is reserved for an exchange whose end nobody knows. The first settled row
with its id and time takes its place, and the roll-ups move by the difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter

from msgspec.structs import astuple

from fastgw._ext import rows as rows_
from fastgw._ext.columns import AS_IT_IS, JSON, NUMBER, Row, fit_text
from fastgw.domain import UsageRecord, now_ms
from fastgw.errors import Conflict
from fastgw.storage.sql.noun import to_json
from fastgw.storage.store import Load, Session, Store
from fastgw.wire import json

DAY_MS = 86_400_000
MOST = 10**15
"""Ceiling of one number of a record, a million dollars in nano-dollars. A provider that reports
nonsense must not make the sums overflow: the batch would fail for ever.
"""
LONGEST_NAME = 100
LONGEST_MODEL = 240
"""Characters kept of a name or a model, which clients choose: PostgreSQL refuses to index longer
ones, and the batch would fail for ever.
"""

COLUMNS = UsageRecord.__struct_fields__
_COUNTS = (
    "input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens",
    "cost_nano", "duration_ms",
)  # fmt: skip
_FITS = {
    **dict.fromkeys((*_COUNTS, "stream", "ttft_ms", "overhead_us"), NUMBER),
    **dict.fromkeys(("request_id", "requested_model", "upstream_model"), LONGEST_MODEL),
    **dict.fromkeys(("endpoint", "provider"), LONGEST_NAME),
    "tags": JSON,
}


def _tags(tags: Mapping[str, str]) -> str:
    return to_json({fit_text(k, LONGEST_NAME): fit_text(v, LONGEST_MODEL) for k, v in tags.items()})


SHAPE = rows_.Shape(tuple(_FITS.get(name, AS_IT_IS) for name in COLUMNS), MOST, astuple, _tags)

RECORDS = Load("usage_records", COLUMNS)
STAGE = Load("usage_staging", COLUMNS)

SUMS = ("requests", "errors", *_COUNTS)
OWNERS = ("key_id", "user_id", "team_id", "org_id")
_ALIKE = (*OWNERS, "provider", "upstream_model", "requested_model", "tags", "status")
_ADDED = ("status", "requests", *_COUNTS)
"""Columns of a group from which `SUMS` are made."""
GROUPS = Load("usage_groups", ("day", *_ALIKE, "requests", *_COUNTS, "last_used_at", "month"))
TAG_GROUPS = Load("usage_tag_groups", ("day", "name", "value", *_ADDED))

_AT, _ID, _SOURCE = map(COLUMNS.index, ("created_at", "id", "usage_source"))
_KEYS = tuple(map(COLUMNS.index, _ALIKE))
_SUMMED = tuple(map(COLUMNS.index, _COUNTS))
_GROUP_TAGS = GROUPS.columns.index("tags")
_GROUP_ADDED = slice(_GROUP_TAGS + 1, _GROUP_TAGS + 1 + len(_ADDED))
_TIME_AND_ID = itemgetter(_AT, _ID)

_TEXTS = {*OWNERS, "provider", "upstream_model", "requested_model", "tags", "name", "value"}


def _columns(load: Load) -> str:
    return ", ".join(f"{name} {'TEXT' if name in _TEXTS else 'BIGINT'}" for name in load.columns)


# Only DDL differs. On PostgreSQL the tables belong to the connection and are emptied by COMMIT.
_GROUP_TABLES = [f"{load.table} ({_columns(load)})" for load in (GROUPS, TAG_GROUPS)]
MAKE_GROUPS = {
    "postgresql": (
        "; ".join(
            f"CREATE TEMP TABLE IF NOT EXISTS {table} ON COMMIT DELETE ROWS"
            for table in _GROUP_TABLES
        ),
    ),
    "sqlite": (
        *(f"CREATE TEMP TABLE IF NOT EXISTS {table}" for table in _GROUP_TABLES),
        *(f"DELETE FROM {load.table}" for load in (GROUPS, TAG_GROUPS)),
    ),
}
MAKE_STAGING = {
    "postgresql": (
        """CREATE TEMP TABLE IF NOT EXISTS usage_staging ON COMMIT DELETE ROWS
        AS SELECT * FROM usage_records WITH NO DATA""",
    ),
    "sqlite": (
        """CREATE TEMP TABLE IF NOT EXISTS usage_staging
        AS SELECT * FROM usage_records WHERE false""",
        "DELETE FROM usage_staging",
    ),
}

_COLUMN_LIST = ", ".join(COLUMNS)
WRITE_AND_TELL = f"""INSERT INTO usage_records ({_COLUMN_LIST})
SELECT {_COLUMN_LIST} FROM usage_staging WHERE true ORDER BY created_at, id
ON CONFLICT (created_at, id) DO NOTHING RETURNING created_at, id"""
# Both bounds of time, so that no partition is looked at in vain.
FIND_HELD = f"""SELECT {", ".join(f"u.{name}" for name in COLUMNS)} FROM usage_records u
JOIN usage_staging s ON u.created_at = s.created_at AND u.id = s.id
WHERE u.usage_source = 'held' AND s.usage_source <> 'held'
AND u.created_at BETWEEN $1 AND $2 ORDER BY u.created_at, u.id FOR UPDATE"""
REPLACE_HELD = f"""UPDATE usage_records
SET {", ".join(f"{name} = s.{name}" for name in COLUMNS if name not in {"id", "created_at"})}
FROM usage_staging s
WHERE usage_records.created_at = s.created_at AND usage_records.id = s.id
AND usage_records.usage_source = 'held' AND s.usage_source <> 'held'
AND usage_records.created_at BETWEEN $1 AND $2"""

_SUM_VALUES = ", ".join(
    [
        "CAST(sum(s.requests) AS BIGINT)",
        "CAST(sum(CASE WHEN s.status >= 400 THEN s.requests ELSE 0 END) AS BIGINT)",
        *(f"CAST(sum(s.{name}) AS BIGINT)" for name in _COUNTS),
    ]
)
_DIMENSIONS = ", ".join(
    [
        *(f"COALESCE(s.{owner}, '')" for owner in OWNERS),
        "s.provider",
        "s.upstream_model",
        # A name that no provider serves is whatever a client typed: one row for all of them.
        "CASE WHEN s.provider = '' THEN '' ELSE s.requested_model END",
    ]
)
_DIMENSION_NAMES = "key_id, user_id, team_id, org_id, provider, upstream_model, requested_model"


def _roll_up(table: str, key: str, values: str, source: str) -> str:
    """Write the text that adds groups to one roll-up; called at import alone.

    Sorted, so that concurrent batches lock the rows they share in the same order.
    """
    count = key.count(",") + 1
    numbers = ", ".join(str(number) for number in range(1, count + 1))
    adds = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in SUMS)
    return f"""INSERT INTO {table} ({key}, {", ".join(SUMS)}, created_at, updated_at)
SELECT {values}, {_SUM_VALUES}, CAST($1 AS BIGINT), CAST($1 AS BIGINT)
FROM {source} s WHERE true GROUP BY {numbers} ORDER BY {numbers}
ON CONFLICT ({key}) DO UPDATE SET {adds}, updated_at = excluded.updated_at"""


ROLL_DAY = _roll_up(
    "usage_daily", f"day, {_DIMENSION_NAMES}", f"s.day, {_DIMENSIONS}", "usage_groups"
)
ROLL_MONTH = _roll_up(
    "usage_monthly", f"month, {_DIMENSION_NAMES}", f"s.month, {_DIMENSIONS}", "usage_groups"
)
ROLL_TAGS = _roll_up(
    "usage_tags_daily", "day, name, value", "s.day, s.name, s.value", "usage_tag_groups"
)
NOTE_ACTIVITY = """INSERT INTO api_key_activity (key_id, last_used_at, created_at, updated_at)
SELECT key_id, max(last_used_at), CAST($1 AS BIGINT), CAST($1 AS BIGINT)
FROM usage_groups WHERE key_id IS NOT NULL GROUP BY key_id ORDER BY key_id
ON CONFLICT (key_id) DO UPDATE SET updated_at = excluded.updated_at, last_used_at = CASE
  WHEN excluded.last_used_at > api_key_activity.last_used_at THEN excluded.last_used_at
  ELSE api_key_activity.last_used_at END"""

MOVE = {
    # One round trip. The parts run in the same order in every process: they are one plan.
    "postgresql": (
        f"WITH day AS ({ROLL_DAY}), month AS ({ROLL_MONTH}), tags AS ({ROLL_TAGS}) {NOTE_ACTIVITY}",
    ),
    "sqlite": (ROLL_DAY, ROLL_MONTH, ROLL_TAGS, NOTE_ACTIVITY),
}

MAKE_PARTITION = "SELECT fastgw_make_usage_partition($1)"
DROP_PARTITION = "SELECT fastgw_drop_usage_partition($1)"
PARTITIONS = """SELECT inhrelid::regclass::text AS name FROM pg_inherits
WHERE inhparent = 'usage_records'::regclass"""
_PARTITION = re.compile(r"usage_records_y(\d{4})m(\d{2})")
FORGET = """DELETE FROM usage_records WHERE created_at < $1 AND (created_at, id) IN (
SELECT created_at, id FROM usage_records WHERE created_at < $1 ORDER BY created_at, id LIMIT $2)"""
"""What is in no month's partition: on PostgreSQL strays, on SQLite everything."""
_FORGOTTEN_AT_ONCE = 5_000


async def insert_batch(store: Store, records: Iterable[UsageRecord]) -> int:
    """Write records, as `insert_rows` does."""
    return await insert_rows(store, SHAPE.fit([*records]))


async def insert_rows(store: Store, rows: list[Row]) -> int:
    """Write rows and move the roll-ups; give how many were new or took the place of held ones.

    A row has the values of a record that `SHAPE` has made fit, or the journal. At most 9,000 at
    once, or sums of numbers at their ceiling are too large.
    """
    if not rows:
        return 0
    rows.sort(key=_TIME_AND_ID)  # concurrent batches wait for each other's rows in one order
    try:
        return await _insert(store, rows)
    except Conflict:
        return await _insert_new(store, rows)


async def _insert(store: Store, rows: list[Row]) -> int:
    """Write rows that are all new; Conflict when one is not, and then none is written."""
    async with store.transaction() as tx:
        await tx.load(RECORDS, rows)
        await _move_roll_ups(tx, rows)
    return len(rows)


async def _insert_new(store: Store, rows: list[Row]) -> int:
    """Write the rows that are new; finding out which costs as much as writing them."""
    batch: dict[tuple[int, str], Row] = {}
    for row in rows:
        known = batch.setdefault(_TIME_AND_ID(row), row)
        if known[_SOURCE] == "held":
            batch[_TIME_AND_ID(row)] = row
    async with store.transaction() as tx:
        for statement in MAKE_STAGING[tx.engine]:
            await tx.execute(statement)
        await tx.load(STAGE, [*batch.values()])
        told = await tx.fetch(WRITE_AND_TELL)
        written = [batch[row["created_at"], row["id"]] for row in told]
        replaced: list[Row] = []
        if len(written) < len(batch):
            # Only now: every row of the batch is there, whoever wrote it, and none can go.
            span = (rows[0][_AT], rows[-1][_AT])
            held = await tx.fetch(FIND_HELD, *span)
            replaced = [tuple(row[name] for name in COLUMNS) for row in held]
            if replaced:
                await tx.execute(REPLACE_HELD, *span)
                written += [batch[_TIME_AND_ID(row)] for row in replaced]
        if written:
            await _move_roll_ups(tx, written, replaced)
    return len(written)


async def _move_roll_ups(tx: Session, rows: list[Row], gone: Sequence[Row] = ()) -> None:
    """Add rows that were written to every roll-up, and take off those whose place they took."""
    groups = rows_.group(rows, _AT, DAY_MS, _KEYS, _SUMMED)
    groups += map(_negate, rows_.group([*gone], _AT, DAY_MS, _KEYS, _SUMMED))
    months = {day: month_bounds(day)[0] for day in {row[0] for row in groups}}
    groups = [(*row, months[row[0]]) for row in groups]
    for statement in MAKE_GROUPS[tx.engine]:
        await tx.execute(statement)
    await tx.load(GROUPS, groups)
    now = now_ms()
    tagged = _split_tags(groups)
    if tagged:
        await tx.load(TAG_GROUPS, tagged)
    for statement in MOVE[tx.engine]:
        await tx.execute(statement, now)


def _negate(group: Row) -> Row:
    """Give a group that takes off what this one adds."""
    first = 1 + len(_KEYS)
    return (*group[:first], *(-number for number in group[first:-1]), group[-1])


def _split_tags(groups: list[Row]) -> list[Row]:
    """Give a row for each tag of each group."""
    read = {text: json.loads(text) for text in {row[_GROUP_TAGS] for row in groups}}
    return [
        (row[0], name, value, *row[_GROUP_ADDED])
        for row in groups
        for name, value in read[row[_GROUP_TAGS]].items()
    ]


async def ensure_partitions(db: Session, at_ms: int | None = None) -> list[str]:
    """Make the partitions of this month and the next; give the names of those that were missing.

    SQLite has none. Records without a partition go to the default one and move out of it here.
    """
    if db.engine == "sqlite":
        return []
    first, second = month_bounds(now_ms() if at_ms is None else at_ms)
    made = [await db.fetchval(MAKE_PARTITION, start) for start in (first, second)]
    return [name for name in made if name is not None]


async def forget(db: Session, keep_months: int, at_ms: int) -> list[str]:
    """Drop the records of months that ended `keep_months` or more before the present one began.

    Gives the names of dropped partitions; roll-ups stay. Without partitions a piece at a time goes,
    and the next call takes the next one.
    """
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    months = at.year * 12 + at.month - 1 - keep_months
    dropped = []
    if db.engine == "postgresql":
        for row in await db.fetch(PARTITIONS):
            found = _PARTITION.fullmatch(row["name"])
            if found and int(found[1]) * 12 + int(found[2]) - 1 < months:
                dropped.append(await db.fetchval(DROP_PARTITION, found[0]))
    first = datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
    await db.execute(FORGET, int(first.timestamp()) * 1000, _FORGOTTEN_AT_ONCE)
    return dropped


def month_bounds(at_ms: int) -> tuple[int, int]:
    """Give the first millisecond of the UTC month and of the next one."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    first = datetime(at.year, at.month, 1, tzinfo=UTC)
    following = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return int(first.timestamp()) * 1000, int(following.timestamp()) * 1000
