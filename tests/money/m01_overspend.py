"""M-1: a dollar for 200 concurrent requests of up to two cents each: never a nano-dollar over.

At least 95 % of it is usable, and who is refused is refused before any provider is asked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from fastgw.domain import NANO, usd
from tests.adversity.bed import Bed, Caller
from tests.adversity.verdict import Verdict, main
from tests.money.purse import code_of, purse

MODEL = "dear"
MOST = 1_990
"""Tokens; with the prompt that is a little under two cents."""
LENGTHS = (1_000, 1_300, 1_600, 1_990)
REFUSALS = {"insufficient_quota", "budget_reserved"}


@dataclass(frozen=True)
class Form:
    """So many dollars one after the other; how many requests at a time, and of which kind."""

    runs: int
    clients: int
    stream: bool


LONG = Form(runs=50, clients=200, stream=False)
SHORT = Form(runs=2, clients=200, stream=False)


@dataclass
class Answered:
    """What the clients of one key were answered."""

    served: int = 0
    codes: dict[str, int] = field(default_factory=dict)


async def spend(bed: Bed, form: Form) -> Answered:
    """Ask until the dollar is used up."""
    found = Answered()
    more = {"stream": True} if form.stream else {}
    request = bed.request(MODEL, max_tokens=MOST, **more)

    async def client() -> None:
        caller = Caller(bed.address)
        code = ""
        while code != "insufficient_quota":
            seen = await caller.ask(request)
            code = code_of(seen) if seen.status != 200 else ""
            if seen.status == 200:
                found.served += 1
            else:
                found.codes[code] = found.codes.get(code, 0) + 1
                if code not in REFUSALS:
                    break
        caller.leave()

    await asyncio.gather(*(client() for _ in range(form.clients)))
    return found


async def run(form: Form) -> Verdict:
    """Spend dollars, one key's after the other's."""
    verdict = Verdict("M-1 a budget under concurrency")
    deployments = [
        {"provider": "p", "model": f"mock?chunks={length}&latency_ms=5"} for length in LENGTHS
    ]
    async with purse([{"name": MODEL, "deployments": deployments}]) as bought:
        await bought.price(MODEL)
        await bought.budget("1.00", match="key-*")
        bought.mock.clear()
        keys = [await bought.key(f"key-{number}") for number in range(form.runs)]
        runs = [await spend(bed, form) for bed in keys]
        served = sum(each.served for each in runs)
        refused = sum(sum(each.codes.values()) for each in runs)
        records = await bought.records(served)
        asked = sum("latency_ms" in (line["model"] or "") for line in bought.mock.log())
    spent: dict[str, int] = {}
    for record in records:
        spent[record.key_id or ""] = spent.get(record.key_id or "", 0) + record.cost_nano
    verdict.require(len(spent) == form.runs, f"{len(spent)} keys have spent")
    over = max(spent.values()) - NANO
    least = min(spent.values())
    verdict.require(over <= 0, f"overshoot {over} nano-dollars")
    verdict.require(least >= 0.95 * NANO, f"only {usd(least)} USD were usable")
    verdict.require(asked == served, f"{asked} calls of the provider for {served} served")
    for each in runs:
        other = {code: count for code, count in each.codes.items() if code not in REFUSALS}
        verdict.require(not other, f"answered {other}")
    verdict.figure = (
        f"{form.runs} x 1 USD, {form.clients} at once: {served} served, {refused} refused,"
        f" {least / NANO:.1%} to {max(spent.values()) / NANO:.1%} used, overshoot {max(over, 0)}"
    )
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
