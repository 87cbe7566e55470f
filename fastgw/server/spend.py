"""Tells budgets what was spent before, and by others: the store's roll-ups know.

A budget is read when somebody meets it for the first time, and from then on again every few
seconds, since other workers and machines spend from it too. What this worker knows is never
lowered: its own records may still be on their way to the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

import structlog

from fastgw._ext import limits
from fastgw.domain import Alias
from fastgw.errors import StoreUnavailable
from fastgw.flow.directory import Directory
from fastgw.flow.limits import Limiter
from fastgw.flow.rules import Rule
from fastgw.server.keeper import Keeper
from fastgw.storage import Store
from fastgw.storage.sql import spend

Budget = limits.Budget | limits.Shared

log = structlog.get_logger(__name__)

_TURN_S = 1.0
_TURNS = 5
"""Budgets are read again every so many turns."""


class Spend:
    """Keeps the budgets of one limiter true to the store."""

    def __init__(
        self,
        store: Store,
        limiter: Limiter,
        directory: Callable[[], Directory],
        keeper: Keeper | None = None,
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._limiter = limiter
        self._directory = directory
        self._loading = asyncio.Lock()
        """Many requests meet a new budget at once; one of them reads it."""

    async def load(self, budgets: Iterable[Budget]) -> None:
        """Read what was spent of budgets that are met for the first time."""
        async with self._loading:
            for budget in budgets:
                if not budget.loaded:
                    await self._read(budget.rule, [budget], budget.value or None)

    async def refresh(self) -> None:
        """Read all budgets again, a rule at a time."""
        by_rule: dict[str, list[Budget]] = {}
        for budget in self._limiter.budgets():
            if budget.loaded:
                by_rule.setdefault(budget.rule.id, []).append(budget)
        for budgets in by_rule.values():
            value = budgets[0].value if len(budgets) == 1 else None
            await self._read(budgets[0].rule, budgets, value or None)

    async def run(self) -> None:
        """Do what has to be done now and then, until cancelled."""
        turn = 0
        while True:
            await asyncio.sleep(_TURN_S)
            turn += 1
            self._limiter.sweep(limits.now_us())
            if turn % _TURNS:
                continue
            try:
                await self.refresh()
            except StoreUnavailable as exc:
                log.info("budgets_not_refreshed", reason=exc.message)
            except Exception:
                log.exception("budgets_not_refreshed")  # the next turn tries again

    async def _read(self, rule: Rule, budgets: list[Budget], value: str | None) -> None:
        begins = self._begins_ms(budgets[0])
        spent = await read_spend(self._store, rule, begins, self._directory().aliases, value)
        for budget in budgets:
            total = spent.get(budget.value, 0)
            if rule.shared:
                total = sum(nano for of, nano in spent.items() if rule.covers(of))
            if isinstance(budget, limits.Shared):
                assert self._keeper is not None
                self._keeper.spent(budget, begins * 1000, total)
                continue
            if self._begins_ms(budget) != begins:
                budget.loaded = True  # it turned over meanwhile: nothing is spent yet
                continue
            budget.spent = max(budget.spent, total)
            budget.loaded = True

    def _begins_ms(self, budget: Budget) -> int:
        """Give when its period began: by the clock of who keeps it."""
        if isinstance(budget, limits.Shared):
            assert self._keeper is not None
            clock = limits.Budget(0, budget.period)
            return clock.starts_us(limits.now_us() + self._keeper.skew_us) // 1000
        return budget.starts_us(limits.now_us()) // 1000


async def read_spend(
    store: Store,
    rule: Rule,
    begins_ms: int,
    aliases: Mapping[str, Alias],
    value: str | None = None,
) -> Mapping[str, int]:
    """Give nano-dollars spent in the budget's period by each value of its scope, or by one."""
    if rule.reset_at > begins_ms:
        source, since = "record", rule.reset_at
    else:
        source, since = "day" if rule.period in {"day", "week"} else "month", begins_ms
    if rule.scope != "model":
        return await spend.since(store, rule.scope, since, source, value)
    totals: dict[str, int] = {}  # records have the name that was asked for: it may be an alias
    for name, nano in (await spend.since(store, "model", since, source)).items():
        model = aliases[name].model if name in aliases else name
        totals[model] = totals.get(model, 0) + nano
    return totals


async def read_used(store: Store, rule: Rule, since_ms: int) -> dict[str, int]:
    """Give what records say each value that a limit matches has used since a moment."""
    found = await spend.used_since(store, rule.scope, since_ms, rule.metric)
    return {
        value: used for value, used in found.items() if rule.scope == "global" or rule.covers(value)
    }
