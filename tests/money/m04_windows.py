"""M-4: a sliding window kept in Redis lets through no more than its limit, and nearly all of it.

Several workers, several keys, three times as much asked for as allowed.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

from tests.adversity.verdict import Verdict, main
from tests.money.together import Log, Together, load, most_in_window, together


@dataclass(frozen=True)
class Form:
    """The limit and its window, how many keys, for how long."""

    limit: int
    window_s: float
    keys: int
    seconds: float
    clients: int


LONG = Form(limit=100, window_s=60.0, keys=20, seconds=300.0, clients=4)
SHORT = Form(limit=20, window_s=1.5, keys=2, seconds=4.5, clients=4)


async def run(form: Form) -> Verdict:
    """Ask with all keys at once."""
    verdict = Verdict("M-4 sliding window")
    rule = {
        "scope": "key", "metric": "requests", "limit": form.limit, "window_s": form.window_s,
    }  # fmt: skip
    async with together(rule) as all_:
        await judge(all_, form, verdict)
    return verdict


async def judge(all_: Together, form: Form, verdict: Verdict) -> None:
    """Load and look at every rolling window."""
    names = [
        await asyncio.to_thread(all_.bed.gateway.create_key, f"k{n}") for n in range(form.keys)
    ]
    beds = [dataclasses.replace(all_.bed, key=key) for key in names]
    logs = [Log() for _ in beds]
    pause = form.clients * form.window_s / (3 * form.limit)
    await asyncio.gather(
        *(
            load(
                bed, bed.request("p/mock?chunks=1"), log, seconds=form.seconds,
                clients=form.clients, pause=pause,
            )
            for bed, log in zip(beds, logs, strict=True)
        )
    )  # fmt: skip
    worst = 0
    for log in logs:
        worst = max(worst, most_in_window(log.admitted, form.window_s))
        verdict.require(not log.lost, f"{len(log.lost)} requests had no whole answer")
        verdict.require(not log.strange(), f"answers {log.statuses()}")
        verdict.require(log.admitted, "a key was served nothing")
        wanted = form.limit * (form.seconds / form.window_s - 1)
        used = len(log.admitted) / wanted
        verdict.in_time(used >= 0.99, f"only {used:.1%} of a key's limit was used")
    verdict.require(worst <= form.limit, f"{worst} in one window of {form.limit}")
    served = sum(len(log.admitted) for log in logs)
    asked = sum(len(log.entries) for log in logs)
    verdict.figure = (
        f"{served} of {asked} served for {form.keys} keys in {form.seconds:g} s, at most {worst} of"
        f" {form.limit} in any {form.window_s:g} s"
    )


if __name__ == "__main__":
    main(run, LONG, SHORT)
