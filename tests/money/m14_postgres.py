"""M-14: PostgreSQL is killed time and again: who is known goes on, each record arrives once."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from fastgw.wire import apikey
from tests.adversity.verdict import Verdict, main
from tests.money.books import MODELS, Books, audit, keeping
from tests.waiting import eventually


@dataclass(frozen=True)
class Form:
    """How many outages of what length, and who calls."""

    outages: int
    least_s: float
    most_s: float
    callers: int
    seed: int


LONG = Form(outages=20, least_s=1, most_s=60, callers=4, seed=14)
SHORT = Form(outages=2, least_s=0.2, most_s=0.5, callers=2, seed=14)


async def run(form: Form) -> Verdict:
    """Call on while the database comes and goes."""
    verdict = Verdict("M-14 PostgreSQL killed")
    dice = random.Random(form.seed)
    async with keeping(own=True) as books:
        await books.start()
        await books.call("first", MODELS[0], stream=False)  # from now on the key is known
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        callers = [
            loop.create_task(books.keep_calling(number, form.seed, stop))
            for number in range(form.callers)
        ]
        for _ in range(form.outages):
            await outage(books, dice.uniform(form.least_s, form.most_s), verdict)
        stop.set()
        await asyncio.gather(*callers)
        failed = [name for name, seen in books.seen.items() if seen.status != 200]
        verdict.require(not failed, f"a known key was refused: {failed[:5]}")
        await books.stop()
        await audit(books, verdict)
    return verdict


async def outage(books: Books, seconds: float, verdict: Verdict) -> None:
    """Kill the server, look at what is said meanwhile, and start it again."""
    assert books.postgres is not None
    await asyncio.to_thread(books.postgres.kill)
    books.kills += 1

    def ready(status: int) -> bool:
        return books.gateway.get("/readyz")[0] == status

    await eventually(lambda: asyncio.to_thread(ready, 503), 15, "/readyz says so")
    stranger = apikey.make_key()[0].reveal()
    told = await asyncio.to_thread(books.gateway.get, "/v1/models", stranger)
    verdict.require(told[0] == 503, f"a stranger was told {told}")
    await asyncio.sleep(seconds)
    await asyncio.to_thread(books.postgres.start_again)
    await eventually(lambda: asyncio.to_thread(ready, 200), 30, "/readyz follows")


if __name__ == "__main__":
    main(run, LONG, SHORT)
