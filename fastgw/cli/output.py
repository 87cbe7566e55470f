"""What commands print: a table for people, JSON and CSV for programs. The only module that prints.

Everything shown is data of somebody else: control characters never reach a terminal as they are,
and no CSV cell can become a formula.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

Row = Mapping[str, Any]
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet evaluate a cell (OWASP, CSV injection)."""


def note(text: str) -> None:
    """Say something to the person at the terminal; results go to stdout, this does not."""
    sys.stderr.write(printable(text) + "\n")


def write(text: str) -> None:
    """Print a text as it is, which must be ours alone."""
    sys.stdout.write(text)


def show_rows(rows: Sequence[Row], columns: Sequence[str], form: str) -> None:
    """Print a listing. A table shows `columns`; JSON and CSV hold every field."""
    if form == "json":
        write(as_json([dict(row) for row in rows]))
    elif form == "csv":
        write(as_csv(rows, columns))
    else:
        write(as_table(rows, columns))


def show_one(row: Row, form: str) -> None:
    """Print one object: two columns for people."""
    if form == "json":
        write(as_json(dict(row)))
    elif form == "csv":
        write(as_csv([row], tuple(row)))
    else:
        lines = [{"field": field, "value": value} for field, value in row.items()]
        write(as_table(lines, ("field", "value")))


def as_json(value: Any) -> str:
    """Give indented JSON; what cannot be seen is escaped, so nothing is lost and nothing hidden."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return _escape(text, _json_escape, keep="\n") + "\n"


def as_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Give CSV with a header line; nested values are JSON inside their cell."""
    fields = list(dict.fromkeys([*columns, *(field for row in rows for field in row)]))
    lines = [csv_line(fields), *(csv_line(row.get(field) for field in fields) for row in rows)]
    text = "".join(lines)
    return _escape(text, _plain_escape, keep="\n") if sys.stdout.isatty() else text


def as_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Give aligned columns two spaces apart, numbers to the right; nothing is cut off."""
    head = [column.replace("_", " ").upper() for column in columns]
    body = [[printable(cell(row.get(column))) for column in columns] for row in rows]
    widths = [max(map(_width, lines)) for lines in zip(head, *body, strict=True)]
    right = [_is_numbers([row.get(column) for row in rows]) for column in columns]
    lines = []
    for line in [head, *body]:
        padded = [
            " " * (width - _width(text)) + text if to_right else text + " " * (width - _width(text))
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
    """Show one value to a person."""
    if value is None or value in ({}, [], (), ""):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ",".join(f"{name}={cell(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(cell, value))
    return str(value)


def iso(at_ms: int | None) -> str | None:
    """Show epoch milliseconds as ISO 8601 in UTC, to the millisecond."""
    if at_ms is None:
        return None
    seconds, rest = divmod(at_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def printable(text: str) -> str:
    """Escape what a terminal would obey instead of show."""
    return _escape(text, _plain_escape)


def progress(text: str) -> None:
    """Say on a terminal, and only there, how far long work is; "" wipes it away."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{printable(text)}")
        sys.stderr.flush()


def csv_line(values: Iterable[Any]) -> str:
    """Give one line of CSV (RFC 4180, but for the bare line feed at its end)."""
    return ",".join(map(_csv_cell, values)) + "\n"


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | int | dict | list | tuple):
        text = msgspec.json.encode(value).decode()
    else:
        text = str(value)
        text = "'" + text if text.startswith(FORMULA) else text
    # The csv module leaves a lone carriage return bare when lines end without one.
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def _escape(text: str, escape: Callable[[str], str], keep: str = "") -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else escape(char) for char in text)


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _plain_escape(char: str) -> str:
    return ascii(char)[1:-1]


def _is_numbers(column: Sequence[Any]) -> bool:
    found = {type(value) for value in column} - {type(None)}
    return found == {int}


def _width(text: str) -> int:
    """Count terminal columns: wide letters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )
