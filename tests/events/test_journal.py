"""The files behind a journal: made ahead, owned, synced; a full disk is noticed in time."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from fastgw._ext import journal
from fastgw.events.journal import Place, Segments, is_dead, wait_for_leftovers
from tests.adversity.bed import descriptors
from tests.events.ledgers import SIZE, WHO, Worker, killed, names
from tests.waiting import eventually


@pytest.fixture
def place(tmp_path) -> Place:
    return Place.make(tmp_path / "journal")


async def test_lines_outlive_a_kill(place):
    """What was written before kill -9 is in the file, and the set has no owner any more."""

    def work() -> None:
        worker = Worker(place)
        kept = worker.journal.open(worker.who, "fgx_1", None, 5, False, 1, 2, 3)
        assert kept

    killed(work)
    (lock,) = place.folder.glob("*.lock")
    assert is_dead(lock)
    first = min(place.folder.glob("*.seg"))
    _, opened, _ = journal.read(first.read_bytes(), 0, {})
    assert [row[0] for row, _, _ in opened] == ["fgx_1"]


async def test_a_living_owner_is_seen(place):
    """Not dead while it lives, whoever asks and how often; gone when its files are."""
    worker = Worker(place)
    (lock,) = place.folder.glob("*.lock")
    assert [is_dead(lock) for _ in range(3)] == [False] * 3
    worker.die()
    assert is_dead(lock) is True
    lock.unlink()
    assert is_dead(lock) is None


async def test_segments_are_made_ahead(place):
    """The next one is there before it is needed, whole, and only we can read it."""
    worker = Worker(place)
    assert len([*place.folder.glob("*.seg")]) == 2
    await worker.serve(*names(1000))
    made = [*place.folder.glob("*.seg")]
    assert len(made) > 3
    for path in made:
        stat = path.stat()
        assert (stat.st_size, stat.st_mode & 0o777) == (SIZE, 0o600)
        assert stat.st_blocks * 512 >= SIZE
    worker.die()


async def test_what_was_left_is_synced_and_let_go(place):
    """No descriptor stays open for a segment that is full."""
    worker = Worker(place)
    running = asyncio.ensure_future(worker.segments.sync())
    await worker.serve(*names(1000))
    await eventually(lambda: len(worker.segments._files) <= 3)
    running.cancel()
    before = descriptors(os.getpid())
    worker.die()
    assert descriptors(os.getpid()) < before


async def test_a_full_disk_refuses_and_recovers(place, monkeypatch):
    """No segment is made; lines go on while there is room, then none; afterwards all is well."""
    worker = Worker(place)
    segments = worker.segments
    monkeypatch.setattr(segments, "_full_at", 0.0)
    served = 0
    for name in names(10_000):
        await segments.look()
        if not worker.journal.open(worker.who, name, None, 5, False, 1, 2, 3):
            break
        served += 1
    assert 0 < served < 1000
    assert segments.describe()["fault"].startswith("the disk is ")
    monkeypatch.setattr(segments, "_full_at", 1.0)
    await segments.look()
    assert segments.fault is None
    assert worker.journal.open(worker.who, "fgx_9", None, 5, False, 1, 2, 3)
    worker.die()


async def test_an_allocation_that_fails_leaves_no_file(place, monkeypatch):
    """ENOSPC is a fault with a name, not an exception, and costs no descriptor."""

    def fail(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    segments = Segments(place, 0, full_at=1, size=SIZE)
    before = descriptors(os.getpid())
    segments.start()
    assert segments.fault == "No space left on device"
    assert not segments.journal.open(journal.Who(WHO), "fgx_1", None, 5, False, 1, 2, 3)
    assert [path.suffix for path in place.folder.iterdir()] == [".lock"]
    assert descriptors(os.getpid()) == before + 1
    segments.close()


async def test_an_old_segment_is_left(place, monkeypatch):
    """However little goes into it."""
    worker = Worker(place)
    await worker.serve("fgx_1")
    monkeypatch.setattr("fastgw.events.journal._OLD_S", 0.0)
    await worker.segments.look()
    assert worker.journal.serial == 2
    await worker.segments.look()
    await worker.segments.look()
    assert worker.journal.serial == 2, "there is nothing in it"
    worker.die()


async def test_waiting_is_what_is_not_loaded(place):
    """Bytes of lines; a segment in reserve has none."""
    worker = Worker(place)
    assert worker.segments.describe()["waiting"] == 0
    await worker.serve("fgx_1")
    assert worker.segments.describe()["waiting"] == worker.journal.end - 64
    worker.die()


async def test_who_starts_waits_for_what_the_dead_left(place):
    """Until it is gone; the living are no concern."""
    living, dead = Worker(place, 0), Worker(place, 1)
    dead.die()
    waiting = asyncio.ensure_future(wait_for_leftovers(place.folder))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    next(path for path in place.folder.glob("*.lock") if is_dead(path)).unlink()
    await asyncio.wait_for(waiting, 10)
    living.die()


def test_two_places_in_one_folder_never_meet(tmp_path):
    """Servers that share a folder have names of their own."""
    places = [Place.make(tmp_path) for _ in range(20)]
    assert len({each.run for each in places}) == 20
    assert isinstance(places[0].folder, Path)
