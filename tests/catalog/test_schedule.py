"""A schedule neither stalls nor skips."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.catalog.schedule import Schedule


def at(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("schedule", "last", "due"),
    [
        ("every 6h", "2026-01-01T00:00", "2026-01-01T06:00"),
        ("24h", "2026-01-01T00:00", "2026-01-02T00:00"),
        ("every 30m", "2026-01-01T00:00", "2026-01-01T00:30"),
        ("Every 2d", "2026-02-27T00:00", "2026-03-01T00:00"),
        ("daily 03:15", "2026-01-01T03:14", "2026-01-01T03:15"),
        ("daily 3:15", "2026-01-01T03:15", "2026-01-02T03:15"),
        ("daily 00:00", "2026-12-31T23:59", "2027-01-01T00:00"),
    ],
)
def test_schedule(schedule, last, due):
    """Due times are counted from the last run, daily ones in UTC."""
    assert Schedule.parse(schedule).next_after(at(last)) == at(due)


@pytest.mark.parametrize(
    "text",
    ["", "every", "every 6", "every h", "every 0m", "0h", "daily", "daily 24:00",
     "daily 1:2", "hourly", "every ٣h", "every -1h", "every 400d", "daily 03:15 UTC"],
)  # fmt: skip
def test_a_bad_schedule_says_what_a_good_one_looks_like(text):
    """The message shows both forms."""
    with pytest.raises(ValueError, match="every 6h"):
        Schedule.parse(text)


@given(st.integers(0, 2**42), st.integers(0, 23), st.integers(0, 59))
def test_the_next_time_is_later_and_within_a_day(now, hour, minute):
    """A daily schedule neither stalls nor skips a day."""
    due = Schedule.parse(f"daily {hour:02}:{minute:02}").next_after(now)
    assert 0 < due - now <= 86_400_000
