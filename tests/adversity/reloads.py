"""H-13: SIGHUP with a good, a bad, a good file again and again under load: no request fails."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.adversity.bed import Bed, Caller, Seen, mocking, provider, serving
from tests.adversity.verdict import Verdict, main

EVERY_S = 0.5
CALLERS = 20
BAD = "provider_"


@dataclass(frozen=True)
class Form:
    """Requests a second, and for how long."""

    rate: int
    seconds: int
    engine: str


LONG = Form(rate=200, seconds=60, engine="postgresql")
SHORT = Form(rate=40, seconds=4, engine="sqlite")


async def run(form: Form) -> Verdict:
    """Reload under load."""
    verdict = Verdict("H-13 reloads")
    async with mocking() as mock:
        config: dict[str, Any] = {
            "server": {"workers": 2},
            "providers": [provider(mock.base_url)],
            "aliases": [],
            "models": [{"name": "m", "deployments": [{"provider": "p", "model": "mock?chunks=2"}]}],
        }
        async with serving(config, engine=form.engine) as bed:
            reloads = asyncio.get_running_loop().create_task(reload(bed, config, form.seconds))
            seen = await load(bed, form.rate, form.seconds)
            good, bad = await reloads
            refused = bed.gateway.text.count("reload_refused")
            named = BAD in bed.gateway.text
            served = await bed.chat("newest")
    endings = Counter(
        "ok" if one.whole and one.status == 200 else f"{one.status} {one.ending}" for one in seen
    )
    verdict.require(set(endings) == {"ok"}, f"requests ended {dict(endings)}")
    # A file that is replaced between two looks is never seen; each bad one that was seen is named.
    verdict.require(refused > 0, "no bad file was refused")
    verdict.require(named, "the fault is not named")
    verdict.require(served.status == 200, f"the last good file is not served: {served.body!r}")
    verdict.figure = f"{len(seen)} requests, {good} good and {bad} bad files, {refused} refusals"
    return verdict


async def reload(bed: Bed, config: dict[str, Any], seconds: int) -> tuple[int, int]:
    """Write good and bad files by turns, with a SIGHUP each; end with a good one."""
    good = bad = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alias = {"name": f"alias-{good}", "model": "m"}
        bed.gateway.write_config({**config, "aliases": [alias]})
        bed.gateway.signal(signal.SIGHUP)
        good += 1
        await asyncio.sleep(EVERY_S)
        bed.gateway.write_config({**config, BAD: []})
        bed.gateway.signal(signal.SIGHUP)
        bad += 1
        await asyncio.sleep(EVERY_S)
    bed.gateway.write_config({**config, "aliases": [{"name": "newest", "model": "m"}]})
    bed.gateway.signal(signal.SIGHUP)
    for _ in range(100):
        if (await bed.chat("newest")).status == 200:
            break
        await asyncio.sleep(0.1)
    return good, bad


async def load(bed: Bed, rate: int, seconds: int) -> list[Seen]:
    """Ask at a rate over kept connections; one that is slow makes none of the others wait."""
    request = bed.request("m")
    seen: list[Seen] = []
    deadline = time.monotonic() + seconds

    async def call(number: int) -> None:
        caller = Caller(bed.address)
        due = time.monotonic() + number / rate
        while due < deadline:
            await asyncio.sleep(max(0, due - time.monotonic()))
            seen.append(await caller.ask(request))
            due += CALLERS / rate
        caller.leave()

    await asyncio.gather(*(call(number) for number in range(CALLERS)))
    return seen


if __name__ == "__main__":
    main(run, LONG, SHORT)
