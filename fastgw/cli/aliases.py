"""`fastgw aliases`: other names for models."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fastgw.cli import values
from fastgw.cli.options import Limit, Name, Search, Tags
from fastgw.cli.records import listing, shown
from fastgw.cli.run import Run, verb
from fastgw.storage.sql import aliases, keys

COLUMNS = ("name", "model", "tags", "billing_key_id", "enabled", "created_at")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(help="Other names for models.", no_args_is_help=True)
    app.add_typer(group, name="aliases")
    verb(group, "set")(set_alias)
    verb(group, "list")(list_aliases)
    verb(group, "show")(show)
    verb(group, "delete")(delete)


async def set_alias(
    run: Run,
    alias: Annotated[str, typer.Argument(help="The name that clients send.")],
    model: Annotated[str, typer.Argument(help="The model it stands for.")],
    *,
    tags: Tags = None,
    billing_key: Annotated[
        str | None, typer.Option(metavar="ID|NAME", help="Key that its spend is booked to.")
    ] = None,
) -> None:
    """Make an alias, or change the one of that name."""
    wanted: dict[str, Any] = {"name": values.word(alias), "model": values.word(model)}
    if wanted["name"] == wanted["model"]:
        raise typer.BadParameter("an alias cannot stand for itself")
    if tags is not None:
        wanted["tags"] = values.tags(tags)
    store = await run.store()
    if billing_key is not None:
        wanted["billing_key_id"] = (await keys.find(store, billing_key)).id
    run.one(shown(await aliases.put(store, **wanted)))


async def list_aliases(run: Run, *, search: Search = "", limit: Limit = 0) -> None:
    """List aliases, newest first."""
    rows = await listing(await run.store(), aliases.ALIASES, search=search, limit=limit)
    run.rows(rows, COLUMNS)


async def show(run: Run, alias: Name) -> None:
    """Show one alias."""
    run.one(shown(await aliases.find(await run.store(), alias)))


async def delete(run: Run, alias: Name) -> None:
    """Delete an alias."""
    store = await run.store()
    found = await aliases.find(store, alias)
    await aliases.hide(store, found.id)
    run.done(f"deleted {found.name}", {"id": found.id, "deleted": True})
