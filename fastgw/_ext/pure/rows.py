"""Many rows at once on their way into a database. Twin of _rows.pyx."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, final

from fastgw._ext.columns import AS_IT_IS, JSON, MOST_COLUMNS, NUMBER, Row, fit_text

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_WIDTH = Struct("!h")
_NOTHING = Struct("!i").pack(-1)
_LENGTH = Struct("!i")
_INTEGER = Struct("!iq")
_LARGEST = 2**63 - 1


@final
class Shape:
    """Makes rows: what a column holds, how large a number may be, how a record is taken apart."""

    def __init__(
        self,
        columns: tuple[int, ...],
        most: int,
        split: Callable[[Any], Row],
        encode: Callable[[Any], str],
    ) -> None:
        """A column is AS_IT_IS, NUMBER, JSON, or a text of at most so many characters.

        None stays None in all of them.
        """
        if not 0 < len(columns) <= MOST_COLUMNS:
            raise ValueError(f"a row has 1 to {MOST_COLUMNS} columns")
        self._columns = columns
        self._most = most
        self._split = split
        self._encode = encode

    def fit(self, records: list[Any]) -> list[Row]:
        """Give the rows with every value such that a database takes it: nobody reads a refusal."""
        encoded: dict[int, str] = {}
        return [self._fit_one(self._split(record), encoded) for record in records]

    def _fit_one(self, record: Row, encoded: dict[int, str]) -> Row:
        if len(record) != len(self._columns):
            raise ValueError("a row of another width")
        return tuple(
            value if value is None or kind == AS_IT_IS else self._fit_value(value, kind, encoded)
            for value, kind in zip(record, self._columns, strict=True)
        )

    def _fit_value(self, value: Any, kind: int, encoded: dict[int, str]) -> Any:
        if kind == NUMBER:
            return min(max(int(value), 0), self._most)
        if kind == JSON:
            return self._fit_mapping(value, encoded) if value else "{}"
        return fit_text(value, kind)

    def _fit_mapping(self, value: Any, encoded: dict[int, str]) -> str:
        """Encode a mapping once, however many records share it; they keep it alive meanwhile."""
        text = encoded.get(id(value))
        if text is None:
            text = encoded[id(value)] = self._encode(value)
        return text


def group(
    rows: list[Row], at: int, unit: int, keys: tuple[int, ...], sums: tuple[int, ...]
) -> list[Row]:
    """Sum rows up by time and by some columns.

    `at` is the column of the time, which is cut to whole `unit`s. Gives a tuple for each group, in
    the order of their first rows: time, keys, number of rows, sums, latest time.
    """
    found: dict[Row, list[int]] = {}
    for row in rows:
        time = row[at]
        key = (time // unit * unit, *(row[column] for column in keys))
        cells = found.setdefault(key, [0] * (len(sums) + 2))
        cells[0] += 1
        for index, column in enumerate(sums, 1):
            cells[index] += row[column]
            if cells[index] > _LARGEST:
                raise OverflowError("a sum is too large")
        cells[-1] = max(cells[-1], time)
    return [(*key, *cells) for key, cells in found.items()]


def copy_binary(rows: list[Row]) -> bytes:
    """Encode rows of texts, whole numbers and None for PostgreSQL's COPY ... (FORMAT binary).

    Texts go as UTF-8, numbers as int8. See "Binary Format" in PostgreSQL's page on COPY.
    """
    parts = [_SIGNATURE]
    for row in rows:
        parts.append(_WIDTH.pack(len(row)))
        for value in row:
            if value is None:
                parts.append(_NOTHING)
            elif isinstance(value, str):
                text = value.encode()
                parts += (_LENGTH.pack(len(text)), text)
            elif not isinstance(value, int):
                raise TypeError("neither text nor whole number")
            elif -_LARGEST - 1 <= value <= _LARGEST:
                parts.append(_INTEGER.pack(8, value))
            else:
                raise OverflowError("a number is too large")
    parts.append(_WIDTH.pack(-1))
    return b"".join(parts)
