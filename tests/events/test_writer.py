"""No record is lost between the flow and the store, whatever the store does."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from fastgw.domain import UsageRecord
from fastgw.errors import StoreUnavailable
from fastgw.events.writer import UsageWriter
from fastgw.storage.sql import usage, usage_reports
from tests.waiting import eventually


def record(number: int) -> UsageRecord:
    return UsageRecord(
        id=f"fgx_{number:06d}", request_id="r", created_at=1_700_000_000_000 + number, key_id=None,
        user_id=None, team_id=None, org_id=None, tags={"n": str(number)}, endpoint="e",
        requested_model="m", provider="p", upstream_model="u", status=200, attempts=1, stream=True,
        input_tokens=number, output_tokens=1, cached_tokens=0, cache_write_tokens=0,
        reasoning_tokens=0, cost_nano=7, usage_source="reported", duration_ms=1, ttft_ms=None,
        overhead_us=1, error_code=None,
    )  # fmt: skip


class FakeStore:
    """Takes batches, unless it is down or loses the answer after it has taken one."""

    def __init__(self) -> None:
        self.taken: dict[str, UsageRecord] = {}
        self.down = False
        self.deaf = 0

    async def insert(self, records) -> None:
        if self.down:
            raise StoreUnavailable("down")
        self.taken |= {r.id: r for r in records}
        if self.deaf:
            self.deaf -= 1
            raise StoreUnavailable("the answer was lost")


@pytest.fixture
def fake() -> FakeStore:
    return FakeStore()


async def test_records_arrive_in_batches(fake, tmp_path):
    """All of them, without anybody waiting for it."""
    writer = UsageWriter(fake.insert, tmp_path)
    writer.start()
    for number in range(5000):
        writer.put(record(number))
    await eventually(lambda: len(fake.taken) == 5000)
    await writer.close()
    assert writer.written == 5000


async def test_an_outage_only_delays(fake, tmp_path):
    """Records wait in memory and go out when the store is back; a lost answer doubles nothing."""
    fake.down = True
    writer = UsageWriter(fake.insert, tmp_path)
    writer.start()
    for number in range(100):
        writer.put(record(number))
    await eventually(lambda: not writer._wake.is_set() or len(writer) == 100)
    fake.down, fake.deaf = False, 1
    await eventually(lambda: len(writer) == 0)
    assert len(fake.taken) == 100
    await writer.close()


async def test_what_cannot_be_written_at_the_end_is_spilled_and_loaded(fake, tmp_path):
    """SIGTERM while the database is down: the next start writes the records, once."""
    fake.down = True
    writer = UsageWriter(fake.insert, tmp_path)
    for number in range(10):
        writer.put(record(number))
    await writer.close()
    assert fake.taken == {}
    (spill,) = tmp_path.iterdir()
    assert spill.stat().st_mode & 0o077 == 0
    fake.down = False
    nxt = UsageWriter(fake.insert, tmp_path)
    assert await nxt.load_spilled() == 10
    assert fake.taken == {r.id: r for r in map(record, range(10))}
    assert list(tmp_path.iterdir()) == []
    assert await nxt.load_spilled() == 0


async def test_more_than_fits_goes_to_the_spill_file(fake, tmp_path):
    """A long outage costs disk, not memory, and no record."""
    fake.down = True
    writer = UsageWriter(fake.insert, tmp_path, most=100)
    for number in range(250):
        writer.put(record(number))
    assert len(writer) <= 100
    await writer.close()
    fake.down = False
    assert await UsageWriter(fake.insert, tmp_path).load_spilled() == 250
    assert len(fake.taken) == 250


async def test_a_spill_file_cut_by_a_kill_gives_all_its_whole_lines(fake, tmp_path):
    """Half a line is half a record; the others are not lost for it."""
    fake.down = True
    writer = UsageWriter(fake.insert, tmp_path)
    for number in range(3):
        writer.put(record(number))
    await writer.close()
    (spill,) = tmp_path.iterdir()
    spill.write_bytes(spill.read_bytes()[:-20])
    fake.down = False
    assert await UsageWriter(fake.insert, tmp_path).load_spilled() == 2


async def test_a_loader_that_died_is_taken_over(fake, tmp_path):
    """The claim of a dead process, or of an earlier one with our number, holds nobody up."""
    fake.down = True
    for _ in range(2):
        writer = UsageWriter(fake.insert, tmp_path)
        writer.put(record(random.randrange(10**6)))
        await writer.close()
    first, second = sorted(tmp_path.iterdir())
    first.rename(f"{first}.loading-{os.getpid()}")
    second.rename(f"{second}.loading-999999999")
    fake.down = False
    assert await UsageWriter(fake.insert, tmp_path).load_spilled() == 2
    assert list(tmp_path.iterdir()) == []


async def test_through_the_real_store(store, tmp_path):
    """Both engines: what went in comes out, also when a record is offered twice."""
    writer = UsageWriter(lambda records: usage.insert_batch(store, records), tmp_path)
    writer.start()
    for number in range(50):
        writer.put(record(number))
        writer.put(record(number))
    await writer.close()
    found = [r async for r in usage_reports.export(store, usage_reports.Filter())]
    assert sorted(found, key=lambda r: r.id) == [record(n) for n in range(50)]


class HeldStore(FakeStore):
    """Lets a batch wait until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.asked = 0

    async def insert(self, records) -> None:
        self.asked += 1
        await self.go_on.wait()
        await super().insert(records)


