"""Types of the compiled cells."""

from fastgw._ext import board
from fastgw._ext.board import HistogramReading as HistogramReading
from fastgw._ext.board import Slot as Slot

class Counter:
    """A number that grows."""

    def __init__(self, words: memoryview, index: int, dropped: bool = False) -> None: ...
    def add(self, n: int, /) -> None:
        """Add `n`, which is not negative."""

class Gauge:
    """A number that goes up and down."""

    def __init__(self, view: memoryview[float], index: int, dropped: bool = False) -> None: ...
    def add(self, n: float, /) -> None:
        """Add `n`; what nobody has set counts as 0."""

    def set(self, value: float, /) -> None:
        """Set it."""

class Histogram:
    """How many observations fell between the bounds."""

    def __init__(
        self,
        words: memoryview,
        reals: memoryview[float],
        index: int,
        bounds: int,
        dropped: bool = False,
    ) -> None: ...
    def observe(self, value: float, /) -> None:
        """Count `value` in the first bucket whose bound is not below it; NaN is ignored."""

class Board(board.Board):
    """The mapping: `size_bytes` for each slot, taken as they fill. Make it before the fork."""
