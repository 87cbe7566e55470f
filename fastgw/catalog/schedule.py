"""When something is due again: each so often, or at a time of day. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Self

import msgspec

SPAN = re.compile(r"(?:every )?([0-9]{1,6}) ?([mhd])", re.ASCII)
CLOCK = re.compile(r"daily ([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """When to sync: every so many seconds, or daily at a UTC time of day (minutes)."""

    every_s: int | None = None
    daily_min: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "6h", "every 30m", "every 2d" or "daily 03:15" (UTC); else ValueError."""
        word = " ".join(text.lower().split())
        if span := SPAN.fullmatch(word):
            seconds = int(span[1]) * {"m": 60, "h": 3600, "d": 86400}[span[2]]
            if 60 <= seconds <= 366 * 86400:
                return cls(every_s=seconds)
        if clock := CLOCK.fullmatch(word):
            return cls(daily_min=int(clock[1]) * 60 + int(clock[2]))
        raise ValueError(f"{text!r} is no schedule: say 'every 6h' or 'daily 03:15' (UTC)")

    def next_after(self, at_ms: int) -> int:
        """Give the first time due later than `at_ms`, the last run; epoch milliseconds."""
        if self.every_s is not None:
            return at_ms + self.every_s * 1000
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        minute = self.daily_min or 0
        due = at.replace(hour=minute // 60, minute=minute % 60, second=0, microsecond=0)
        if due <= at:
            due += timedelta(days=1)
        return int(due.timestamp() * 1000)
