"""`fastgw serve`: the gateway."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fastgw.cli.run import Failed, Shared
from fastgw.config import ConfigError, Loaded, load
from fastgw.providers import discovery, registry
from fastgw.server.demo import mock_provider, overrides
from fastgw.server.run import serve as run_server


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("serve")(serve)


def serve(
    ctx: typer.Context,
    *,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="Configuration file.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port.")] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="A throw-away gateway with a built-in mock provider.")
    ] = False,
) -> None:
    """Serve; --demo needs no configuration and no network.

    Stops at SIGTERM or Ctrl-C.
    """
    given = {"server.host": host, "server.port": port, "server.workers": workers}
    before = ctx.find_object(Shared) or Shared()
    status = _demo(given) if demo else _serve(_load(config or before.config, given))
    if status:
        raise typer.Exit(status)


def _serve(loaded: Loaded, *, demo: bool = False) -> int:
    try:
        return run_server(loaded, _say, demo=demo)
    except ConfigError as exc:
        raise Failed(str(exc)) from exc


def _demo(given: Mapping[str, Any]) -> int:
    # Until the supervisor takes over: the mock provider must not outlive us.
    signal.signal(signal.SIGTERM, _leave)
    with tempfile.TemporaryDirectory(prefix="fastgw-demo-") as folder, mock_provider() as base_url:
        settings = {**overrides(folder, base_url), **given}
        # No file and no variables: the demo is the same wherever it is tried.
        return _serve(_load(None, settings, environ={}, cwd=Path(folder)), demo=True)


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _load(path: str | None, given: Mapping[str, Any], **where: Any) -> Loaded:
    try:
        return load(given, path, discovery=discovery(), provider_types=frozenset(registry), **where)
    except ConfigError as exc:
        raise Failed(str(exc)) from exc


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
