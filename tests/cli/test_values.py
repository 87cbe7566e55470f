"""Option values as people type them."""

from __future__ import annotations

import contextlib

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from fastgw.cli import values
from fastgw.domain import now_ms

DAY = 86_400_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-11-01", 1_793_491_200_000),
        ("2026-11-01T12:00", 1_793_534_400_000),
        ("2026-11-01T12:00:00Z", 1_793_534_400_000),
        ("2026-11-01T14:00:00+02:00", 1_793_534_400_000),
        ("2026-11-01T12:00:00.123Z", 1_793_534_400_123),
        ("1970-01-01", 0),
    ],
)
def test_times(text, ms):
    """ISO 8601, UTC unless it says otherwise."""
    assert values.time_ms(text) == ms


@pytest.mark.parametrize(("span", "days"), [("30d", 30), ("2w", 14), ("24h", 1), ("1440m", 1)])
def test_spans(span, days):
    """An expiry counts forwards, a report's beginning backwards."""
    before = now_ms()
    assert before + days * DAY <= values.expiry_ms(span) <= now_ms() + days * DAY
    assert before - days * DAY <= values.since_ms(span) <= now_ms() - days * DAY


def test_until_takes_a_day_whole():
    """`--until 2026-11-01` includes that day."""
    assert values.until_ms("2026-11-01") == values.time_ms("2026-11-02")
    assert values.until_ms("2026-11-01T12:00") == values.time_ms("2026-11-01T12:00")


@pytest.mark.parametrize(
    "text",
    ["", "soon", "30", "30x", "-1d", "٣d", "2026-13-01", "2026-11-01T25:00", "1e3d", "0d",
     "2001-01-01", "0001-01-01", "9999999d\x1b"],
)  # fmt: skip
def test_bad_expiries(text):
    """Nonsense and the past are refused with a line that shows a right one."""
    with pytest.raises(typer.BadParameter) as failed:
        values.expiry_ms(text)
    assert str(failed.value).isprintable()


@given(st.text())
def test_times_never_fail_otherwise(text):
    """Any text is a time or wrong use, never a defect."""
    with contextlib.suppress(typer.BadParameter):
        assert isinstance(values.since_ms(text), int)


def test_several():
    """Repeated and comma-separated are the same; an empty one empties."""
    assert values.several(["a,b", " c ", "a", ""]) == ["a", "b", "c"]
    assert values.several([""]) == []
    assert values.several(None) == []


def test_tags():
    """Pairs; a value may be empty and may hold an equals sign."""
    assert values.tags(["a=1,b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    assert values.tags([""]) == {}


@pytest.mark.parametrize("text", ["a", "=b", "a=1,a=2", "a\x1b=b", "a=b\nc", "a\t=x"])
def test_bad_tags(text):
    """A tag without a name, twice or with control characters is refused."""
    with pytest.raises(typer.BadParameter):
        values.tags([text])


@pytest.mark.parametrize("name", ["", " ", " a", "a\x00", "a\nb", "a\u202eb", "x" * 257, "\ud800"])
def test_bad_names(name):
    """Names are printable."""
    with pytest.raises(typer.BadParameter) as failed:
        values.word(name)
    assert str(failed.value).isprintable()


@pytest.mark.parametrize(
    ("usd", "pico"), [("2.5", 2_500_000), ("0", 0), ("0.000001", 1), ("1e-6", 1), ("10", 10**7)]
)
def test_prices(usd, pico):
    """Dollars per million tokens are millionths of pico-dollars a token, exactly."""
    assert values.pico_per_token(usd) == pico


@pytest.mark.parametrize("usd", ["", "x", "-1", "NaN", "Infinity", "0.0000001", "1e30", "2,5"])
def test_bad_prices(usd):
    """No rounding, no credit, no nonsense."""
    with pytest.raises(typer.BadParameter):
        values.pico_per_token(usd)
