"""From journals into the store: every line once, whoever dies and whatever the files look like."""

from __future__ import annotations

import asyncio
import random

import pytest

from fastgw.domain import UsageRecord
from fastgw.errors import InvalidRequest, StoreUnavailable
from fastgw.events import loader as loader_
from fastgw.events.journal import Place
from fastgw.events.loader import Loader
from fastgw.storage.sql import usage, usage_reports
from tests.events.ledgers import Worker, killed, left, names
from tests.storage.test_usage import stored_totals, totals


class Table:
    """Keeps rows as the store does, unless it is down or loses the answer after a commit."""

    def __init__(self) -> None:
        self.rows: dict[str, UsageRecord] = {}
        self.batches: list[int] = []
        self.down = False
        self.deaf = 0
        self.refuses: set[str] = set()

    async def insert(self, rows: list[tuple[object, ...]]) -> int:
        """Write rows, all or none."""
        if self.down:
            raise StoreUnavailable("down")
        new = [UsageRecord(*row) for row in rows]
        if any(one.id in self.refuses for one in new):
            raise InvalidRequest("no database can hold this")
        for one in new:
            if one.id not in self.rows or (
                self.rows[one.id].usage_source == "held" and one.usage_source != "held"
            ):
                self.rows[one.id] = one
        self.batches.append(len(new))
        if self.deaf:
            self.deaf -= 1
            raise StoreUnavailable("the answer was lost")
        return len(new)

    def sources(self) -> dict[str, str]:
        """Give the source of each record's usage."""
        return {one.id: one.usage_source for one in self.rows.values()}


@pytest.fixture
def place(tmp_path) -> Place:
    return Place.make(tmp_path / "journal")


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def loader(place, table):
    made = Loader(place.folder, table.insert)
    yield made
    made.close()


async def test_lines_of_a_living_worker_arrive(loader, place, table):
    """As they are written; nothing is written down of what is open."""
    worker = Worker(place)
    await worker.serve(*names(10))
    await worker.open("fgx_000010")
    assert await loader.turn() == 10
    assert set(table.rows) == set(names(10))
    await worker.close("fgx_000010")
    assert await loader.turn() == 1
    assert await loader.turn() == 0
    assert worker.segments.describe()["waiting"] == 0
    worker.die()


async def test_a_dead_worker_leaves_held_records_and_then_nothing(loader, place, table):
    """What it had open is stored at what was reserved, and its files go."""

    def work() -> None:
        worker = Worker(place)
        asyncio.run(worker.serve(*names(3)))
        asyncio.run(worker.open("fgx_000007", 1234))

    killed(work)
    assert await loader.turn() == 3
    assert table.sources() == dict.fromkeys(names(3), "reported") | {"fgx_000007": "held"}
    assert table.rows["fgx_000007"].cost_nano == 1234
    assert left(place) == []
    assert await loader.turn() == 0


async def test_segments_go_when_nothing_in_them_is_open(loader, place, table):
    """A long exchange keeps its own segment and no other; its close is found in a later one."""
    worker = Worker(place)
    await worker.open("fgx_999999")
    await worker.serve(*names(2000))
    await loader.turn()
    assert left(place, ".lock")[0].name.endswith("000001.seg")
    assert len(left(place, ".lock")) <= 4
    await worker.close("fgx_999999")
    await worker.serve(*names(300, 2000))
    await loader.turn()
    assert "000001.seg" not in [path.name[-10:] for path in left(place, ".lock")]
    assert len(table.rows) == 2301
    assert set(table.sources().values()) == {"reported"}
    worker.die()
    await loader.turn()
    assert left(place) == []


async def test_too_many_segments_in_wait_are_stored_as_held(loader, place, table, monkeypatch):
    """Disk is bounded; the late close still counts, once."""
    monkeypatch.setattr(loader_, "MOST_LEFT", 2)
    worker = Worker(place)
    for group in range(5):
        await worker.open(f"fgx_{900_000 + group}")
        await worker.serve(*names(300, 300 * group))
    await loader.turn()
    assert "held" in table.sources().values()
    for group in range(5):
        await worker.close(f"fgx_{900_000 + group}")
    await loader.turn()
    assert set(table.sources().values()) == {"reported"}
    assert len(table.rows) == 1505
    worker.die()


async def test_an_outage_only_delays(loader, place, table):
    """Nothing moves while the store is down; a lost answer doubles nothing."""
    worker = Worker(place)
    await worker.serve(*names(50))
    table.down = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await loader.turn()
    table.down, table.deaf = False, 1
    with pytest.raises(StoreUnavailable):
        await loader.turn()
    assert await loader.turn() == 50
    assert len(table.rows) == 50
    worker.die()


async def test_another_loader_goes_on_where_the_first_one_was(place, table):
    """It reads again what stays open, and offers only what is new."""
    worker = Worker(place)
    await worker.open("fgx_900000")
    await worker.serve(*names(100))
    first = Loader(place.folder, table.insert)
    await first.turn()
    first.close()
    await worker.serve(*names(5, 100))
    second = Loader(place.folder, table.insert)
    assert await second.turn() == 5
    worker.die()
    await second.turn()
    assert table.sources()["fgx_900000"] == "held"
    assert len(table.rows) == 106
    second.close()


async def test_two_loaders_at_once_double_nothing(place, table):
    """One that was stopped and goes on late finds its files gone, and lives with it."""
    worker = Worker(place)
    loaders = [Loader(place.folder, table.insert) for _ in range(2)]
    await worker.serve(*names(400))
    await loaders[0].turn()
    await loaders[1].turn()
    await worker.serve(*names(400, 400))
    worker.die()
    await loaders[1].turn()
    await loaders[0].turn()
    assert len(table.rows) == 800
    assert left(place) == []
    for each in loaders:
        each.close()


