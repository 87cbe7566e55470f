"""Where a database is, read from its URL."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fastgw.errors import InvalidRequest


class Address(msgspec.Struct, frozen=True):
    """A database: a SQLite file, or a PostgreSQL URL as it was written."""

    url: str
    path: Path | None


def parse(url: str) -> Address:
    """Read `sqlite:///relative`, `sqlite:////absolute`, `postgresql://...` or `postgres://...`."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme in {"postgresql", "postgres"}:
        return Address(url, None)
    if separator and scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        if rest == "/:memory:":
            raise InvalidRequest("a database in memory cannot be shared; name a file")
        return Address(url, Path(rest[1:]))
    # The URL may hold a password, so it is not shown.
    raise InvalidRequest("database.url must begin with sqlite:/// or postgresql://")
