"""The cells of a board in plain Python. The compiled twin is _counters.pyx.

A store through a view of words is one machine store, so a kill cannot tear a number here either.
"""

from __future__ import annotations

import sys
from bisect import bisect_left

from fastgw._ext import board
from fastgw._ext.board import HistogramReading, Slot

__all__ = ["Board", "Counter", "Gauge", "Histogram", "HistogramReading", "Slot"]


class Counter:
    """A number that grows."""

    __slots__ = ("_dropped", "_index", "_words")

    def __init__(self, words: memoryview, index: int, dropped: bool = False) -> None:
        self._words = words
        self._index = index
        self._dropped = dropped

    def add(self, n: int, /) -> None:
        """Add `n`, which is not negative."""
        self._words[self._index] += 1 if self._dropped else n


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("_dropped", "_index", "_view")

    def __init__(self, view: memoryview[float], index: int, dropped: bool = False) -> None:
        self._view = view
        self._index = index
        self._dropped = dropped

    def add(self, n: float, /) -> None:
        """Add `n`; what nobody has set counts as 0."""
        if self._dropped:
            self._view[self._index] += 1
            return
        value = self._view[self._index]
        self._view[self._index] = n if value != value else value + n  # noqa: PLR0124 - NaN

    def set(self, value: float, /) -> None:
        """Set it."""
        if self._dropped:
            self._view[self._index] += 1
        else:
            self._view[self._index] = value


class Histogram:
    """How many observations fell between the bounds."""

    __slots__ = ("_bounds", "_first", "_reals", "_total", "_words")

    def __init__(
        self,
        words: memoryview,
        reals: memoryview[float],
        index: int,
        bounds: int,
        dropped: bool = False,
    ) -> None:
        self._words = words
        self._reals = reals
        self._bounds = tuple(reals[index : index + bounds])
        self._first = index + bounds
        self._total = -1 if dropped else index + 2 * bounds + 1

    def observe(self, value: float, /) -> None:
        """Count `value` in the first bucket whose bound is not below it; NaN is ignored."""
        if self._total < 0:
            self._words[self._first] += 1
        elif value == value:  # noqa: PLR0124 - NaN
            self._words[self._first + bisect_left(self._bounds, value)] += 1
            self._reals[self._total] += value


class Board(board.Board):
    """The mapping: `size_bytes` for each slot, taken as they fill. Make it before the fork."""

    cells = sys.modules[__name__]
