"""Series in shared memory: exact sums over workers, whatever kills them, in both builds."""

from __future__ import annotations

import importlib
import itertools
import math
import mmap
import os
import signal
import sys

import pytest

from fastgw._ext import board as layout
from tests.waiting import eventually_sync

DROPPED = 'fastgw_dropped_total{what="series"}'
BOUNDS = (0.1, 1.0, 10.0)


def compiled():
    try:
        return importlib.import_module("fastgw._ext._counters")
    except ImportError:
        return None


@pytest.fixture(params=["compiled", "pure"])
def counters(request):
    """The module under test, in each build."""
    if request.param == "pure":
        return importlib.import_module("fastgw._ext.pure.counters")
    module = compiled()
    if module is None:
        if os.environ.get("FASTGW_REQUIRE_EXT"):
            pytest.fail("the compiled build is required and absent")
        pytest.skip("the extension is not built")
    return module


def fork(work, *args):
    """Run `work` in a child process that ends without the test's own exit handlers."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work(*args)
        except BaseException:  # noqa: BLE001 - the child must not return into pytest
            os._exit(1)
        os._exit(0)
    return pid


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- worst days ---------------------------------------------------------------------------------


def test_worker_killed_in_the_middle_of_writes(counters):
    """After SIGKILL the successor goes on in the same cells, and no number is torn or lost.

    A writer counts each add in two cells, one after the other: whenever it is killed they differ
    by one add at most. What they hold is what the successor starts from.
    """
    board = counters.Board(1 << 16, 2)

    def write():
        slot = board.slot(1)
        first, second = slot.counter("first"), slot.counter("second")
        times = slot.histogram("times", BOUNDS)
        for number in itertools.count():
            first.add(3)
            second.add(3)
            times.observe(0.5)
            if number % 50 == 0:  # new series come while it is killed
                slot.counter(f'many{{n="{number % 5000}"}}').add(1)

    floor = 0
    for _ in range(8):
        pid = fork(write)
        eventually_sync(lambda at=floor: board.read().get("first", 0) > at + 3000)
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL
        found = board.read()
        assert found["first"] % 3 == 0
        assert found["first"] > floor
        floor = found["first"]
    found = board.read()
    assert 0 <= found["first"] - found["second"] <= 8 * 3
    assert 0 <= found["second"] // 3 - sum(found["times"].counts) <= 8
    assert found[DROPPED] == 0
    slot = board.slot(1)
    slot.counter("first").add(1)
    assert board.read()["first"] == floor + 1


def test_killed_while_a_series_is_made(counters):
    """Whatever part of an entry was written when the writer died, readers and successor go on."""
    board = counters.Board(1 << 16, 1)
    slot = board.slot(0)
    slot.counter("whole").add(1)
    used = board.words[0]
    slot.histogram("torn", BOUNDS).observe(5)
    start = 8 + used
    entry = bytes(board.raw[start * 8 : (8 + board.words[0]) * 8])
    for kept in range(0, len(entry) + 1, 8):  # nothing counted it yet: part of it is there
        board.words[0] = used
        board.raw[start * 8 : start * 8 + len(entry)] = entry[:kept] + b"\xff" * (len(entry) - kept)
        assert board.read() == {DROPPED: 0, "whole": 1}
        successor = board.slot(0)
        successor.counter("whole").add(0)
        assert successor.counter("new") is not None
        assert board.read() == {DROPPED: 0, "whole": 1, "new": 0}


def test_entry_that_is_not_as_it_was_written(counters):
    """A head, name or bound that does not match its checksum ends the reading of that slot."""
    board = counters.Board(1 << 16, 2)
    board.slot(1).counter("sane").add(1)
    slot = board.slot(0)
    start = 8 + board.words[0]
    slot.histogram("broken", BOUNDS)
    for word in (0, 1, 2):
        before = board.words[start + word]
        for wrong in (0, -1, before ^ 1):
            board.words[start + word] = wrong
            assert board.read() == {DROPPED: 0, "sane": 1}
        board.words[start + word] = before
    assert "broken" in board.read()
    for wrong in (-1, 1 << 62):
        before, board.words[0] = board.words[0], wrong
        assert board.read()["sane"] == 1
        board.words[0] = before


def test_reader_beside_writers(counters):
    """What is read while others write is always a state that was: sums only grow."""
    board = counters.Board(1 << 18, 2)

    def write(number):
        slot = board.slot(number)
        for count in range(3000):
            slot.counter(f'series{{n="{count % 100}"}}').add(1)

    pids = [fork(write, number) for number in range(2)]
    last = 0
    for pid in pids:
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            total = sum(board.read().values())
            assert total >= last
            last = total
    assert sum(board.read().values()) == 6000


# -- sums ---------------------------------------------------------------------------------------


def test_four_workers(counters):
    """4 forked workers of 10,000 adds sum up exactly."""
    board = counters.Board(1 << 16, 4)

    def write(number):
        slot = board.slot(number)
        counter = slot.counter('hits{who="all"}')
        own = slot.counter(f'hits{{who="{number}"}}')
        gauge = slot.gauge("live")
        times = slot.histogram("times", BOUNDS)
        for count in range(10_000):
            counter.add(1)
            own.add(number)
            gauge.add(1)
            times.observe((0.05, 0.5, 5, 50)[count % 4])
        gauge.add(-9_999)

    pids = [fork(write, number) for number in range(4)]
    assert [ended(pid) for pid in pids] == [0] * 4
    found = board.read()
    assert found['hits{who="all"}'] == 40_000
    assert [found[f'hits{{who="{number}"}}'] for number in range(4)] == [0, 10_000, 20_000, 30_000]
    assert found["live"] == 4
    assert found["times"].counts == (10_000,) * 4
    assert found["times"].sum == pytest.approx(10_000 * 55.55)
    assert board.read_slot(2)['hits{who="2"}'] == 20_000


def test_successor_counts_on_and_gauges_start_anew(counters):
    """Counters and histograms are kept; a gauge told of the dead worker's state and is unset."""
    board = counters.Board(1 << 16, 2)
    first = board.slot(0)
    first.counter("done").add(5)
    first.gauge("live").set(7)
    first.histogram("times", BOUNDS).observe(1)
    board.slot(1).gauge("live").set(2)
    assert board.read()["live"] == 9
    second = board.slot(0)
    assert "live" not in board.read_slot(0)
    assert board.read()["live"] == 2
    second.counter("done").add(1)
    second.gauge("live").add(-1)
    second.histogram("times", BOUNDS).observe(1)
    found = board.read()
    assert (found["done"], found["live"]) == (6, 1)
    assert found["times"].counts == (0, 2, 0, 0)


