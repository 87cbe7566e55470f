"""Usage: every record once, and roll-ups that are the sum of the records, whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime
from itertools import chain

import pytest

from fastgw.domain import UsageRecord
from fastgw.errors import InvalidRequest
from fastgw.storage import open_store
from fastgw.storage.sql import keys, usage, usage_reports
from fastgw.storage.sql.usage_reports import Filter
from tests.storage.samples import NOON, random_record, record

DAY = 86_400_000
SUMS = usage.SUMS[2:]


def totals(records: list[UsageRecord]) -> dict[str, int]:
    """Sum records up as a summary does."""
    counted = {name: sum(getattr(one, name) for one in records) for name in SUMS}
    errors = sum(one.status >= 400 for one in records)
    return {"requests": len(records), "errors": errors, **counted}


async def stored_totals(store, table: str) -> dict[str, int]:
    """Sum a roll-up up."""
    sums = ", ".join(f"CAST(COALESCE(sum({name}), 0) AS BIGINT) AS {name}" for name in usage.SUMS)
    return dict(await store.fetchrow(f"SELECT {sums} FROM {table}"))


async def everything(store) -> list[UsageRecord]:
    return [one async for one in usage_reports.export(store, Filter())]


async def test_a_record_comes_back_as_it_went(store):
    """Every field is kept, and found by our id."""
    sent = record(
        1,
        user_id="user_1",
        tags={"team": "a", "ü": '"quoted" \\ \n'},
        stream=True,
        ttft_ms=120,
        status=499,
        error_code="client_gone",
        usage_source="partial",
    )
    assert await usage.insert_batch(store, [sent]) == 1
    assert await usage_reports.get(store, sent.id) == sent
    assert await usage_reports.get(store, "nothing") is None


async def test_a_replay_counts_nothing(store):
    """The same batch again, alone, inside a larger one or with itself twice, changes nothing."""
    batch = [record(number, tags={"job": "x"}) for number in range(20)]
    assert await usage.insert_batch(store, batch + batch) == 20
    assert await usage.insert_batch(store, batch) == 0
    assert await usage.insert_batch(store, [*batch[5:], record(99, tags={"job": "x"})]) == 1
    expected = totals([*batch, record(99)])
    for table in ("usage_daily", "usage_monthly", "usage_tags_daily"):
        assert await stored_totals(store, table) == expected
    assert await everything(store) == [*batch, record(99, tags={"job": "x"})]


async def test_the_first_word_stays(store):
    """A replay with other numbers under the same id is ignored, in records and in roll-ups."""
    await usage.insert_batch(store, [record(1, cost_nano=5)])
    assert await usage.insert_batch(store, [record(1, cost_nano=900)]) == 0
    assert (await everything(store))[0].cost_nano == 5
    assert (await stored_totals(store, "usage_daily"))["cost_nano"] == 5


async def test_a_settled_row_takes_the_place_of_a_held_one(store):
    """Once, with the difference in every roll-up, also where provider and model are others."""
    held = record(1, usage_source="held", cost_nano=900, status=0, tags={"job": "x"}, provider="a")
    settled = record(1, cost_nano=5, status=502, tags={"job": "x"}, provider="b", input_tokens=3)
    other = record(2, usage_source="held", cost_nano=70)
    assert await usage.insert_batch(store, [held, other]) == 2
    assert await usage.insert_batch(store, [settled, record(3)]) == 2
    expected = [settled, other, record(3)]
    assert await everything(store) == expected
    for table in ("usage_daily", "usage_monthly"):
        assert await stored_totals(store, table) == totals(expected)
    assert await stored_totals(store, "usage_tags_daily") == totals([settled])
    again = [held, record(1, cost_nano=77), record(2, usage_source="held", cost_nano=1)]
    assert await usage.insert_batch(store, again) == 0
    assert await everything(store) == expected
    assert await stored_totals(store, "usage_daily") == totals(expected)


async def test_held_and_settled_in_one_batch(store):
    """The settled one counts, whatever the order."""
    held, settled = record(1, usage_source="held", cost_nano=900), record(1, cost_nano=5)
    for batch in ([held, settled], [settled, held]):
        await usage.insert_batch(store, batch)
        assert await everything(store) == [settled]
        assert await stored_totals(store, "usage_daily") == totals([settled])


async def test_many_writers_replace_a_held_row_once(store_url):
    """Several loaders offer held and settled rows at once: roll-ups stay the sum of the records."""
    stores = [await open_store(store_url, migrate=False) for _ in range(3)]
    source = random.Random(3)
    held = [record(n, usage_source="held", cost_nano=1000 + n) for n in range(60)]
    settled = [record(n, cost_nano=n) for n in range(60)]
    for _ in range(3):
        batches = [source.sample([*held, *settled], 50) for _ in range(6)]
        jobs = zip(batches, stores * 2, strict=True)
        await asyncio.gather(*(usage.insert_batch(to, batch) for batch, to in jobs))
    found = await everything(stores[0])
    assert await stored_totals(stores[0], "usage_daily") == totals(found)
    assert await stored_totals(stores[0], "usage_monthly") == totals(found)
    await usage.insert_batch(stores[0], settled)
    assert await everything(stores[0]) == settled
    assert await stored_totals(stores[0], "usage_daily") == totals(settled)
    for each in stores:
        await each.close()


async def test_nothing_is_written_of_an_empty_batch(store):
    """No record, no transaction."""
    assert await usage.insert_batch(store, []) == 0


@pytest.mark.parametrize("seed", range(3))
async def test_roll_ups_are_the_sum_of_the_records(store, seed):
    """Random batches with replays, over three months: each roll-up sums to the records."""
    source = random.Random(seed)
    records = [random_record(number, source) for number in range(300)]
    sent = 0
    while sent < len(records):
        size = source.randrange(1, 60)
        replayed = source.sample(records[:sent], min(sent, source.randrange(10)))
        await usage.insert_batch(store, [*replayed, *records[sent : sent + size]])
        sent += size
    assert sorted(await everything(store), key=lambda one: one.id) == records
    expected = totals(records)
    assert await stored_totals(store, "usage_daily") == expected
    assert await stored_totals(store, "usage_monthly") == expected

    tagged = [one for one in records for _ in one.tags]
    assert await stored_totals(store, "usage_tags_daily") == totals(tagged)

    for group, of in {
        "key": lambda one: one.key_id or "",
        "user": lambda one: one.user_id or "",
        "team": lambda one: one.team_id or "",
        "org": lambda one: one.org_id or "",
        "provider": lambda one: one.provider,
        "model": lambda one: one.requested_model if one.provider else "",
        "upstream_model": lambda one: one.upstream_model,
        "day": lambda one: day_of(one)[:10],
        "month": lambda one: day_of(one)[:7],
        "total": lambda one: "",
    }.items():
        found = await usage_reports.summary(store, group, Filter())
        costs, counts = Counter(), Counter()
        for one in records:
            costs[of(one)] += one.cost_nano
            counts[of(one)] += 1
        assert {row.group: row.cost_nano for row in found} == dict(costs)
        assert {row.group: row.requests for row in found} == dict(counts)
    by_tag = await usage_reports.summary(store, "tag:team", Filter())
    expected_tags = Counter(f"team={one.tags['team']}" for one in records if "team" in one.tags)
    assert {row.group: row.requests for row in by_tag} == dict(expected_tags)


def day_of(one: UsageRecord) -> str:
    return datetime.fromtimestamp(one.created_at / 1000, UTC).isoformat()


async def test_concurrent_batches_count_each_record_once(store):
    """Many writers with overlapping batches in any order: no record lost, none counted twice."""
    source = random.Random(7)
    records = [random_record(number, source) for number in range(120)]
    batches = [source.sample(records, 60) for _ in range(8)] + [records[:60], records[60:]]
    written = await asyncio.gather(*(usage.insert_batch(store, batch) for batch in batches))
    assert sum(written) == len(records)
    assert await stored_totals(store, "usage_daily") == totals(records)
    assert await stored_totals(store, "usage_monthly") == totals(records)


async def test_two_processes_worth_of_stores_write_at_once(store_url):
    """Two stores on one database, as two workers have, add up."""
    stores = [await open_store(store_url, migrate=False) for _ in range(2)]
    records = [record(number, tags={"job": str(number % 3)}) for number in range(100)]
    jobs = [
        usage.insert_batch(store, records[start : start + 40])
        for start in range(0, 80, 20)
        for store in stores
    ]
    await asyncio.gather(*jobs)
    assert await stored_totals(stores[0], "usage_daily") == totals(records[:100])
    for store in stores:
        await store.close()


@pytest.mark.parametrize(
    "poison",
    [
        {"requested_model": "a\0b"},
        {"requested_model": "\ud800"},
        {"requested_model": "m" * 100_000},
        {"upstream_model": "ü" * 5_000, "requested_model": "ü" * 5_000, "provider": "ü" * 999},
        {"request_id": "\0"},
        {"tags": {"a\0": "b\0", "c" * 9_999: "\udfff" * 9_999}},
        {"input_tokens": 2**80, "cost_nano": 2**80, "duration_ms": 2**80},
        {"output_tokens": -(2**80), "cost_nano": -5},
    ],
)
async def test_a_poisonous_record_does_not_take_its_batch_along(store, poison):
    """What a client or a provider made up is cut to what the database holds, not refused."""
    batch = [record(1), record(2, **poison), record(3)]
    assert await usage.insert_batch(store, batch) == 3
    assert await usage.insert_batch(store, batch) == 0
    found = await everything(store)
    assert [one.id for one in found] == [one.id for one in batch]
    assert (await stored_totals(store, "usage_daily"))["requests"] == 3
    assert found[1].cost_nano >= 0
    assert found[1].output_tokens >= 0


async def test_made_up_model_names_do_not_grow_the_roll_ups(store):
    """Names that no provider serves share one row a day."""
    batch = [
        record(number, requested_model=f"typo-{number}", provider="", upstream_model="", status=404)
        for number in range(50)
    ]
    await usage.insert_batch(store, batch)
    assert await store.fetchval("SELECT count(*) FROM usage_daily") == 1
    assert (await stored_totals(store, "usage_daily"))["errors"] == 50


async def test_last_use_of_a_key_only_grows(store):
    """An older record that arrives late does not turn it back."""
    key, _ = await keys.create(store, name="k")
    assert await keys.last_used(store, key.id) is None
    await usage.insert_batch(store, [record(5, key_id=key.id), record(3, key_id=key.id)])
    assert await keys.last_used(store, key.id) == NOON + 5
    await usage.insert_batch(store, [record(1, key_id=key.id)])
    assert await keys.last_used(store, key.id) == NOON + 5


async def test_a_page_is_filtered_and_ordered(store):
    """Newest first, a cursor goes on where the page ended, every filter holds."""
    batch = [
        record(
            number,
            key_id=f"key_{number % 2}",
            status=200 if number % 5 else 429,
            tags={"team": "a", "job": "b"} if number % 3 else {"team": "A"},
            requested_model="smart" if number % 4 else "fast",
        )
        for number in range(30)
    ]
    await usage.insert_batch(store, batch)
    found, cursor = [], None
    while True:
        page = await usage_reports.page(store, Filter(), limit=7, cursor=cursor)
        found += page.items
        cursor = page.cursor
        if cursor is None:
            break
    assert found == batch[::-1]

    async def numbers(**wanted) -> set[int]:
        page = await usage_reports.page(store, Filter(**wanted), limit=500)
        return {one.created_at - NOON for one in page.items}

    everyone = set(range(30))
    assert await numbers(key_id="key_1") == {n for n in everyone if n % 2}
    assert await numbers(status=429) == {n for n in everyone if n % 5 == 0}
    assert await numbers(tag=("team", "a")) == {n for n in everyone if n % 3}
    assert await numbers(tag=("team", "A")) == {n for n in everyone if n % 3 == 0}
    assert await numbers(tag=("job", "")) == set()
    assert await numbers(model="fast") == {n for n in everyone if n % 4 == 0}
    assert await numbers(since=NOON + 10, until=NOON + 12) == {10, 11}
    assert await numbers(team_id="nobody") == set()
    assert await numbers(key_id="key_1", status=429, provider="openai") == {5, 15, 25}


async def test_a_tag_filter_is_not_fooled_by_text_that_looks_like_one(store):
    """A value that contains another tag's JSON is not that tag."""
    await usage.insert_batch(store, [record(1, tags={"x": '"team":"a"', "team": "%"})])
    for tag in (("team", "a"), ("team", "_"), ("eam", "%"), ("x", '"team":"a')):
        assert (await usage_reports.page(store, Filter(tag=tag))).items == []
    assert len((await usage_reports.page(store, Filter(tag=("team", "%")))).items) == 1
    assert len((await usage_reports.page(store, Filter(tag=("x", '"team":"a"')))).items) == 1


