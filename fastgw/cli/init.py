"""`fastgw init`: write a commented configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastgw.cli.files import private_file
from fastgw.cli.run import Run, verb
from fastgw.config import init_text


def register(app: typer.Typer) -> None:
    """Add the verb."""
    verb(app, "init")(init)


async def init(
    run: Run,
    path: Annotated[Path, typer.Argument(metavar="FILE")] = Path("fastgw.yaml"),
    *,
    force: Annotated[bool, typer.Option(help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a commented fastgw.yaml."""
    with private_file(path, force=force) as file:
        file.write(init_text())
    run.done(f"wrote {path}; `fastgw check` tests it", {"path": str(path)})
