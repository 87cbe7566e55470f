"""Slows guessing: whoever failed a few times waits, longer each time. In the memory of one worker.

An attempt counts as failed from its begin until it has succeeded, so guesses sent side by side, or
dropped half-way, gain nothing.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from fastgw.errors import TooManyAttempts

_LONGEST_S = 300.0
_FORGOTTEN_AFTER_S = 900.0
_MOST = 10_000


class _Failures(msgspec.Struct):
    count: int = 0
    last: float = 0.0


class Throttle:
    """Counts failures by name; `free` of them cost nothing, each further one doubles the wait."""

    def __init__(self, free: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = free
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def begin(self, name: str) -> None:
        """Count an attempt; raises `TooManyAttempts` while the name must wait."""
        now = self._clock()
        known = self._failures.get(name)
        if known is None or now - known.last > _FORGOTTEN_AFTER_S:
            known = _Failures()
        over = known.count - self._free
        if over >= 0:
            wait = known.last + min(2.0**over, _LONGEST_S) - now
            if wait > 0:
                raise TooManyAttempts("too many failed attempts; wait a little", retry_after=wait)
        known.count += 1
        known.last = now
        self._failures[name] = known
        self._failures.move_to_end(name)
        if len(self._failures) > _MOST:
            self._failures.popitem(last=False)

    def take_back(self, name: str) -> None:
        """Do not count one attempt: it was none."""
        known = self._failures.get(name)
        if known is not None and known.count:
            known.count -= 1

    def forget(self, name: str) -> None:
        """Count nothing any more: whoever it is has proved it."""
        self._failures.pop(name, None)
