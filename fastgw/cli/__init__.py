"""The command line. One file per verb, loaded only when its verb is given.

Exit codes: 0 done, 1 failed with the reason on stderr, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from fastgw import __version__
from fastgw.cli.output import note
from fastgw.cli.run import Failed, Shared
from fastgw.errors import GatewayError

VERBS = {
    "serve": "Serve; --demo needs no configuration and no network.",
    "init": "Write a commented fastgw.yaml.",
    "check": "Check the configuration, then reach database, Redis and each provider.",
    "config": "Show the effective configuration.",
    "db": "Bring the database's schema up or down, or fill it.",
    "keys": "Keys that fastgw issues to clients.",
    "providers": "Accounts with providers.",
    "models": "Models, their prices, and the catalogue.",
    "aliases": "Other names for models.",
    "limits": "Ceilings on requests, tokens and concurrency.",
    "budgets": "Ceilings on spend.",
    "usage": "What was used and what it cost.",
    "count-tokens": "Count the tokens of a text or a request.",
    "admins": "Accounts of the admin API.",
    "profile": "Sample where the workers of a running server spend their CPU time.",
    "mock": "Run the mock provider.",
}
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What all wrong use is; its own address differs between versions of typer."""
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = build(args)(args, prog_name="fastgw", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as exc:
        return _wrong_use(exc)
    except (typer.Abort, KeyboardInterrupt):
        note("fastgw: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Who reads our output has left; the interpreter must not complain about that at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as exc:  # the outermost edge: a traceback only for who asked for it
        if "--debug" in args:
            raise
        for line in _reason(exc).splitlines():
            note(f"fastgw: {line}")
        return 1
    return code if isinstance(code, int) else 0


def _reason(exc: Exception) -> str:
    """Say what failed, told from a defect of ours."""
    if isinstance(exc, (Failed, GatewayError)):
        return str(exc) or type(exc).__name__
    if isinstance(exc, OSError):
        where = f"{exc.filename}: " if exc.filename else ""
        return where + (exc.strerror or str(exc))
    return f"a defect: {type(exc).__name__}: {exc} (fastgw --debug shows where)"


def build(args: Sequence[str]) -> typer.Typer:
    """Make the application with the verbs that `args` name; the others are listed by their help."""
    app = typer.Typer(
        help="An LLM gateway.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for verb, text in VERBS.items():
        if verb in args:
            importlib.import_module(f"fastgw.cli.{verb.replace('-', '_')}").register(app)
        else:
            app.command(verb, help=text)(_not_loaded)
    return app


def _not_loaded() -> None:
    raise AssertionError("a verb is loaded when the arguments name it")


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"fastgw {__version__}\n")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    *,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="Configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback of a defect.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    del debug, version  # read from the arguments; done by its callback
    ctx.obj = Shared(config=config, as_json=as_json, as_csv=as_csv)


def _wrong_use(exc: Exception) -> int:
    message = exc.format_message() if hasattr(exc, "format_message") else str(exc)
    context = getattr(exc, "ctx", None)
    command = context.command_path if context is not None else "fastgw"
    if "\n" in message:  # a group without a verb: its help
        sys.stderr.write(message + "\n")
    else:
        note(f"{command}: {message} (see {command} --help)")
    return 2