async def test_an_export_goes_through_many_pages(store, monkeypatch):
    """Records of one millisecond that straddle a page are neither lost nor doubled."""
    monkeypatch.setattr(usage_reports, "EXPORT_PAGE", 7)
    batch = [record(number, created_at=NOON) for number in range(35)]
    await usage.insert_batch(store, batch)
    assert await everything(store) == batch


async def test_a_summary_takes_whole_days(store):
    """`since` and `until` widen to UTC days, and filters narrow."""
    days = [
        record(number, created_at=NOON + number * DAY, key_id=f"k{number}") for number in (0, 1, 2)
    ]
    await usage.insert_batch(store, days)
    found = await usage_reports.summary(
        store, "day", Filter(since=NOON + DAY, until=NOON + DAY + 1)
    )
    assert [(row.group, row.requests) for row in found] == [("2025-11-22", 1)]
    found = await usage_reports.summary(store, "total", Filter(key_id="k0"))
    assert [(row.group, row.requests) for row in found] == [("", 1)]


@pytest.mark.parametrize("wanted", [Filter(status=200), Filter(tag=("team", "a"))])
async def test_a_summary_of_some_records(store, wanted):
    """By status or tag, in every grouping: the sum of exactly those records."""
    source = random.Random(5)
    records = [random_record(number, source) for number in range(200)]
    await usage.insert_batch(store, records)
    chosen = [
        one
        for one in records
        if (one.status == wanted.status if wanted.status else one.tags.get("team") == "a")
    ]
    for group in usage_reports.RECORD_SUMMARIES:
        found = await usage_reports.summary(store, group, wanted)
        assert sum(row.requests for row in found) == len(chosen)
        assert sum(row.cost_nano for row in found) == sum(one.cost_nano for one in chosen)
        assert sum(row.errors for row in found) == sum(one.status >= 400 for one in chosen)
    by_key = {row.group: row.requests for row in await usage_reports.summary(store, "key", wanted)}
    assert by_key == dict(Counter(one.key_id or "" for one in chosen))


