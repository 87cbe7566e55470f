"""M-10: day, week and month turn over under load, in steps of 10 ms around midnight.

Each request counts in exactly one period, the one it began in, however late it is settled and
however often it was extended; and the store's sums of days and months are the sums of its records.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fastgw._ext import limits
from fastgw.domain import UsageRecord
from fastgw.storage import open_store
from fastgw.storage.sql import usage
from tests.adversity.verdict import Verdict, main

STEP_US = 10_000
HALF = 100
"""Steps before midnight, and after."""
MIDNIGHTS = (
    "2026-03-01", "2026-05-04", "2026-12-31", "2027-01-01", "2028-02-29", "2028-03-01",
)  # fmt: skip
PERIODS = ("day", "week", "month", "total")
LIMIT = 10**12


@dataclass(frozen=True)
class Form:
    """Requests begun at each step."""

    rate: int
    seed: int = 10


LONG = Form(rate=50)
SHORT = Form(rate=3)


def micros(moment: datetime) -> int:
    """Give epoch microseconds."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def begins(period: str, at: int) -> datetime:
    """Say when a period began, by the standard library's calendar."""
    moment = datetime.fromtimestamp(at // 10**6, UTC)
    day = moment.replace(hour=0, minute=0, second=0)
    if period == "week":
        return day - timedelta(days=day.weekday())
    if period == "month":
        return day.replace(day=1)
    return day if period == "day" else datetime(1970, 1, 1, tzinfo=UTC)


class Load:
    """Requests against four budgets, each with a lifetime that may reach over midnight."""

    def __init__(self, random_: random.Random) -> None:
        self.random = random_
        self.budgets = {period: limits.Budget(LIMIT, period) for period in PERIODS}
        self.guard = limits.Guard(tuple(self.budgets.values()))
        self.open: list[tuple[int, limits.Reservation]] = []
        self.settled: list[tuple[int, int]] = []
        """(when it began, what it cost)."""
        self.extended = 0

    def step(self, now: int, rate: int) -> None:
        """Begin some, extend some, settle those whose time has come."""
        for _ in range(rate):
            held = self.guard.reserve(now, 0, self.random.randrange(1, 10**6))
            assert held is not None
            self.open.append((now + self.random.randrange(1, 80) * STEP_US, held))
        for _, held in self.random.sample(self.open, min(rate, len(self.open))):
            self.extended += held.extend(now, 0, self.random.randrange(10**5))
        for each in [each for each in self.open if each[0] <= now]:
            self.open.remove(each)
            cost = self.random.randrange(each[1].nano + 1)
            each[1].settle(now, 0, cost)
            self.settled.append((each[1].at_us, cost))

    def end(self, now: int) -> None:
        """Settle what is left."""
        for _, held in self.open:
            held.settle(now, 0, held.nano)
            self.settled.append((held.at_us, held.nano))
        self.open.clear()


def judge(load: Load, midnight: int, now: int) -> list[str]:
    """Compare what the budgets say with what the requests say."""
    found = []
    for period, budget in load.budgets.items():
        sums: dict[datetime, int] = defaultdict(int)
        for at, cost in load.settled:
            sums[begins(period, at)] += cost
        here, before = begins(period, now), begins(period, midnight - 1)
        if budget.spent != sums[here] or budget.reserved:
            found.append(f"{period}: {budget.spent} and {budget.reserved} held, not {sums[here]}")
        if before != here and budget.spent_before != sums[before]:
            found.append(f"{period}: {budget.spent_before} before, not {sums[before]}")
        if sum(sums.values()) != sum(cost for _, cost in load.settled):
            found.append(f"{period}: a request counts in no period")
    return found


def record(number: int, at_ms: int, cost: int) -> UsageRecord:
    """Give a record that began then."""
    return UsageRecord(
        f"m10-{number}", "", at_ms, "key_1", None, None, None, {}, "chat_completions", "m", "p",
        "m", 200, 1, True, 1, 1, 0, 0, 0, cost, "reported", 1, None, 1, None,
    )  # fmt: skip


async def stored(settled: list[tuple[int, int]]) -> tuple[list[str], int]:
    """Write them as records, and compare the roll-ups."""
    folder = Path(tempfile.mkdtemp(prefix="fastgw-money-"))
    try:
        store = await open_store(f"sqlite:///{folder}/fastgw.db", migrate=True)
        try:
            records = [record(n, at // 1000, cost) for n, (at, cost) in enumerate(settled)]
            for start in range(0, len(records), 500):
                await usage.insert_batch(store, records[start : start + 500])
            return await _compare(store, settled), len(records)
        finally:
            await store.close()
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)


async def _compare(store, settled: list[tuple[int, int]]) -> list[str]:
    found = []
    for table, column, period in (
        ("usage_daily", "day", "day"),
        ("usage_monthly", "month", "month"),
    ):
        sums: dict[int, int] = defaultdict(int)
        for at, cost in settled:
            sums[micros(begins(period, at)) // 1000] += cost
        rows = await store.fetch(
            f"SELECT {column} AS begins, sum(cost_nano) AS nano FROM {table} GROUP BY {column}"
        )
        if {row["begins"]: row["nano"] for row in rows} != dict(sums):
            found.append(f"{table}: not the sums of the records")
    return found


async def run(form: Form) -> Verdict:
    """Go over every midnight."""
    verdict = Verdict("M-10 periods turn over")
    random_ = random.Random(form.seed)
    every: list[tuple[int, int]] = []
    extended = 0
    for date in MIDNIGHTS:
        midnight = micros(datetime.fromisoformat(date).replace(tzinfo=UTC))
        load = Load(random_)
        now = midnight
        for step in range(-HALF, HALF + 1):
            now = midnight + step * STEP_US
            load.step(now, form.rate)
        load.end(now)
        verdict.problems += [f"{date}: {each}" for each in judge(load, midnight, now)]
        every += load.settled
        extended += load.extended
    problems, rows = await stored(every)
    verdict.problems += problems
    verdict.figure = (
        f"{len(MIDNIGHTS)} midnights, {2 * HALF + 1} steps of 10 ms each: {rows} requests,"
        f" {extended} extensions, each in one period; roll-ups are the sums of the records"
    )
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
