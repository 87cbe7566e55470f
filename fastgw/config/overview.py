"""Show the effective configuration: each value, secrets masked, and where it came from."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from pydantic_core import to_json

from fastgw.config.loader import Loaded
from fastgw.config.shape import leaves
from fastgw.config.tree import dotted
from fastgw.domain import Secret

_URL = re.compile(r"([a-z+]+://)(?:([^/@]*)@)?([^?#]*)(.*)", re.DOTALL)


class Row(NamedTuple):
    """One value: its path, its text as YAML would have it, its origin."""

    key: str
    value: str
    origin: str


def show(loaded: Loaded) -> list[Row]:
    """Give every value in the schema's order."""
    return [
        Row(dotted(path), text_of(value), loaded.origins[dotted(path)])
        for path, value in leaves(loaded.settings)
    ]


def text_of(value: Any) -> str:
    """Write one value; a secret only so far that it can be recognised."""
    if isinstance(value, Secret):
        return masked(value)
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    if value is None or isinstance(value, bool | tuple | dict):
        return to_json(value).decode()
    return str(value)


def masked(secret: Secret) -> str:
    """Mask a secret. Of a URL, scheme, user, host and path are told, which are no secrets."""
    match = _URL.fullmatch(secret.reveal())
    if match is None:
        return secret.masked()
    scheme, userinfo, rest, more = match.groups()
    user, colon, _ = (userinfo or "").partition(":")
    shown = f"{user}:…@" if colon else f"{user}@" if user else ""
    if userinfo is not None and "@" in rest:  # an @ inside the password: tell nothing
        return f"{scheme}…"
    return f"{scheme}{shown}{rest}{more[:1]}{'…' if more else ''}"
