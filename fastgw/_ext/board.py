"""Series of numbers in memory that all workers share: who has which cell, and the sum of all.

One anonymous shared mapping is made before the workers are forked. Each worker has a slot, a region
that it alone writes; its successor takes the same slot and goes on counting in the same cells. Any
process can read all of them at any time, without a lock.

A region is a list of entries that only grows:

    word 0           how many words of entries are complete
    words 1-7        unused
    words 8-         entries, each: head, name, cells

    head             kind | length of name << 8 | number of bounds << 24 | checksum << 32
    name             UTF-8, filled up to whole words
    cells            counter: one int64
                     gauge: one double, NaN while nobody has set it
                     histogram: the bounds (double), one int64 for each bound and one for what is
                     above the last, then the sum of all observations (double)

Cells are aligned words, so a load or store is whole on every machine we run on. An entry is written
before word 0 counts it; a writer that is killed in between leaves bytes that its successor writes
over. The checksum guards readers on machines that show stores in another order.

This text serves both builds; what is hot, the cells themselves, each build brings along.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Protocol
from zlib import crc32

_COUNTER, _GAUGE, _HISTOGRAM = 1, 2, 3
_WORD = 8
_HEADER_WORDS = 8
_LONGEST_NAME = 8192
_MOST_BOUNDS = 64
DROPPED = 'fastgw_dropped_total{what="series"}'
"""Counts the updates of series for which there was no room."""


class Counter(Protocol):
    """A number that grows."""

    def add(self, n: int, /) -> None:
        """Add `n`, which is not negative."""


class Gauge(Protocol):
    """A number that goes up and down."""

    def add(self, n: float, /) -> None:
        """Add `n`; what nobody has set counts as 0."""

    def set(self, value: float, /) -> None:
        """Set it."""


class Histogram(Protocol):
    """How many observations fell between the bounds."""

    def observe(self, value: float, /) -> None:
        """Count `value` in the first bucket whose bound is not below it; NaN is ignored."""


class Cells(Protocol):
    """What a build brings along."""

    Counter: Any
    Gauge: Any
    Histogram: Any


class HistogramReading(NamedTuple):
    """`counts` has one number for each bound and one for what is above the last."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


Reading = int | float | HistogramReading


class Entry(NamedTuple):
    """Where a series is: its words in the whole board."""

    kind: int
    name: str
    cell: int
    bounds: int
    end: int


class Board:
    """The mapping: `size_bytes` for each slot, taken as they fill. Make it before the fork."""

    cells: ClassVar[Cells]

    def __init__(self, size_bytes: int, slots: int) -> None:
        if size_bytes < 1 or slots < 1:
            raise ValueError("a board has slots of some size")
        region = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.slots = slots
        self.region_words = region // _WORD
        self.raw = memoryview(mmap.mmap(-1, region * slots))
        self.words = self.raw.cast("q")
        self.reals: memoryview[float] = self.raw.cast("d")

    def slot(self, number: int) -> Slot:
        """Take a slot to write to.

        Counters go on where a predecessor was killed; gauges, which told of its state, are unset.
        """
        if not 0 <= number < self.slots:
            raise IndexError(f"there is no slot {number}")
        return Slot(self, number)

    def read_slot(self, number: int) -> dict[str, Reading]:
        """Give all numbers of one slot by name; gauges that are unset are left out."""
        values = ((entry.name, self.value(entry)) for entry in self.entries(number))
        return {name: value for name, value in values if value is not None}

    def value(self, entry: Entry) -> Reading | None:
        """Give the number of an entry as it is now; None for a gauge that is unset."""
        if entry.kind == _COUNTER:
            return self.words[entry.cell]
        if entry.kind == _HISTOGRAM:
            return self._histogram(entry)
        value = self.reals[entry.cell]
        return None if math.isnan(value) else value

    def read(self) -> dict[str, Reading]:
        """Give all numbers by name, summed over the slots."""
        total: dict[str, Reading] = {}
        for number in range(self.slots):
            for name, value in self.read_slot(number).items():
                total[name] = summed(total[name], value) if name in total else value
        return total

    def entries(self, number: int, after: Entry | None = None) -> Iterator[Entry]:
        """Give the complete entries of a slot, in the order they were made: all, or later ones."""
        base = number * self.region_words
        words = self.words
        used = min(words[base], self.region_words - _HEADER_WORDS)
        at, end = base + _HEADER_WORDS, base + _HEADER_WORDS + used
        if after is not None:
            at = after.end
        while at < end:
            entry = self._entry(at, end)
            if entry is None:
                return
            yield entry
            at = entry.end

    def _entry(self, at: int, limit: int) -> Entry | None:
        head = self.words[at]
        kind, length, bounds, checksum = (
            head & 0xFF, head >> 8 & 0xFFFF, head >> 24 & 0xFF, head >> 32,
        )  # fmt: skip
        cell = at + 1 + _words_of(length)
        end = cell + _cell_words(kind, bounds)
        if kind not in (_COUNTER, _GAUGE, _HISTOGRAM) or end > limit:
            return None
        name = bytes(self.raw[(at + 1) * _WORD : (at + 1) * _WORD + length])
        bounds_text = bytes(self.raw[cell * _WORD : (cell + bounds) * _WORD])
        if _checksum(kind, name, bounds_text) != checksum:
            return None
        return Entry(kind, name.decode(), cell, bounds, end)

    def _histogram(self, entry: Entry) -> HistogramReading:
        first = entry.cell + entry.bounds
        return HistogramReading(
            tuple(self.reals[entry.cell : first]),
            tuple(self.words[first : first + entry.bounds + 1]),
            self.reals[first + entry.bounds + 1],
        )