async def test_a_group_that_a_settled_record_left_is_not_told(store):
    """Held at one provider, settled at another: the first has nothing to show."""
    held = record(1, usage_source="held", provider="a", tags={"job": "x"})
    await usage.insert_batch(store, [held])
    await usage.insert_batch(store, [record(1, provider="b", tags={"job": "y"})])
    assert [row.group for row in await usage_reports.summary(store, "provider", Filter())] == ["b"]
    assert [row.group for row in await usage_reports.summary(store, "tag", Filter())] == ["job=y"]


@pytest.mark.parametrize(
    "group_by", ["", "nonsense", "day; DROP TABLE orgs", "status", "cost_nano"]
)
async def test_an_unknown_grouping_is_refused(store, group_by):
    """Groups come from a fixed list."""
    with pytest.raises(InvalidRequest):
        await usage_reports.summary(store, group_by, Filter())


async def test_a_filter_that_a_summary_cannot_hold_is_refused(store):
    """A wrong sum is worse than none."""
    for group_by, wanted in (
        ("month", Filter(status=429)),
        ("tag", Filter(key_id="k")),
    ):
        with pytest.raises(InvalidRequest):
            await usage_reports.summary(store, group_by, wanted)


@pytest.mark.parametrize(
    ("at", "first", "following"),
    [
        ("2025-11-21T12:00:00+00:00", "2025-11-01", "2025-12-01"),
        ("2025-12-31T23:59:59.999+00:00", "2025-12-01", "2026-01-01"),
        ("2024-02-01T00:00:00+00:00", "2024-02-01", "2024-03-01"),
    ],
)
def test_months_are_utc_calendar_months(at, first, following):
    """The last millisecond of a year belongs to December."""

    def ms(text: str) -> int:
        return round(datetime.fromisoformat(text).timestamp() * 1000)

    midnight = "T00:00:00+00:00"
    assert usage.month_bounds(ms(at)) == (ms(first + midnight), ms(following + midnight))


