"""`fastgw budgets`: ceilings on spend in a calendar period."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

import typer

from fastgw._ext import limits
from fastgw.cli import scopes
from fastgw.cli.options import Enabled, Limit
from fastgw.cli.records import listing, shown
from fastgw.cli.run import Run, verb
from fastgw.domain import NANO, nano_usd, now_ms, usd
from fastgw.server.snapshot import budget_rule
from fastgw.server.spend import read_spend
from fastgw.storage import Store
from fastgw.storage.sql import aliases, budgets
from fastgw.storage.sql.limits import RESET_AT

COLUMNS = (
    "id", "scope", "match", "limit_usd", "spent_usd", "period", "hard", "shared", "enabled",
)  # fmt: skip
MOST_USD = 2**62 // NANO

ID = Annotated[str, typer.Argument(metavar="ID")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(help="Ceilings on spend.", no_args_is_help=True)
    app.add_typer(group, name="budgets")
    verb(group, "set")(set_budget)
    verb(group, "list")(list_budgets)
    verb(group, "show")(show)
    verb(group, "reset")(reset)


async def set_budget(
    run: Run,
    whom: scopes.Whom,
    *,
    amount: Annotated[str, typer.Option("--usd", metavar="USD", help="The ceiling.")],
    period: Annotated[Literal["day", "week", "month", "total"], typer.Option()] = "month",
    soft: Annotated[bool, typer.Option("--soft", help="Keep count and refuse nobody.")] = False,
    enabled: Enabled = None,
) -> None:
    """Make a budget, or change the one with the same scope and period."""
    nano = _nano(amount)
    store = await run.store()
    found = await scopes.read(store, whom)
    if len(found) > 1:
        raise typer.BadParameter("a budget has one scope")
    ((scope, match),) = found
    made = await budgets.put(
        store, scope=scope, match=match, limit_nano=nano, period=period, hard=not soft,
        shared=whom.shared, enabled=enabled is not False,
    )  # fmt: skip
    run.one(await _row(store, made))


async def list_budgets(run: Run, *, limit: Limit = 0) -> None:
    """List budgets, newest first."""
    store = await run.store()
    found = await listing(store, budgets.BUDGETS, limit=limit, show=lambda b: {"budget": b})
    run.rows([await _row(store, row["budget"]) for row in found], COLUMNS)


async def show(run: Run, budget: ID) -> None:
    """Show one budget, and what each that it matches has spent."""
    store = await run.store()
    run.one(await _row(store, await budgets.get(store, budget), each=True))


async def reset(run: Run, budget: ID) -> None:
    """Let a budget begin anew: what was spent until now no longer counts."""
    store = await run.store()
    found = await budgets.get(store, budget)
    metadata = found.metadata | {RESET_AT: now_ms()}
    await budgets.update(store, found.id, {"metadata": metadata})
    run.done(f"{found.id} begins anew", {"id": found.id, "reset": True})


async def _row(store: Store, budget: budgets.Budget, *, each: bool = False) -> dict[str, Any]:
    """Show a budget with its spend as the store knows it.

    What requests under way hold is known to the server alone, so `reserved_usd` is null.
    """
    rule = budget_rule(budget)
    begins = limits.Budget(rule.limit, rule.period).starts_us(limits.now_us()) // 1000
    known = {alias.name: alias for alias in await aliases.load_all(store)}
    spent = {
        value: nano
        for value, nano in (await read_spend(store, rule, begins, known)).items()
        if rule.scope == "global" or rule.covers(value)
    }
    row = shown(budget) | {"spent_usd": usd(sum(spent.values())), "reserved_usd": None}
    if each:
        row["matches"] = [
            {"match": value, "spent_usd": usd(nano)}
            for value, nano in sorted(spent.items(), key=lambda item: -item[1])
        ]
    return row


def _nano(text: str) -> int:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount <= MOST_USD:
        raise typer.BadParameter(f"{text!a} is no amount of dollars; say 25 or 0.50")
    return nano_usd(amount)