class Slot:
    """One worker's region. One thread of one process writes to it."""

    def __init__(self, board: Board, number: int) -> None:
        self.number = number
        self._board = board
        self._base = number * board.region_words
        self._words = board.words
        self._reals = board.reals
        self._raw = board.raw
        self._limit = self._base + board.region_words
        self._cells = board.cells
        self._known: dict[str, Entry] = {}
        for entry in board.entries(number):
            self._known[entry.name] = entry
            if entry.kind == _GAUGE:
                self._reals[entry.cell] = math.nan
        # A torn entry is behind what word 0 counts, or was refused: growing starts over it.
        last = next(reversed(self._known.values()), None)
        self._next = last.end if last is not None else self._base + _HEADER_WORDS
        self._dropped = self._find(_COUNTER, DROPPED)
        assert self._dropped is not None, "a page has room for one entry"

    def counter(self, name: str) -> Counter:
        """Give the counter of that name, new or known; with no room left, the one of drops."""
        entry = self._find(_COUNTER, name)
        counter: Counter = self._cells.Counter(self._words, *self._cell_or_dropped(entry))
        return counter

    def gauge(self, name: str) -> Gauge:
        """Give the gauge of that name; with no room left, changes count as drops."""
        entry = self._find(_GAUGE, name)
        cell, dropped = self._cell_or_dropped(entry)
        gauge: Gauge = self._cells.Gauge(self._words if dropped else self._reals, cell, dropped)
        return gauge

    def histogram(self, name: str, bounds: tuple[float, ...]) -> Histogram:
        """Give the histogram of that name; with no room left, observations count as drops."""
        if not bounds or len(bounds) > _MOST_BOUNDS or not all(map(math.isfinite, bounds)):
            raise ValueError(f"{name}: 1 to {_MOST_BOUNDS} finite bounds are needed")
        if any(low >= high for low, high in pairwise(bounds)):
            raise ValueError(f"{name}: bounds must rise")
        entry = self._find(_HISTOGRAM, name, bounds)
        cell, dropped = self._cell_or_dropped(entry)
        made: Histogram = self._cells.Histogram(
            self._words, self._reals, cell, 0 if dropped else len(bounds), dropped
        )
        return made

    def _cell_or_dropped(self, entry: Entry | None) -> tuple[int, bool]:
        if entry is not None:
            return entry.cell, False
        assert self._dropped is not None
        return self._dropped.cell, True

    def _find(self, kind: int, name: str, bounds: tuple[float, ...] = ()) -> Entry | None:
        """Give the entry, made when it is new; None when there is no room."""
        entry = self._known.get(name)
        if entry is None:
            return self._append(kind, name, bounds)
        if entry.kind != kind:
            raise ValueError(f"{name} is there as another kind")
        if tuple(self._reals[entry.cell : entry.cell + entry.bounds]) != bounds:
            raise ValueError(f"{name} is there with other bounds")
        return entry

    def _append(self, kind: int, name: str, bounds: tuple[float, ...]) -> Entry | None:
        text = name.encode()
        if not text or len(text) > _LONGEST_NAME:
            raise ValueError(f"a name has 1 to {_LONGEST_NAME} bytes")
        at = self._next
        cell = at + 1 + _words_of(len(text))
        end = cell + _cell_words(kind, len(bounds))
        if end > self._limit:
            return None
        for index in range(at + 1, end):
            self._words[index] = 0
        self._raw[(at + 1) * _WORD : (at + 1) * _WORD + len(text)] = text
        for index, bound in enumerate(bounds):
            self._reals[cell + index] = bound
        if kind == _GAUGE:
            self._reals[cell] = math.nan
        bounds_text = bytes(self._raw[cell * _WORD : (cell + len(bounds)) * _WORD])
        checksum = _checksum(kind, text, bounds_text)
        self._words[at] = kind | len(text) << 8 | len(bounds) << 24 | checksum << 32
        self._words[self._base] = end - self._base - _HEADER_WORDS
        self._next = end
        entry = Entry(kind, name, cell, len(bounds), end)
        self._known[name] = entry
        return entry


def _words_of(size: int) -> int:
    return (size + _WORD - 1) // _WORD


def _cell_words(kind: int, bounds: int) -> int:
    return 2 * bounds + 2 if kind == _HISTOGRAM else 1


def _checksum(kind: int, name: bytes, bounds: bytes) -> int:
    """31 bits, so that a head is never negative."""
    return crc32(bounds, crc32(name, kind)) & 0x7FFFFFFF


def summed(one: Reading, other: Reading) -> Reading:
    """Give what two slots counted together."""
    if isinstance(one, HistogramReading) and isinstance(other, HistogramReading):
        if one.bounds != other.bounds:
            raise ValueError("two slots have one histogram with different bounds")
        counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
        return HistogramReading(one.bounds, counts, one.sum + other.sum)
    if isinstance(one, HistogramReading) or isinstance(other, HistogramReading):
        raise ValueError("two slots have one series as different kinds")  # noqa: TRY004
    return one + other
