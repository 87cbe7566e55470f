"""Organisations: the widest owner of keys."""

from __future__ import annotations

from typing import Any

from fastgw.storage.sql.noun import Noun, Stored


class Org(Stored, kw_only=True):
    """An organisation; disabled, expired or deleted it disables every key below it."""

    name: str
    enabled: bool = True
    expires_at: int | None = None
    tags: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


ORGS = Noun("orgs", Org, "org")

create, get, find, update = ORGS.create, ORGS.get, ORGS.find, ORGS.update
list = ORGS.page  # noqa: A001 - read as `orgs.list(...)`
hide, purge = ORGS.hide, ORGS.purge
