"""M-12: kill -9 at random while calls are under way: lost 0, double 0, amounts true.

Now a worker dies, now the loader, now every process of the gateway at once, which then starts anew.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import suppress
from dataclasses import dataclass

from tests.adversity.verdict import Verdict, main
from tests.money.books import Books, audit, keeping


@dataclass(frozen=True)
class Form:
    """How often what dies, how long it lives before, and who calls."""

    kills: int
    least_s: float
    most_s: float
    callers: int
    workers: int
    engine: str
    seed: int


LONG = Form(
    kills=100, least_s=2, most_s=8, callers=8, workers=2, engine="postgresql", seed=12
)  # fmt: skip
SHORT = Form(kills=3, least_s=0.3, most_s=0.6, callers=4, workers=2, engine="sqlite", seed=12)
VICTIMS = ("worker", "all", "loader")


async def run(form: Form) -> Verdict:
    """Call, kill, and compare."""
    verdict = Verdict("M-12 kills")
    dice = random.Random(form.seed)
    async with keeping(engine=form.engine, server={"workers": form.workers}) as books:
        await books.start()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        callers = [
            loop.create_task(books.keep_calling(number, form.seed, stop))
            for number in range(form.callers)
        ]
        for number in range(form.kills):
            await asyncio.sleep(dice.uniform(form.least_s, form.most_s))
            await kill(books, VICTIMS[number % len(VICTIMS)], dice)
        await asyncio.sleep(form.least_s)
        stop.set()
        await asyncio.gather(*callers)
        await books.stop()
        await audit(books, verdict)
    return verdict


async def kill(books: Books, victim: str, dice: random.Random) -> None:
    """Kill somebody."""
    if victim == "all":
        await books.kill_all()
        await books.start()
        return
    pid = books.gateway.loader() if victim == "loader" else dice.choice(books.gateway.children())
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    books.kills += 1


if __name__ == "__main__":
    main(run, LONG, SHORT)