async def partition_of(store, record_id: str) -> str:
    return await store.fetchval(
        "SELECT CAST(tableoid::regclass AS TEXT) FROM usage_records WHERE id = $1", record_id
    )


async def test_partitions_are_made_ahead_and_take_strays_along(pg_url):
    """A record without a partition waits in the default one and moves when its month is made."""
    store = await open_store(pg_url, migrate=False)
    early = [record(number) for number in range(3)]
    await usage.insert_batch(store, [*early, record(9, created_at=NOON + 400 * DAY)])
    assert await partition_of(store, early[0].id) == "usage_records_default"
    made = await usage.ensure_partitions(store, NOON)
    assert made == ["usage_records_y2025m11", "usage_records_y2025m12"]
    assert await usage.ensure_partitions(store, NOON) == []
    for one in early:
        assert await partition_of(store, one.id) == "usage_records_y2025m11"
    assert await partition_of(store, record(9).id) == "usage_records_default"
    assert await usage.insert_batch(store, [*early, record(10, created_at=NOON + 20 * DAY)]) == 1
    assert await partition_of(store, record(10).id) == "usage_records_y2025m12"
    assert len(await everything(store)) == 5
    await store.close()


async def test_partitions_may_be_made_by_many_at_once(pg_url):
    """Every gateway of a cluster does this at midnight."""
    stores = [await open_store(pg_url, migrate=False) for _ in range(3)]
    made = await asyncio.gather(
        *(usage.ensure_partitions(store, NOON) for store in stores for _ in range(3))
    )
    assert sorted(chain(*made)) == ["usage_records_y2025m11", "usage_records_y2025m12"]
    for store in stores:
        await store.close()


