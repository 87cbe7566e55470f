"""`fastgw count-tokens`: how many tokens a text or a request has, counted on this machine."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from fastgw.catalog import families, tokens
from fastgw.cli.run import Run, verb
from fastgw.wire import json


def register(app: typer.Typer) -> None:
    """Add the verb."""
    verb(app, "count-tokens")(count_tokens)


async def count_tokens(
    run: Run,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Text or a request; else stdin.")
    ] = None,
    *,
    model: Annotated[str, typer.Option(metavar="NAME", help="As its provider calls it.")],
    text: Annotated[bool, typer.Option("--text", help="Take even a JSON object for text.")] = False,
) -> None:
    """Count the tokens of a text, or of the prompt of a request body in JSON.

    A JSON object is a request of any client API. Exact for the text of OpenAI's models; for others
    it is an estimate, which docs/tokens.md puts in figures.
    """
    given = await asyncio.to_thread(_read, file)
    family = families.find(model)
    is_request = not text and _is_object(given)
    if is_request:
        count = tokens.prompt(given, model)
    else:
        count = tokens.text(given.decode("utf-8", "replace"), model)
    row = {
        "tokens": count,
        "model": model,
        "of": "request" if is_request else "text",
        "family": family.name,
        "encoding": family.encoding,
    }
    run.one(row)


def _read(file: Path | None) -> bytes:
    if file is not None:
        return file.read_bytes()
    bytes_in = getattr(sys.stdin, "buffer", None)  # whatever stands in for it may be text alone
    return bytes_in.read() if bytes_in is not None else sys.stdin.read().encode()


def _is_object(given: bytes) -> bool:
    try:
        return isinstance(json.loads(given), dict)
    except ValueError:
        return False
