"""Secrets that a person hands to a command: by variable, standard input, prompt or argument."""

from __future__ import annotations

import os
import signal
import sys

import typer

from fastgw.cli.output import note
from fastgw.cli.run import Failed
from fastgw.domain import Secret

LONGEST = 65536


def read_secret(
    what: str, *, argument: str | None, variable: str | None, from_stdin: bool
) -> Secret | None:
    """Take a secret in the way that was named; asked for at a terminal when none was.

    None when there is none: no way was named and nobody is there to ask, or nothing was typed.
    """
    named = (argument is not None) + (variable is not None) + from_stdin
    if named > 1:
        raise typer.BadParameter(f"give the {what} in one way only")
    if argument is not None:
        note(
            f"warning: a {what} given as an argument is seen in the process list and kept in the "
            "shell's history; better name a variable or use standard input"
        )
        text = argument
    elif variable is not None:
        # Named on the command line: no setting that fastgw.config could know.
        given = os.environ.get(variable)  # noqa: TID251
        if given is None:
            raise Failed(f"the environment has no variable {variable}")
        text = given
    elif from_stdin:
        text = sys.stdin.read(LONGEST)
    elif sys.stdin.isatty():
        text = _ask(what)
    else:
        return None
    text = text.strip()
    if not text and named:
        raise Failed(f"the {what} is empty")
    return Secret(text) if text else None


def _ask(what: str) -> str:
    """Ask for it without showing it; Ctrl-C ends the command."""
    # asyncio turns the first Ctrl-C into a cancellation, which a blocking read does not notice.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        text: str = typer.prompt(what, hide_input=True, default="", show_default=False, err=True)
    finally:
        signal.signal(signal.SIGINT, before)
    return text
