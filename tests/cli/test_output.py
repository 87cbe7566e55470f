"""What is printed: nothing hidden, nothing executed, nothing lost."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.cli import output
from tests.corpora import shared

EVIL = "a\x1b[31mred\x07\x9b2J\u202egpj.exe\r\n\t\x00\x7f\U000e0001é中"
SCALARS = st.text() | st.integers(-(2**53), 2**53) | st.none() | st.booleans()


@settings(max_examples=50)
@given(st.text())
def test_nothing_a_terminal_obeys_is_printed(text):
    """Tables and JSON hold printable characters and line ends alone."""
    row = {"name": text}
    for shown in (output.as_table([row], ("name",)), output.as_json([row])):
        assert all(char.isprintable() or char == "\n" for char in shown)


@settings(max_examples=50)
@given(st.recursive(SCALARS, lambda inner: st.dictionaries(st.text(), inner), max_leaves=8))
def test_json_is_lossless(value):
    """What is escaped for the eye is the same value for a program."""
    assert json.loads(output.as_json(value)) == value


def test_table_escapes_and_aligns():
    """Control characters are seen, wide letters take two columns, numbers stand to the right."""
    rows = [{"name": EVIL, "n": 5}, {"name": "中", "n": 12345}, {"name": "x", "n": None}]
    lines = output.as_table(rows, ("name", "n")).splitlines()
    assert r"a\x1b[31mred\x07\x9b2J\u202egpj.exe\r\n\t\x00\x7f\U000e0001é中" in lines[1]
    assert lines[1].endswith("      5")
    assert lines[2].endswith("  12345")
    assert lines[3].endswith("-")
    assert output._width(lines[1]) == output._width(lines[2])


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_csv_cell_is_a_formula(start):
    """A text that a spreadsheet would evaluate begins with a quote; numbers stay numbers."""
    text = start + "HYPERLINK(1)"
    content = output.as_csv([{"name": text, "n": -5}], ("name", "n"))
    assert list(csv.reader(io.StringIO(content, newline="")))[1] == ["'" + text, "-5"]


def test_csv_holds_every_field():
    """Shown columns come first, the others follow; nested values are JSON in their cell."""
    content = output.as_csv([{"b": 1, "a": {"x": [1]}, "c": None, "d": True}], ("a",))
    assert content == 'a,b,c,d\n"{""x"":[1]}",1,,true\n'


def test_csv_on_a_terminal_is_escaped(monkeypatch):
    """Into a file control characters go as they are, onto a terminal they do not."""
    rows = [{"name": "a\x1bb"}]
    assert "\x1b" in output.as_csv(rows, ("name",))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert "\x1b" not in output.as_csv(rows, ("name",))


def test_naughty_strings_come_back():
    """Every naughty string survives JSON and CSV."""
    naughty = json.loads((shared("naughty_strings") / "blns.json").read_text())
    rows = [{"name": text} for text in naughty]
    assert [row["name"] for row in json.loads(output.as_json(rows))] == naughty
    content = output.as_csv([{"name": text, "n": 0} for text in naughty], ("name", "n"))
    cells = [row[0] for row in csv.reader(io.StringIO(content, newline=""))][1:]
    for cell, text in zip(cells, naughty, strict=True):
        assert cell == ("'" + text if text.startswith(output.FORMULA) else text)


def test_times_are_iso():
    """Milliseconds survive, and so do times before 1970."""
    assert output.iso(1_769_904_000_001) == "2026-02-01T00:00:00.001Z"
    assert output.iso(-1) == "1969-12-31T23:59:59.999Z"
    assert output.iso(None) is None


def test_errors_are_escaped(capsys):
    """What goes to stderr may repeat what somebody typed."""
    output.note("no key 'a\x1b[2J'")
    assert capsys.readouterr().err == "no key 'a\\x1b[2J'\n"