async def test_sqlite_needs_no_partitions(sqlite_url):
    """There is nothing to make."""
    store = await open_store(sqlite_url, migrate=False)
    assert await usage.ensure_partitions(store) == []
    await store.close()


# -- retention ----------------------------------------------------------------------------------


async def test_old_months_are_forgotten(store):
    """Whole months go, strays too, the roll-ups stay, and what is kept is kept whole."""
    months = [NOON - 31 * DAY * back for back in range(5)]  # November back to July
    for at in months[:3]:
        await usage.ensure_partitions(store, at)
    records = [record(number, created_at=at) for number, at in enumerate(months)]
    await usage.insert_batch(store, records)
    before = await stored_totals(store, "usage_daily")
    dropped = await usage.forget(store, 1, NOON)
    kept = [one for one in records if day_of(one) >= "2025-10"]
    assert len(kept) == 2
    assert sorted(await everything(store), key=lambda one: one.id) == kept
    assert dropped == (["usage_records_y2025m09"] if store.engine == "postgresql" else [])
    assert await stored_totals(store, "usage_daily") == before
    assert await usage.forget(store, 1, NOON) == []
    assert len(await everything(store)) == 2


async def test_nothing_of_the_kept_months_is_forgotten(store):
    """The first millisecond of the oldest month that is kept stays; the one before goes."""
    first = usage.month_bounds(NOON)[0]
    await usage.insert_batch(store, [record(1, created_at=first), record(2, created_at=first - 1)])
    await usage.forget(store, 1, NOON)
    assert len(await everything(store)) == 2
    await usage.forget(store, 0, NOON)
    assert [one.id for one in await everything(store)] == [record(1).id]
