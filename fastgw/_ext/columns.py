"""What a column of a row may hold, and how a text is made fit; both builds of rows share this."""

from __future__ import annotations

from typing import Any, Final

AS_IT_IS: Final = 0
NUMBER: Final = -1
"""A whole number or a truth value, brought into 0..most."""
JSON: Final = -2
"""A mapping, by the shape's `encode`."""
MOST_COLUMNS: Final = 64

Row = tuple[Any, ...]


def fit_text(text: str, longest: int) -> str:
    """Give a text that every database can hold and index, of at most `longest` characters."""
    if len(text) <= longest and text.isascii() and "\0" not in text:
        return text
    whole = text[:longest].encode("utf-8", "replace").decode()
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")