async def test_a_batch_holds_no_more_than_it_may(loader, place, table, monkeypatch):
    """Lines of many workers share a transaction."""
    monkeypatch.setattr(loader_, "BATCH", 100)
    workers = [Worker(place, number) for number in range(3)]
    for number, worker in enumerate(workers):
        await worker.serve(*names(90, 90 * number))
    assert await loader.turn() == 270
    assert table.batches == [100, 100, 70]
    for worker in workers:
        worker.die()


async def test_a_damaged_segment_is_set_aside(loader, place, table):
    """What stands before the damage is loaded, what was open becomes held, and all goes on."""

    def work() -> None:
        worker = Worker(place)
        asyncio.run(worker.open("fgx_000900"))
        asyncio.run(worker.serve(*names(20)))

    killed(work)
    first = min(place.folder.glob("*.seg"))
    with first.open("r+b") as file:
        data = file.read()
        at = data.index(b"fgx_000010")
        file.seek(at - 32)
        file.write(b"\xff" * 8)
    worker = Worker(place, 1)
    await worker.serve(*names(5, 100))
    await loader.turn()
    assert set(names(9)) <= set(table.rows)
    assert set(names(5, 100)) <= set(table.rows)
    assert table.sources()["fgx_000900"] == "held"
    aside = [path for path in place.folder.iterdir() if path.suffix == ".damaged"]
    assert len(aside) == 1
    assert aside[0].read_bytes()[at : at + 10] == b"fgx_000010"
    await loader.turn()
    worker.die()
    await loader.turn()
    assert left(place) == aside


@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, b"fgwj1\0\0\0", bytes(4096)])
async def test_what_is_no_segment_stops_nobody(loader, place, table, content):
    """Empty, foreign, cut off, never begun: set aside or removed, with the rest of its set."""
    dead = Worker(place)
    await dead.serve(*names(3))
    (place.folder / min(place.folder.glob("*.seg")).name.replace("000001", "000009")).write_bytes(
        content
    )
    dead.die()
    await loader.turn()
    assert len(table.rows) == 3
    assert [path for path in left(place) if path.suffix != ".damaged"] == []


async def test_bytes_cut_anywhere_are_no_crash(place, table):
    """Each segment of random damage is loaded as far as it can be read."""
    source = random.Random(11)
    for _ in range(40):
        worker = Worker(place)
        await worker.serve(*names(30))
        first = min(place.folder.glob("*.seg"))
        with first.open("r+b") as file:
            for _ in range(source.randrange(1, 5)):
                file.seek(source.randrange(0, 8000))
                file.write(source.randbytes(source.randrange(1, 40)))
        worker.die()
        loader = Loader(place.folder, table.insert)
        await loader.turn()
        loader.close()
        assert [path for path in left(place) if path.suffix != ".damaged"] == []
        for path in left(place):
            path.unlink()


async def test_what_the_store_refuses_for_good_is_set_aside(loader, place, table):
    """One record, not its batch, and it holds up nobody."""
    worker = Worker(place)
    await worker.serve(*names(30))
    table.refuses = {"fgx_000011"}
    await loader.turn()
    assert len(table.rows) == 29
    (line,) = (place.folder / "refused.jsonl").read_text().splitlines()
    assert line.startswith('["fgx_000011"')
    worker.die()


async def test_it_runs_until_everything_is_in(place, table):
    """Told to stop, it waits for the last worker of its server and for what that left."""
    loader = Loader(place.folder, table.insert)
    worker, foreign = Worker(place), Worker(Place.make(place.folder))
    stop = asyncio.Event()
    running = asyncio.ensure_future(loader.run(stop, place.run, 20))
    stop.set()
    await asyncio.sleep(0.3)
    assert not running.done()
    await worker.serve(*names(5))
    worker.die()
    assert await running
    assert len(table.rows) == 5
    loader.close()
    foreign.die()


async def test_it_gives_up_when_the_store_stays_away(place, table):
    """And says that something is left; the files are there for the next start."""
    loader = Loader(place.folder, table.insert)
    worker = Worker(place)
    await worker.serve(*names(5))
    worker.die()
    table.down = True
    stop = asyncio.Event()
    stop.set()
    assert await loader.run(stop, place.run, 0.1) is False
    loader.close()
    table.down = False
    again = Loader(place.folder, table.insert)
    assert await again.turn() == 5
    again.close()


async def test_through_the_real_store(store, place):
    """Both engines: settled and held rows, replays by loaders that died, and true roll-ups."""
    workers = [Worker(place, number) for number in range(3)]
    for number, worker in enumerate(workers):
        await worker.serve(*names(700, 1000 * number))
        await worker.open(f"fgx_{900_000 + number}", 4321)
    loader = Loader(place.folder, lambda rows: usage.insert_rows(store, rows))
    await loader.turn()
    for worker in workers[1:]:
        worker.die()
    loader.close()
    for path in place.folder.glob("*.seg"):  # a loader whose notes were lost begins anew
        with path.open("r+b") as file:
            file.seek(16)
            file.write(bytes(8))
    again = Loader(place.folder, lambda rows: usage.insert_rows(store, rows))
    await again.turn()
    found = [one async for one in usage_reports.export(store, usage_reports.Filter())]
    assert len(found) == 2102
    assert sum(one.cost_nano for one in found) == 2100 * 7 + 2 * 4321
    await workers[0].close("fgx_900000")
    await again.turn()
    found = [one async for one in usage_reports.export(store, usage_reports.Filter())]
    assert len(found) == 2103
    for rolled in ("usage_daily", "usage_monthly", "usage_tags_daily"):
        assert await stored_totals(store, rolled) == totals(found)
    workers[0].die()
    await again.turn()
    again.close()
    assert left(place) == []
