"""The one JSON door: nothing else in fastgw imports a JSON library."""

from __future__ import annotations

from typing import Any

import orjson

JSONError = orjson.JSONDecodeError
"""What `loads` raises; a ValueError."""


def loads(data: bytes | bytearray | memoryview | str) -> Any:
    """Read one JSON value. Raises `JSONError`."""
    return orjson.loads(data)


def dumps(value: Any) -> bytes:
    """Write a value as compact JSON."""
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)


def dumps_sorted(value: Any) -> str:
    """Write a value with its keys in order, so that equal values are equal texts."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def dumps_pretty(value: Any) -> str:
    """Write a value as indented JSON for people."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()
