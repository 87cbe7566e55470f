"""`fastgw config show`: what is in effect, and where each value came from."""

from __future__ import annotations

import typer

from fastgw.cli.run import Run, verb
from fastgw.config import show


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(help="Show the effective configuration.", no_args_is_help=True)
    app.add_typer(group, name="config")
    verb(group, "show")(show_config)


async def show_config(run: Run) -> None:
    """Show every setting, secrets masked, with where its value came from."""
    rows = [row._asdict() for row in show(run.loaded())]
    run.rows(rows, ("key", "value", "origin"))
