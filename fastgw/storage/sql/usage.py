"""Usage records in, and the roll-ups that move with them.

A batch goes to a staging table first. What is new of it moves to `usage_records`, and only that
moves the roll-ups, all in one transaction: offering a record twice counts it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from fastgw.domain import UsageRecord, now_ms
from fastgw.storage.sql.noun import to_json
from fastgw.storage.store import Load, Session, Store

Batch = Mapping[tuple[int, str], UsageRecord]

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

COLUMNS = (
    "id", "created_at", "request_id", "key_id", "user_id", "team_id", "org_id", "tags", "endpoint",
    "requested_model", "provider", "upstream_model", "status", "attempts", "stream",
    "input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens",
    "cost_nano", "usage_source", "duration_ms", "ttft_ms", "overhead_us", "error_code",
)  # fmt: skip
STAGE = Load("usage_staging", COLUMNS)
STAGE_TAGS = Load("usage_staging_tags", ("created_at", "id", "name", "value"))

# Only DDL differs. On PostgreSQL the tables belong to the connection and are emptied by COMMIT.
MAKE_STAGING = {
    "postgresql": (
        """CREATE TEMP TABLE IF NOT EXISTS usage_staging ON COMMIT DELETE ROWS
        AS SELECT * FROM usage_records WITH NO DATA""",
        """CREATE TEMP TABLE IF NOT EXISTS usage_staging_tags ON COMMIT DELETE ROWS
        AS SELECT created_at, id, '' AS name, '' AS value FROM usage_records WITH NO DATA""",
    ),
    "sqlite": (
        """CREATE TEMP TABLE IF NOT EXISTS usage_staging
        AS SELECT * FROM usage_records WHERE false""",
        """CREATE TEMP TABLE IF NOT EXISTS usage_staging_tags
        AS SELECT created_at, id, '' AS name, '' AS value FROM usage_records WHERE false""",
        "DELETE FROM usage_staging",
        "DELETE FROM usage_staging_tags",
    ),
}

_COLUMN_LIST = ", ".join(COLUMNS)
# Sorted, so that concurrent batches lock the rows they share in the same order.
WRITE_NEW = f"""INSERT INTO usage_records ({_COLUMN_LIST})
SELECT {_COLUMN_LIST} FROM usage_staging WHERE true ORDER BY created_at, id
ON CONFLICT (created_at, id) DO NOTHING"""
WRITE_AND_TELL = WRITE_NEW + " RETURNING created_at, id"
UNSTAGE = "DELETE FROM usage_staging WHERE created_at = $1 AND id = $2"

SUMS = (
    "requests", "errors", "input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens",
    "reasoning_tokens", "cost_nano", "duration_ms",
)  # fmt: skip
OWNERS = ("key_id", "user_id", "team_id", "org_id")
_SUM_VALUES = ", ".join(
    [
        "count(*)",
        "sum(CASE WHEN s.status >= 400 THEN 1 ELSE 0 END)",
        *(f"CAST(sum(s.{name}) AS BIGINT)" for name in SUMS[2:]),
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
    """Write the text that adds what is staged to one roll-up; called at import alone."""
    count = key.count(",") + 1
    numbers = ", ".join(str(number) for number in range(1, count + 1))
    adds = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in SUMS)
    return f"""INSERT INTO {table} ({key}, {", ".join(SUMS)}, created_at, updated_at)
SELECT {values}, {_SUM_VALUES}, CAST($1 AS BIGINT), CAST($1 AS BIGINT)
FROM {source} GROUP BY {numbers} ORDER BY {numbers}
ON CONFLICT ({key}) DO UPDATE SET {adds}, updated_at = excluded.updated_at"""


_DAY = f"s.created_at / {DAY_MS} * {DAY_MS}"
ROLL_DAY = _roll_up(
    "usage_daily",
    f"day, {_DIMENSION_NAMES}",
    f"{_DAY}, {_DIMENSIONS}",
    "usage_staging s WHERE true",
)
ROLL_MONTH = _roll_up(
    "usage_monthly",
    f"month, {_DIMENSION_NAMES}",
    f"CAST($2 AS BIGINT), {_DIMENSIONS}",
    "usage_staging s WHERE s.created_at >= $2 AND s.created_at < $3",
)
ROLL_TAGS = _roll_up(
    "usage_tags_daily",
    "day, name, value",
    f"{_DAY}, t.name, t.value",
    """usage_staging_tags t
