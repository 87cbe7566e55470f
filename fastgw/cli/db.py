"""`fastgw db`: the database's schema, and data to begin with."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fastgw import catalog
from fastgw.cli.output import note
from fastgw.cli.run import Run, verb
from fastgw.storage import HEAD, seed
from fastgw.storage.migrate import current, downgrade, upgrade


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(
        help="Bring the database's schema up or down, or fill it.", no_args_is_help=True
    )
    app.add_typer(group, name="db")
    verb(group, "upgrade")(upgrade_schema)
    verb(group, "downgrade")(downgrade_schema)
    verb(group, "current")(show_current)
    verb(group, "seed")(seed_data)


async def upgrade_schema(
    run: Run, revision: Annotated[str, typer.Argument(help="Where to.")] = "head"
) -> None:
    """Bring the schema up."""
    before = await current(run.database_url())
    await upgrade(run.database_url(), revision)
    await _report(run, before)


async def downgrade_schema(
    run: Run,
    revision: Annotated[str, typer.Argument(help="Where to: `base`, or -1 for one step.")],
) -> None:
    """Bring the schema down. What the newer schema holds is lost."""
    before = await current(run.database_url())
    await downgrade(run.database_url(), revision)
    await _report(run, before)


async def show_current(run: Run) -> None:
    """Show which revision the schema has, and which this version works with."""
    found = await current(run.database_url())
    run.one({"revision": found, "head": HEAD, "up_to_date": found == HEAD})


async def seed_data(
    run: Run,
    *,
    demo_data: Annotated[
        bool, typer.Option("--demo-data", help="Also a small organisation with keys.")
    ] = False,
) -> None:
    """Fill in the catalogue's models. Doing it twice changes nothing."""
    store = await run.store()
    seeded = await seed.catalogue(store, catalog.load().models.values())
    row: dict[str, Any] = {
        "models_added": seeded.added,
        "models_changed": seeded.changed,
        "models_unchanged": seeded.unchanged,
    }
    if demo_data:
        made = await seed.demo(store)
        row |= {"org_id": made.org_id, "team_id": made.team_id, "user_id": made.user_id}
        row["keys"] = {name: secret.reveal() for name, secret in made.keys.items()}
        if made.keys and run.form == "table":
            note("keep the keys now: they are shown this once")
    run.one(row)


async def _report(run: Run, before: str | None) -> None:
    after = await current(run.database_url())
    text = f"schema at {after or 'nothing'}" + ("" if before != after else ", as before")
    run.done(text, {"before": before, "revision": after})
