"""Teams: owners of keys inside an organisation."""

from __future__ import annotations

from typing import Any

from fastgw.storage.sql.noun import Noun, Stored


class Team(Stored, kw_only=True):
    """A team. Its priority, 0 to 9, serves for keys that have none."""

    name: str
    org_id: str | None = None
    enabled: bool = True
    priority: int | None = None
    expires_at: int | None = None
    tags: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


TEAMS = Noun("teams", Team, "team")

create, get, find, update = TEAMS.create, TEAMS.get, TEAMS.find, TEAMS.update
list = TEAMS.page  # noqa: A001 - read as `teams.list(...)`
hide, purge = TEAMS.hide, TEAMS.purge