def test_large_numbers(counters):
    """A counter holds 63 bits: nano-dollars of nine billion dollars."""
    board = counters.Board(1 << 16, 1)
    counter = board.slot(0).counter("cost")
    counter.add(2**62)
    counter.add(2**62 - 1)
    assert board.read()["cost"] == 2**63 - 1
    with pytest.raises((OverflowError, ValueError)):
        counter.add(2**64)
    with pytest.raises(TypeError):
        counter.add("1")


def test_histogram_edges(counters):
    """A value equal to a bound is below it (`le`); infinities have a bucket; NaN is ignored."""
    board = counters.Board(1 << 16, 1)
    times = board.slot(0).histogram("times", BOUNDS)
    for value in (0.1, -1, -math.inf, 1.0, 1.0000001, 10.0, 11, math.nan):
        times.observe(value)
    assert board.read()["times"].counts == (3, 1, 2, 1)
    assert board.read()["times"].sum == -math.inf


def test_same_name_same_cell(counters):
    """Asked twice, a name is the same number."""
    slot = (board := counters.Board(1 << 16, 1)).slot(0)
    slot.counter("a").add(1)
    slot.counter("a").add(1)
    assert board.read()["a"] == 2


def test_names_are_any_text(counters):
    """Quotes, backslashes and other scripts in names come back as they were."""
    slot = (board := counters.Board(1 << 16, 1)).slot(0)
    names = ['a{x="\\"\\\\"}', "ü" * 7, "模型", "x" * 8192, "a\nb"]
    for number, name in enumerate(names):
        slot.counter(name).add(number)
    found = board.read()
    assert [found[name] for name in names] == [0, 1, 2, 3, 4]


# -- full and wrong -----------------------------------------------------------------------------


