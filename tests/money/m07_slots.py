"""M-7: never more at the provider than a concurrency limit says, whoever is killed; all come back.

The lease of a dead worker ends after 30 s. The short form does not wait: it lets that lease end at
once, as Redis would, by taking its time away.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import dataclass

from tests.adversity.bed import Caller
from tests.adversity.verdict import Verdict, main
from tests.money.together import Together, together, totals
from tests.waiting import eventually


@dataclass(frozen=True)
class Form:
    """The limit, how many clients, for how long, whether the lease is waited for."""

    limit: int
    clients: int
    seconds: float
    waits: bool


LONG = Form(limit=10, clients=200, seconds=60.0, waits=True)
SHORT = Form(limit=10, clients=30, seconds=3.0, waits=False)


async def run(form: Form) -> Verdict:
    """Ask, kill clients all the time and a worker in the middle."""
    verdict = Verdict("M-7 slots")
    rule = {"scope": "global", "metric": "concurrent", "limit": form.limit}
    async with together(rule) as all_:
        most = await storm(all_, form)
        await settle_leases(all_, form)
        with all_.hand() as hand:

            def is_free() -> bool:
                return totals(hand, 3) == [0]

            await eventually(is_free, 60, "all slots are free")
        lines = all_.mock.log()
        seen = await all_.bed.chat("p/mock")
        verdict.require(seen.status == 200, f"afterwards {seen.status}")
    peak = most_at_once(lines)
    verdict.require(peak <= form.limit, f"{peak} at the provider at the same time")
    verdict.figure = f"at most {peak} of {form.limit} at the provider, {most} answers, 0 in the end"
    return verdict


async def storm(all_: Together, form: Form) -> int:
    """Let clients come and go; kill one worker; give how many answers there were."""
    random_ = random.Random(7)
    request = all_.bed.request("p/mock?chunks=4&delay_ms=20", stream=True)
    loop = asyncio.get_running_loop()
    end = loop.time() + form.seconds
    answers = 0

    async def one() -> None:
        nonlocal answers
        while loop.time() < end:
            caller = Caller(all_.bed.address)
            asking = loop.create_task(caller.ask(request))
            patience = random_.choice((0.02, 0.05, 5.0, 5.0))
            done, _ = await asyncio.wait({asking}, timeout=patience)
            answers += len(done)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            caller.leave()
            await asyncio.sleep(0.01)

    clients = [loop.create_task(one()) for _ in range(form.clients)]
    await asyncio.sleep(form.seconds / 2)
    os.kill(all_.bed.gateway.children()[1], signal.SIGKILL)
    await asyncio.gather(*clients)
    return answers


async def settle_leases(all_: Together, form: Form) -> None:
    """Wait for the lease of the dead, or take it away."""
    if form.waits:
        await asyncio.sleep(32)
    with all_.hand() as hand:
        alive = 4
        leases = sorted(
            (score, name) for name, score in hand.zscan_iter("{fgw}:leases") if name[:2] == b"i:"
        )
        if not form.waits:
            for _, name in leases[: len(leases) - alive]:
                hand.zadd("{fgw}:leases", {name: 0})
    # Leases end with the next batch, one a second.
    await eventually(lambda: ends_leases(all_), 20, "the lease has ended")


async def ends_leases(all_: Together) -> bool:
    """Make a batch and tell whether the leases of the dead are gone."""
    await all_.bed.chat("p/mock")
    with all_.hand() as hand:
        names = [name for name in hand.zrange("{fgw}:leases", 0, -1) if name[:2] == b"i:"]
    return len(names) == 4


def most_at_once(lines) -> int:
    """Give how many exchanges the provider had at the same time, by its own log."""
    moments = []
    for line in lines:
        moments.append((line["at"], 1))
        # The provider hears of a client that left after the gateway has let go of its slot; and a
        # millisecond is the log's grain: what touches is not at the same time.
        gone = line["gone_ms"]
        lasted = line["ms"] - 1 if gone is None else gone - 20
        moments.append((line["at"] + max(lasted, 0), -1))
    count = most = 0
    for _, change in sorted(moments, key=lambda each: (each[0], each[1])):
        count += change
        most = max(most, count)
    return most


if __name__ == "__main__":
    main(run, LONG, SHORT)
