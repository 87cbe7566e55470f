"""Users: the people and machines that own keys."""

from __future__ import annotations

from typing import Any

from fastgw.storage.sql.noun import Noun, Stored


class User(Stored, kw_only=True):
    """A user. `external_id` is the subject an identity provider knows it by."""

    name: str
    email: str | None = None
    external_id: str | None = None
    team_id: str | None = None
    org_id: str | None = None
    enabled: bool = True
    expires_at: int | None = None
    tags: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


USERS = Noun("users", User, "user")

create, get, find, update = USERS.create, USERS.get, USERS.find, USERS.update
list = USERS.page  # noqa: A001 - read as `users.list(...)`
hide, purge = USERS.hide, USERS.purge
