"""Options that several verbs have, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

Limit = Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")]
Search = Annotated[str, typer.Option(metavar="TEXT", help="Only names that contain this.")]
Tags = Annotated[
    list[str] | None, typer.Option(metavar="K=V", help="Tags; repeat, or separate by commas.")
]
Name = Annotated[str, typer.Argument(metavar="ID|NAME")]
Enabled = Annotated[bool | None, typer.Option("--enable/--disable", help="Switch it on or off.")]