def test_full_board_counts_what_it_drops(counters):
    """With no room for more series, updates are counted as drops: one each, whatever they add."""
    board = counters.Board(mmap.PAGESIZE, 1)
    slot = board.slot(0)
    made = [slot.counter(f"series-{number:04}") for number in range(1000)]
    for counter in made:
        counter.add(10)
    found = board.read()
    kept = len(found) - 1
    assert 0 < kept < 1000
    assert all(value == 10 for name, value in found.items() if name != DROPPED)
    assert found[DROPPED] == 1000 - kept
    slot.gauge("gauge").set(5)
    slot.gauge("gauge").add(5)
    slot.histogram("histogram", BOUNDS).observe(5)
    assert board.read()[DROPPED] == 1000 - kept + 3
    assert board.slot(0).counter("series-0000") is not None
    assert board.read()[DROPPED] == 1000 - kept + 3


def test_slots_do_not_touch_each_other(counters):
    """A full slot leaves its neighbour's cells alone."""
    board = counters.Board(mmap.PAGESIZE, 2)
    neighbour = board.slot(1)
    neighbour.counter("mine").add(1)
    slot = board.slot(0)
    for number in range(1000):
        slot.counter(f"series-{number}").add(1 << 40)
    assert board.read_slot(1) == {DROPPED: 0, "mine": 1}


@pytest.mark.parametrize(("size", "slots"), [(0, 1), (-1, 1), (1 << 16, 0), (1 << 16, -1)])
def test_empty_board(counters, size, slots):
    """A board without slots, or slots without room, is refused."""
    with pytest.raises(ValueError, match="slots"):
        counters.Board(size, slots)


def test_size_is_that_of_one_slot(counters):
    """Every slot has the whole size, rounded up to pages: more workers do not mean fewer series."""
    board = counters.Board(mmap.PAGESIZE + 1, 3)
    assert len(board.raw) == 3 * 2 * mmap.PAGESIZE


def test_wrong_use(counters):
    """Another kind or other bounds under a name, no name, no slot: errors, not other numbers."""
    board = counters.Board(1 << 16, 1)
    slot = board.slot(0)
    slot.counter("a")
    slot.histogram("h", BOUNDS)
    for wrong in (
        lambda: slot.gauge("a"),
        lambda: slot.histogram("a", BOUNDS),
        lambda: slot.histogram("h", (0.1, 1.0)),
        lambda: slot.histogram("i", ()),
        lambda: slot.histogram("i", (1.0, 1.0)),
        lambda: slot.histogram("i", (math.inf,)),
        lambda: slot.counter(""),
        lambda: slot.counter("x" * 8193),
        lambda: board.slot(1),
        lambda: board.slot(-1),
    ):
        with pytest.raises((ValueError, IndexError)):
            wrong()
    assert set(board.read()) == {DROPPED, "a", "h"}


def test_cells_stay_inside_their_view():
    """A compiled cell is an address: it is checked when it is made."""
    module = compiled()
    if module is None:
        pytest.skip("the extension is not built")
    words = memoryview(bytearray(64)).cast("q")
    for wrong in (-1, 8, 1 << 40):
        with pytest.raises((ValueError, IndexError)):
            module.Counter(words, wrong)
    with pytest.raises(IndexError):
        module.Histogram(words, words.cast("B").cast("d"), 0, 4)
    with pytest.raises(ValueError, match="writable"):
        module.Counter(memoryview(bytes(64)).cast("q"), 0)
    with pytest.raises(ValueError, match="words"):
        module.Counter(memoryview(bytearray(64)), 0)


def test_cell_keeps_its_memory(counters):
    """A counter outlives the board's name: its memory is not unmapped under it."""
    counter = counters.Board(1 << 16, 1).slot(0).counter("a")
    counter.add(1)
    counter.add(1)


def test_builds_share_a_layout():
    """Both builds write the same bytes, so a fork may mix them."""
    module = compiled()
    if module is None:
        pytest.skip("the extension is not built")
    pure = importlib.import_module("fastgw._ext.pure.counters")
    raws = []
    for build in (module, pure):
        board = build.Board(1 << 16, 1)
        slot = board.slot(0)
        slot.counter("a").add(3)
        slot.gauge("g").add(2)
        slot.gauge("g").set(0.5)
        slot.histogram("h", BOUNDS).observe(0.2)
        raws.append(bytes(board.raw))
    assert raws[0] == raws[1]
    assert layout.DROPPED == DROPPED
