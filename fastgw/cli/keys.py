"""`fastgw keys`: what we issue to clients. A key's text is printed once, when it is made."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fastgw.cli import values
from fastgw.cli.options import Enabled, Limit, Name, Search, Tags
from fastgw.cli.output import iso, note
from fastgw.cli.records import listing, shown
from fastgw.cli.run import Run, verb
from fastgw.domain import Secret
from fastgw.storage import Store
from fastgw.storage.sql import keys, orgs, teams, users

NEVER = "never"
COLUMNS = ("id", "name", "hint", "enabled", "expires_at", "allowed_models", "tags", "created_at")

Owner = Annotated[str | None, typer.Option(metavar="ID|NAME")]
Models = Annotated[
    list[str] | None,
    typer.Option(metavar="A,B*", help="Models it may use, `*` is a wildcard; none: all."),
]
Addresses = Annotated[
    list[str] | None,
    typer.Option("--allowed-ips", metavar="CIDR", help="Networks it may be used from; none: all."),
]
ClientTags = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Tags that its caller may set.")
]
Priority = Annotated[int | None, typer.Option(min=0, max=9)]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(help="Keys that fastgw issues to clients.", no_args_is_help=True)
    app.add_typer(group, name="keys")
    verb(group, "create")(create)
    verb(group, "list")(list_keys)
    verb(group, "show")(show)
    verb(group, "update")(update)
    verb(group, "revoke")(revoke)
    verb(group, "regenerate")(regenerate)


async def create(
    run: Run,
    *,
    name: Annotated[str, typer.Option(help="What it is for.")],
    user: Owner = None,
    team: Owner = None,
    org: Owner = None,
    models: Models = None,
    tags: Tags = None,
    client_tags: ClientTags = None,
    addresses: Addresses = None,
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME|30d", help="When it ends; UTC.")
    ] = None,
    priority: Priority = None,
) -> None:
    """Make a key and print it, this once."""
    wanted = _given(name, models, tags, client_tags, addresses, expires_at, priority)
    store = await run.store()
    wanted.update(await _owners(store, user, team, org))
    key, secret = await keys.create(store, **wanted)
    _hand_over(run, key, secret)


async def list_keys(run: Run, *, search: Search = "", limit: Limit = 0) -> None:
    """List keys, newest first."""
    rows = await listing(await run.store(), keys.KEYS, search=search, limit=limit)
    run.rows(rows, COLUMNS)


async def show(run: Run, key: Name) -> None:
    """Show one key."""
    store = await run.store()
    found = await keys.find(store, key)
    last_used = await keys.last_used(store, found.id)
    run.one(shown(found) | {"last_used_at": iso(last_used)})


async def update(
    run: Run,
    key: Name,
    *,
    name: Annotated[str | None, typer.Option()] = None,
    enabled: Enabled = None,
    user: Owner = None,
    team: Owner = None,
    org: Owner = None,
    models: Models = None,
    tags: Tags = None,
    client_tags: ClientTags = None,
    addresses: Addresses = None,
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME|30d|never", help="When it ends; UTC.")
    ] = None,
    priority: Priority = None,
) -> None:
    """Change a key. What is given replaces what was there; '' empties a list."""
    changes = _given(name, models, tags, client_tags, addresses, expires_at, priority)
    if enabled is not None:
        changes["enabled"] = enabled
    store = await run.store()
    changes.update(await _owners(store, user, team, org))
    if not changes:
        raise typer.BadParameter("say what to change")
    found = await keys.find(store, key)
    run.one(shown(await keys.update(store, found.id, changes)))


async def revoke(run: Run, key: Name) -> None:
    """End a key for good; its records stay."""
    store = await run.store()
    found = await keys.find(store, key)
    await keys.revoke(store, found.id)
    run.done(f"revoked {found.id} ({found.name})", {"id": found.id, "revoked": True})


async def regenerate(run: Run, key: Name) -> None:
    """Give a key a new text and print it, this once; the old one stops working."""
    store = await run.store()
    found = await keys.find(store, key)
    renewed, secret = await keys.regenerate(store, found.id)
    _hand_over(run, renewed, secret)


def _hand_over(run: Run, key: keys.Key, secret: Secret) -> None:
    run.one({"key": secret.reveal()} | shown(key))
    if run.form == "table":
        note("keep the key now: it is shown this once")


def _given(
    name: str | None,
    models: list[str] | None,
    tags: list[str] | None,
    client_tags: list[str] | None,
    addresses: list[str] | None,
    expires_at: str | None,
    priority: int | None,
) -> dict[str, Any]:
    """Read the options that were given."""
    result: dict[str, Any] = {}
    if name is not None:
        result["name"] = values.word(name)
    if models is not None:
        result["allowed_models"] = tuple(values.patterns(models))
    if tags is not None:
        result["tags"] = values.tags(tags)
    if client_tags is not None:
        result["client_tags"] = tuple(
            values.word(tag, "a tag's name") for tag in values.several(client_tags)
        )
    if addresses is not None:
        result["allowed_ips"] = tuple(values.networks(addresses))
    if expires_at is not None:
        result["expires_at"] = None if expires_at == NEVER else values.expiry_ms(expires_at)
    if priority is not None:
        result["priority"] = priority
    return result


async def _owners(
    store: Store, user: str | None, team: str | None, org: str | None
) -> dict[str, str]:
    """Find the owners that were named by id or name."""
    nouns = (
        ("user_id", users.USERS, user),
        ("team_id", teams.TEAMS, team),
        ("org_id", orgs.ORGS, org),
    )
    return {
        field: (await noun.find(store, given)).id
        for field, noun, given in nouns
        if given is not None
    }
