# cython: language_level=3, annotation_typing=False, nonecheck=True
"""What says that a fact still holds: looked at on every request, killed by whoever changes it.

One text: compiled when a compiler is there (`stamp.pxd` holds the types), plain Python otherwise.
"""

from __future__ import annotations


class Stamp:
    """Marks a fact that plans were made from; whoever changes the fact kills the stamp."""

    __slots__ = ("live",)

    live: bool

    def __init__(self) -> None:
        self.live = True

    def kill(self) -> None:
        """Say that the fact is no longer true."""
        self.live = False


class Freshness:
    """Until when (seconds of the monotonic clock) what is in memory may be used unasked."""

    __slots__ = ("until",)

    until: float

    def __init__(self) -> None:
        self.until = 0.0

    def extend(self, until: float) -> None:
        """Set it; the store has just been asked."""
        self.until = until
