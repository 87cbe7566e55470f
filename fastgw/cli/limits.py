"""`fastgw limits`: ceilings on requests, tokens and concurrency."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from fastgw.cli import scopes
from fastgw.cli.options import Enabled, Limit
from fastgw.cli.records import listing, shown
from fastgw.cli.run import Run, verb
from fastgw.domain import now_ms
from fastgw.flow.rules import AND
from fastgw.server.snapshot import limit_rule
from fastgw.server.spend import read_used
from fastgw.storage import Store
from fastgw.storage.sql import limits
from fastgw.storage.sql.limits import RESET_AT

COLUMNS = (
    "id", "scope", "match", "metric", "limit", "window_s", "algorithm", "burst", "shared",
    "enabled",
)  # fmt: skip

ID = Annotated[str, typer.Argument(metavar="ID")]
Number = Annotated[int | None, typer.Option(min=0, max=2**62, metavar="N")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(help="Ceilings on requests, tokens and concurrency.", no_args_is_help=True)
    app.add_typer(group, name="limits")
    verb(group, "set")(set_limit)
    verb(group, "list")(list_limits)
    verb(group, "show")(show)
    verb(group, "reset")(reset)


async def set_limit(
    run: Run,
    whom: scopes.Whom,
    *,
    requests: Number = None,
    tokens: Number = None,
    concurrent: Number = None,
    window: Annotated[int, typer.Option(min=1, metavar="SECONDS")] = 60,
    algorithm: Annotated[
        Literal["sliding_window", "token_bucket"], typer.Option()
    ] = "sliding_window",
    burst: Annotated[int | None, typer.Option(min=1, metavar="N")] = None,
    enabled: Enabled = None,
) -> None:
    """Make a limit, or change the one with the same scopes, metric and window.

    Several scopes together mean requests that match all of them.
    """
    metrics = {"requests": requests, "tokens": tokens, "concurrent": concurrent}
    counted = [(metric, number) for metric, number in metrics.items() if number is not None]
    if len(counted) != 1:
        raise typer.BadParameter("say one of --requests, --tokens, --concurrent")
    if burst is not None and algorithm != "token_bucket":
        raise typer.BadParameter("--burst goes with --algorithm token_bucket")
    store = await run.store()
    (scope, match), *also = await scopes.read(store, whom)
    ((metric, number),) = counted
    wanted: dict[str, Any] = {
        "scope": scope,
        "match": AND.join([match, *map("=".join, also)]),
        "metric": metric,
        "limit": number,
        "window_s": window,
        "algorithm": algorithm,
        "burst": burst,
        "shared": whom.shared,
        "enabled": enabled is not False,
    }
    run.one(shown(await limits.put(store, **wanted)))


async def list_limits(run: Run, *, limit: Limit = 0) -> None:
    """List limits, newest first."""
    run.rows(await listing(await run.store(), limits.LIMITS, limit=limit), COLUMNS)


async def show(run: Run, limit: ID) -> None:
    """Show one limit, and what each that it matches has used of it."""
    store = await run.store()
    found = await limits.get(store, limit)
    run.one(shown(found) | {"matches": await _used(store, found)})


async def _used(store: Store, limit: limits.Limit) -> list[dict[str, Any]] | None:
    """Give what the records of the window say; requests under way are known to the server alone.

    Null for what records do not tell: requests at the same time, and several scopes together.
    """
    rule = limit_rule(limit)
    if rule.metric == "concurrent" or rule.also:
        return None
    since = max(now_ms() - int(rule.window_s * 1000), rule.reset_at)
    used = await read_used(store, rule, since)
    if rule.shared:
        used = {"": sum(used.values())}
    return [
        {"match": value, "used": number, "remaining": max(rule.limit - number, 0)}
        for value, number in sorted(used.items(), key=lambda item: -item[1])
    ]


async def reset(
    run: Run,
    limit: ID,
    *,
    counters: Annotated[
        bool, typer.Option("--counters", help="Keep it; only let its counters begin anew.")
    ] = False,
) -> None:
    """Take a limit away."""
    store = await run.store()
    found = await limits.get(store, limit)
    if counters:
        metadata = found.metadata | {RESET_AT: now_ms()}
        await limits.update(store, found.id, {"metadata": metadata})
        run.done(f"counters of {found.id} begin anew", {"id": found.id, "reset": True})
    else:
        await limits.hide(store, found.id)
        run.done(f"took {found.id} away", {"id": found.id, "deleted": True})