async def test_a_close_in_the_middle_of_a_batch_takes_nothing_out_twice(tmp_path):
    """What is being written when the end comes is written once, and so is all behind it."""
    held = HeldStore()
    writer = UsageWriter(held.insert, tmp_path)
    writer.start()
    for number in range(7000):
        writer.put(record(number))
    await eventually(lambda: held.asked == 1)
    closing = asyncio.ensure_future(writer.close())
    await asyncio.sleep(0)
    held.go_on.set()
    await closing
    assert len(held.taken) == 7000
    assert writer.written == 7000
    assert len(writer) == 0


async def test_an_overflow_in_the_middle_of_a_batch_loses_nothing(tmp_path):
    """The oldest half goes to the spill file while the batch before it is under way."""
    held = HeldStore()
    writer = UsageWriter(held.insert, tmp_path, most=100)
    writer.start()
    for number in range(50):
        writer.put(record(number))
    await eventually(lambda: held.asked == 1)
    for number in range(50, 200):
        writer.put(record(number))
    held.go_on.set()
    await writer.close()
    assert writer.spilled
    assert len(held.taken) + writer.spilled == 200
    assert await UsageWriter(held.insert, tmp_path).load_spilled() == writer.spilled
    assert len(held.taken) == 200


async def test_a_batch_that_is_refused_is_set_aside(fake, tmp_path):
    """It holds up nobody, neither now nor at the next start, and is not lost."""
    refusing = True

    async def insert(records) -> None:
        if refusing and any(r.id == "fgx_000003" for r in records):
            raise ValueError("no database can hold this")
        await fake.insert(records)

    writer = UsageWriter(insert, tmp_path)
    writer.start()
    for number in range(5):
        writer.put(record(number))
    await eventually(lambda: [*tmp_path.glob("*.refused")])
    writer.put(record(5))
    await eventually(lambda: "fgx_000005" in fake.taken)
    await writer.close()
    (aside,) = tmp_path.glob("*.refused")
    assert len(aside.read_bytes().splitlines()) == 5
    aside.rename(tmp_path / "usage-again.jsonl")
    again = UsageWriter(insert, tmp_path)
    assert await again.load_spilled() == 0
    assert [path.suffix for path in tmp_path.iterdir()] == [".refused"]
    refusing = False
    next(tmp_path.iterdir()).rename(tmp_path / "usage-again.jsonl")
    assert await UsageWriter(insert, tmp_path).load_spilled() == 5
    assert len(fake.taken) == 6
