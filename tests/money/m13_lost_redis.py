"""M-13: Redis is killed again and again, and once comes back empty: nobody spends over a budget.

`deny` answers 503 meanwhile; `local` lets through what was put aside, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from fastgw.storage import Store
from fastgw.storage.sql import budgets
from tests.adversity.bed import Caller
from tests.adversity.verdict import Verdict, main
from tests.money.together import WORKERS, Log, Together, load, together
from tests.waiting import eventually

NANO = 1_000


@dataclass(frozen=True)
class Form:
    """How often it is killed, for how long it is away, requests allowed, clients."""

    kills: int
    away_s: float
    limit: int
    clients: int


LONG = Form(kills=20, away_s=2.0, limit=2_000, clients=32)
SHORT = Form(kills=2, away_s=0.3, limit=60, clients=8)


async def run(form: Form) -> Verdict:
    """Once with `deny` and a budget, once with `local` and a limit."""
    verdict = Verdict("M-13 lost Redis")
    async with together(on_failure="deny") as all_:
        await spend(all_, form, verdict)
    rule = {"scope": "global", "metric": "requests", "limit": form.limit, "window_s": 3600}
    async with together(rule, on_failure="local") as all_:
        await let_through(all_, form, verdict)
    return verdict


async def spend(all_: Together, form: Form, verdict: Verdict) -> None:
    """Spend a budget whose counter is lost again and again, the last time all of it."""
    gateway = all_.bed.gateway
    price = {"input_pico": 10**6, "output_pico": 10**6}
    await asyncio.to_thread(gateway.set_price, "p", "mock?chunks=1", **price)
    limit_nano = form.limit * 5 * NANO

    async def make(store: Store) -> None:
        await budgets.create(store, scope="global", limit_nano=limit_nano, period="total")

    await asyncio.to_thread(gateway.in_store, make)
    await in_force(all_)
    log = Log()
    request = all_.bed.request("p/mock?chunks=1", max_tokens=10)
    await until_refused_or(all_, request, log, form, empty_last=True)
    await finish(all_, request, log, "insufficient_quota")
    records = await all_.bed.records(len(log.entries))
    spent = sum(record.cost_nano for record in records)
    # streams are of the time before the budget was in force
    told = sum(record.cost_nano for record in records if not record.stream)
    lines = [line for line in all_.mock.log() if not line["stream"]]
    truth = sum(sum(line["billed"].values()) for line in lines) * NANO
    verdict.require(told == truth, f"{told} recorded, {truth} true")
    verdict.require(spent <= limit_nano, f"{spent} spent of {limit_nano}")
    verdict.require(set(log.statuses()) <= {200, 429, 503}, f"answers {log.statuses()}")
    verdict.require(not log.lost, f"{len(log.lost)} requests had no whole answer")
    verdict.in_time(log.slowest(503) <= 0.1, f"a 503 took {log.slowest(503) * 1000:.0f} ms")
    verdict.in_time(spent >= 0.95 * limit_nano, f"{spent / limit_nano:.1%} of the budget used")
    verdict.figure = (
        f"deny: {spent} of {limit_nano} nano-dollars spent, answers {log.statuses()}, 503 within"
        f" {log.slowest(503) * 1000:.0f} ms; "
    )


async def in_force(all_: Together) -> None:
    """Wait until every worker refuses what costs more than the budget: it knows both."""
    request = all_.bed.request("p/mock?chunks=1", max_tokens=10**9, stream=True)
    known: set[int] = set()

    async def all_know() -> bool:
        caller = Caller(all_.bed.address)
        worker = json.loads((await caller.get("/health")).body)["worker"]
        if worker not in known and (await caller.ask(request)).status == 429:
            known.add(worker)
        caller.leave()
        return len(known) == WORKERS

    await eventually(all_know, 20, "the budget is in force")


async def let_through(all_: Together, form: Form, verdict: Verdict) -> None:
    """Use a limit up while Redis comes and goes."""
    log = Log()
    request = all_.bed.request("p/mock?chunks=1")
    await until_refused_or(all_, request, log, form, empty_last=False)
    await finish(all_, request, log, "rate_limit_exceeded")
    served = len(all_.mock.log())
    verdict.require(served <= form.limit, f"local: {served} of {form.limit} let through")
    verdict.require(served == len(log.admitted), "the provider saw others than were served")
    verdict.require(set(log.statuses()) <= {200, 429, 503}, f"local: answers {log.statuses()}")
    verdict.require(not log.lost, f"{len(log.lost)} requests had no whole answer")
    verdict.figure += f"local: {served} of {form.limit} let through, answers {log.statuses()}"


async def until_refused_or(
    all_: Together, request: bytes, log: Log, form: Form, *, empty_last: bool
) -> None:
    """Load while Redis is killed and comes back."""
    beat = form.away_s + 2.0  # after a loss, those who still know have a second and a half
    seconds = form.kills * beat + 0.5
    pause = form.clients * seconds / (2 * form.limit)
    loading = asyncio.get_running_loop().create_task(
        load(all_.bed, request, log, seconds=seconds, clients=form.clients, pause=pause)
    )
    for kill in range(form.kills):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(all_.redis.kill)
        await asyncio.sleep(form.away_s)
        if empty_last and kill == form.kills - 1:
            all_.redis.forget_all()
        await asyncio.to_thread(all_.redis.start)
        await asyncio.sleep(beat - form.away_s - 0.3)
    await loading


async def finish(all_: Together, request: bytes, log: Log, code: str) -> None:
    """Ask until nothing is left: then everything that there was has been used."""
    caller_log = Log()
    refused = 0
    for _ in range(60):
        before = len(caller_log.entries)
        await load(all_.bed, request, caller_log, seconds=0.1, clients=4, pause=0.005)
        statuses = [status for _, _, status in caller_log.entries[before:]]
        refused = refused + 1 if statuses and set(statuses) == {429} else 0
        if refused == 3:
            break
    log.entries += caller_log.entries
    log.lost += caller_log.lost
    seen = await all_.bed.chat("p/mock?chunks=1", max_tokens=10)
    assert code.encode() in seen.body or b"budget_reserved" in seen.body, seen.body
    log.entries.append((0.0, 0.0, seen.status))


if __name__ == "__main__":
    main(run, LONG, SHORT)
