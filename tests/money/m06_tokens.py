"""M-6: tokens are reserved by the most there can be and settled by what the provider counted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.adversity.verdict import Verdict, main
from tests.money.together import Log, load, together, totals


@dataclass(frozen=True)
class Form:
    """Tokens that are allowed, for how long, from how many clients."""

    limit: int
    seconds: float
    clients: int


LONG = Form(limit=20_000, seconds=30.0, clients=32)
SHORT = Form(limit=3_000, seconds=2.0, clients=12)


async def run(form: Form) -> Verdict:
    """Ask until nothing is left, look at the counter all the time, and add up."""
    verdict = Verdict("M-6 tokens")
    rule = {"scope": "global", "metric": "tokens", "limit": form.limit, "window_s": 3600}
    async with together(rule) as all_:
        log, seen = Log(), []
        request = all_.bed.request("p/mock?chunks=3&latency_ms=20", max_tokens=200)
        done = asyncio.Event()
        with all_.hand() as hand:
            watching = asyncio.get_running_loop().create_task(watch(hand, seen, done))
            await load(
                all_.bed, request, log, seconds=form.seconds, clients=form.clients, pause=0.02
            )
            done.set()
            await watching
            (counted,) = totals(hand, 1)
        truth = sum(sum(line["billed"].values()) for line in all_.mock.log())
        records = await all_.bed.records(len(log.entries))
    recorded = sum(record.input_tokens + record.output_tokens for record in records)
    verdict.require(not log.lost, f"{len(log.lost)} requests had no whole answer")
    verdict.require(max(seen) <= form.limit, f"{max(seen):.0f} reserved of {form.limit}")
    verdict.require(counted == truth, f"{counted:.0f} counted, the provider counted {truth}")
    verdict.require(recorded == truth, f"{recorded} recorded, the provider counted {truth}")
    served = len(log.admitted)
    verdict.figure = (
        f"{served} of {len(log.entries)} served, {truth} tokens counted alike, at most"
        f" {max(seen):.0f} of {form.limit} reserved"
    )
    return verdict


async def watch(hand, seen: list[float], done: asyncio.Event) -> None:
    """Look at the counter now and then."""
    while not done.is_set():
        seen += totals(hand, 1)
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    main(run, LONG, SHORT)
