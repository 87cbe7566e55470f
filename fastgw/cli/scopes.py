"""Options that say whom a limit or a budget is about."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fastgw.cli import values
from fastgw.cli.run import Group
from fastgw.errors import NotFound
from fastgw.storage import Store
from fastgw.storage.sql import keys, orgs, teams, users
from fastgw.storage.sql.noun import Noun

WILDCARD = "*"
NOUNS: dict[str, Noun[Any]] = {
    "key": keys.KEYS,
    "user": users.USERS,
    "team": teams.TEAMS,
    "org": orgs.ORGS,
}

Owner = Annotated[str | None, typer.Option(metavar="ID|NAME|*")]


class Whom(Group, frozen=True, kw_only=True):
    """The options: several together mean what all of them match."""

    key: Owner = None
    user: Owner = None
    team: Owner = None
    org: Owner = None
    model: Annotated[str | None, typer.Option(metavar="NAME|*", help="A public model name.")] = None
    provider: Annotated[str | None, typer.Option(metavar="NAME|*")] = None
    tag: Annotated[str | None, typer.Option(metavar="K=V|K=*")] = None
    everybody: Annotated[bool, typer.Option("--global", help="All requests together.")] = False
    shared: Annotated[
        bool, typer.Option("--shared", help="One counter for all that match, not one for each.")
    ] = False


SCOPES = tuple(name for name in Whom.__struct_fields__ if name not in {"everybody", "shared"})


async def read(store: Store, whom: Whom) -> list[tuple[str, str]]:
    """Give (scope, match) of each option that was given; at least one."""
    given = {scope: getattr(whom, scope) for scope in SCOPES}
    found = [
        (scope, await _match(store, scope, text))
        for scope, text in given.items()
        if text is not None
    ]
    if whom.everybody and found:
        raise typer.BadParameter("--global is about all requests; it goes with no other scope")
    if whom.everybody:
        return [("global", WILDCARD)]
    if not found:
        options = ", ".join(f"--{scope}" for scope in SCOPES)
        raise typer.BadParameter(f"say whom it is about: {options} or --global")
    return found


async def _match(store: Store, scope: str, text: str) -> str:
    text = values.word(text, f"a {scope}")
    if scope == "tag":
        name, equals, value = text.partition("=")
        if text != WILDCARD and not (equals and name and value):
            raise typer.BadParameter(f"{text!a} is no tag; say name=value or name=*")
        return text
    if scope not in NOUNS or WILDCARD in text:
        return text
    try:
        return str((await NOUNS[scope].find(store, text)).id)
    except NotFound as exc:
        raise typer.BadParameter(exc.message) from exc
