# cython: language_level=3, annotation_typing=False, nonecheck=True
"""All deadlines of a loop under one sweep timer. Touches the loop's clock and timer, nothing else.

Deadlines of the same duration fall due in the order they were armed, so each duration is a FIFO
list: arming appends, disarming unlinks, neither allocates, and the sweep looks at the heads only.
It runs every 25 ms and only while something is armed. One text: compiled when a compiler is there
(`deadlines.pxd` holds the types), plain Python otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

TICK_S = 0.025
LATE_S = 0.1
"""A sweep that comes this late says that the loop stood still, not that the upstream did."""


class Deadline:
    """Something that may expire; a link of one list at a time."""

    __slots__ = ("after", "before", "due", "line")

    line: Line | None
    before: Deadline | None
    after: Deadline | None
    due: float

    def __init__(self) -> None:
        self.line = None
        self.before = None
        self.after = None
        self.due = 0.0

    def is_armed(self) -> bool:
        """Tell whether it is waiting to expire."""
        return self.line is not None

    def expired(self) -> None:
        """Act on the deadline; it is disarmed already."""
        raise NotImplementedError


class Line:
    """The deadlines of one duration, soonest first; swept while it is `listed`."""

    __slots__ = ("first", "last", "listed", "seconds")

    first: Deadline | None
    last: Deadline | None
    listed: bool
    seconds: float

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.first = None
        self.last = None
        self.listed = False

    def append(self, entry: Deadline) -> None:
        """Link an entry that is in no line."""
        entry.line = self
        entry.before = self.last
        if self.last is None:
            self.first = entry
        else:
            self.last.after = entry
        self.last = entry

    def remove(self, entry: Deadline) -> None:
        """Unlink one of its entries."""
        if entry.before is None:
            self.first = entry.after
        else:
            entry.before.after = entry.after
        if entry.after is None:
            self.last = entry.before
        else:
            entry.after.before = entry.before
        entry.line = entry.before = entry.after = None


class Deadlines:
    """The armed deadlines of one loop.

    `now` is the clock as of the last sweep or arming: at most a tick old while anything is armed,
    and free to read, which the clock itself is not.
    """

    __slots__ = ("_clock", "_excused", "_known", "_lines", "_loop", "_swept", "_timer", "now")

    _lines: list[Line]

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._lines = []
        self._known: dict[float, Line] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._excused = False
        self._swept = 0.0
        self.now = clock()

    def read_clock(self) -> float:
        """Give the exact time, in seconds of the clock; `now` follows."""
        self.now = self._clock()
        return self.now

    def arm(self, entry: Deadline, seconds: float) -> None:
        """Let `entry` expire `seconds` after `now`, instead of when it was armed for before."""
        line = self._known.get(seconds)
        if line is None:
            line = self._known[seconds] = Line(seconds)
        self.arm_in(entry, line)

    def arm_in(self, entry: Deadline, line: Line) -> None:
        """Do the same in a line of its own, for who arms the same durations all the time."""
        if entry.line is not None:
            entry.line.remove(entry)
        if not line.listed:
            if self._timer is None:
                self.now = self._swept = self._clock()
                self._timer = self._loop.call_later(TICK_S, self.sweep)
            line.listed = True
            self._lines.append(line)
        entry.due = self.now + line.seconds
        line.append(entry)

    def disarm(self, entry: Deadline) -> None:
        """Let `entry` not expire."""
        if entry.line is not None:
            entry.line.remove(entry)

    def is_quiet(self) -> bool:
        """Tell whether no timer runs."""
        return self._timer is None

    def sweep(self) -> None:
        """Expire what is due and come back while anything is armed."""
        now = self._clock()
        late = now - self._swept > LATE_S
        self.now = self._swept = now
        self._timer = self._loop.call_later(TICK_S, self.sweep)
        if late and not self._excused:
            # timers run before sockets are read: what arrived meanwhile goes first
            self._excused = True
            return
        self._excused = False
        for line in list(self._lines):
            while line.first is not None and line.first.due <= now:
                entry = line.first
                line.remove(entry)
                entry.expired()
        for line in self._lines:
            if line.first is None:
                # durations come from settings and from clients: an unused one leaves nothing
                line.listed = False
                self._known.pop(line.seconds, None)
        self._lines = [line for line in self._lines if line.listed]
        if not self._lines:
            self.close()

    def close(self) -> None:
        """Stop the timer; nothing expires any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for line in self._lines:
            line.listed = False
            while line.first is not None:
                line.remove(line.first)
        self._lines = []
        self._known.clear()
