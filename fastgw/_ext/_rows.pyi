"""Types of the compiled rows."""

from collections.abc import Callable
from typing import Any, final

from fastgw._ext.columns import Row

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

    def fit(self, records: list[Any]) -> list[Row]:
        """Give the rows with every value such that a database takes it: nobody reads a refusal."""

def group(
    rows: list[Row], at: int, unit: int, keys: tuple[int, ...], sums: tuple[int, ...]
) -> list[Row]:
    """Sum rows up by time and by some columns.

    `at` is the column of the time, which is cut to whole `unit`s. Gives a tuple for each group, in
    the order of their first rows: time, keys, number of rows, sums, latest time.
    """

def copy_binary(rows: list[Row]) -> bytes:
    """Encode rows of texts, whole numbers and None for PostgreSQL's COPY ... (FORMAT binary).

    Texts go as UTF-8, numbers as int8. See "Binary Format" in PostgreSQL's page on COPY.
    """
