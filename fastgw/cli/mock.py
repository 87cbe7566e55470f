"""`fastgw mock`: the mock provider alone."""

from __future__ import annotations

from typing import Annotated

import typer

from fastgw.cli import values
from fastgw.cli.run import Failed
from fastgw.mock import Options, serve


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("mock")(mock)


def mock(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.")] = 8090,
    latency_ms: Annotated[float, typer.Option(help="Wait before an answer begins.")] = 0,
    chunks: Annotated[int, typer.Option(help="Length of an answer.")] = 20,
    chunk_delay_ms: Annotated[float, typer.Option(help="Wait between chunks.")] = 0,
    error_rate: Annotated[float, typer.Option(help="Share of requests that fail.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
    log: Annotated[
        str | None, typer.Option(metavar="FILE", help="What it was asked and answered.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="Models it serves; none: any.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Credential that requests must carry; not a secret here.")
    ] = None,
) -> None:
    """Run the mock provider until it is interrupted."""
    try:
        serve(
            Options(
                host=host,
                port=port,
                latency_ms=latency_ms,
                chunks=chunks,
                chunk_delay_ms=chunk_delay_ms,
                error_rate=error_rate,
                seed=seed,
                log=log,
                models=tuple(values.several(models)),
                api_key=api_key,
            )
        )
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    except OSError as exc:
        raise Failed(f"cannot serve on {host}:{port}: {exc.strerror or exc}") from exc