JOIN usage_staging s ON s.created_at = t.created_at AND s.id = t.id WHERE true""",
)
NOTE_ACTIVITY = """INSERT INTO api_key_activity (key_id, last_used_at, created_at, updated_at)
SELECT key_id, max(created_at), CAST($1 AS BIGINT), CAST($1 AS BIGINT)
FROM usage_staging WHERE key_id IS NOT NULL GROUP BY key_id ORDER BY key_id
ON CONFLICT (key_id) DO UPDATE SET updated_at = excluded.updated_at, last_used_at = CASE
  WHEN excluded.last_used_at > api_key_activity.last_used_at THEN excluded.last_used_at
  ELSE api_key_activity.last_used_at END"""

MAKE_PARTITION = "SELECT fastgw_make_usage_partition($1)"


class _Replayed(Exception):
    """Some of a batch is stored already."""


async def insert_batch(store: Store, records: Iterable[UsageRecord]) -> int:
    """Write records and move the roll-ups by those that are new; give how many were new."""
    batch = {(record.created_at, record.id): record for record in records}
    if not batch:
        return 0
    try:
        return await _insert(store, batch, replayed=False)
    except _Replayed:
        return await _insert(store, batch, replayed=True)


async def _insert(store: Store, batch: Batch, *, replayed: bool) -> int:
    """Write a batch in one transaction.

    Asking which rows were new costs as much as writing them, so that is done only for a batch
    that was not new as a whole: it is undone and written again.
    """
    async with store.transaction() as tx:
        for statement in MAKE_STAGING[tx.engine]:
            await tx.execute(statement)
        await tx.load(STAGE, [_row(record) for record in batch.values()])
        if replayed:
            new = {(row["created_at"], row["id"]) for row in await tx.fetch(WRITE_AND_TELL)}
            await tx.executemany(UNSTAGE, [key for key in batch if key not in new])
            written = len(new)
        else:
            written = await tx.execute(WRITE_NEW)
            if written < len(batch):
                raise _Replayed
        if written:
            await _move_roll_ups(tx, batch.values())
        return written


async def ensure_partitions(db: Session, at_ms: int | None = None) -> list[str]:
    """Make the partitions of this month and the next; give the names of those that were missing.

    SQLite has none. Records without a partition go to the default one and move out of it here.
    """
    if db.engine == "sqlite":
        return []
    first, second = month_bounds(now_ms() if at_ms is None else at_ms)
    made = [await db.fetchval(MAKE_PARTITION, start) for start in (first, second)]
    return [name for name in made if name is not None]


def month_bounds(at_ms: int) -> tuple[int, int]:
    """Give the first millisecond of the UTC month and of the next one."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    first = datetime(at.year, at.month, 1, tzinfo=UTC)
    following = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return int(first.timestamp()) * 1000, int(following.timestamp()) * 1000


async def _move_roll_ups(tx: Session, records: Iterable[UsageRecord]) -> None:
    """Add what is staged, which is what was written, to every roll-up."""
    now = now_ms()
    await tx.execute(ROLL_DAY, now)
    days = {record.created_at // DAY_MS for record in records}
    for bounds in sorted({month_bounds(day * DAY_MS) for day in days}):
        await tx.execute(ROLL_MONTH, now, *bounds)
    tags = [
        (record.created_at, record.id, clean(name, LONGEST_NAME), clean(value, LONGEST_MODEL))
        for record in records
        for name, value in record.tags.items()
    ]
    if tags:
        await tx.load(STAGE_TAGS, tags)
        await tx.execute(ROLL_TAGS, now)
    await tx.execute(NOTE_ACTIVITY, now)


def clean(text: str, longest: int) -> str:
    """Give a text that every database can hold and index: nobody reads a refusal here."""
    if len(text) <= longest and text.isascii() and "\0" not in text:
        return text
    whole = text[:longest].encode("utf-8", "replace").decode()
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _count(number: int) -> int:
    return number if 0 <= number <= MOST else min(max(number, 0), MOST)


def _tags(tags: Mapping[str, str]) -> str:
    return to_json({clean(k, LONGEST_NAME): clean(v, LONGEST_MODEL) for k, v in tags.items()})


def _row(record: UsageRecord) -> tuple[object, ...]:
    return (
        record.id,
        record.created_at,
        clean(record.request_id, LONGEST_MODEL),
        record.key_id,
        record.user_id,
        record.team_id,
        record.org_id,
        _tags(record.tags) if record.tags else "{}",
        clean(record.endpoint, LONGEST_NAME),
        clean(record.requested_model, LONGEST_MODEL),
        clean(record.provider, LONGEST_NAME),
        clean(record.upstream_model, LONGEST_MODEL),
        record.status,
        record.attempts,
        int(record.stream),
        _count(record.input_tokens),
        _count(record.output_tokens),
        _count(record.cached_tokens),
        _count(record.cache_write_tokens),
        _count(record.reasoning_tokens),
        _count(record.cost_nano),
        record.usage_source,
        _count(record.duration_ms),
        None if record.ttft_ms is None else _count(record.ttft_ms),
        _count(record.overhead_us),
        record.error_code,
    )
