"""`fastgw profile`: where the workers of a running server spend their CPU time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from fastgw.cli.files import private_file
from fastgw.cli.output import progress, write
from fastgw.cli.run import Failed, Run, verb
from fastgw.server import control
from fastgw.server.secrets import data_folder


def register(app: typer.Typer) -> None:
    """Add the verb."""
    verb(app, "profile")(profile)


async def profile(
    run: Run,
    *,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=control.LONGEST_S, help="How long to sample.")
    ] = 10,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Sample the stacks of each worker of the server that runs on this machine.

    Prints one line a stack, `worker-0;thread;outer;inner MICROSECONDS` of CPU time: the collapsed
    format that flame graphs are drawn from.
    """
    folder = data_folder(run.loaded().settings)
    doors = control.doors(folder)
    if not doors:
        raise Failed(f"no server with the data folder {folder} runs on this machine")
    progress(f"sampling {len(doors)} workers for {seconds:g} s ...")
    profiles = await asyncio.gather(*(_profile(door, seconds) for door in doors))
    progress("")
    lines = "".join(line for lines in profiles for line in lines)
    if out is None:
        write(lines)
    else:
        with private_file(out, force=force) as file:
            file.write(lines)
        run.done(f"wrote {out}", {"file": str(out)})


async def _profile(door: control.Door, seconds: float) -> list[str]:
    try:
        said = await control.ask(door, {"profile": seconds}, seconds)
    except (OSError, TimeoutError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc) or "does not answer"
        raise Failed(f"worker {door.worker}: {reason}") from exc
    if "error" in said:
        raise Failed(f"worker {door.worker}: {said['error']}")
    stacks = sorted(said["stacks"].items())
    return [f"worker-{door.worker};{stack} {spent}\n" for stack, spent in stacks]
