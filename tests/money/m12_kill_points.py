"""The named kill points: a process dies at each of them, or stops and goes on late.

They are those of the standard lane and of the loader; see fastgw/_ext/killpoints.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass

from tests.adversity.verdict import Verdict, main
from tests.money.books import Books, audit, keeping, state_of, until
from tests.waiting import eventually

LANE = (
    "after_reserve", "after_open", "after_send", "before_close", "after_close", "before_release",
    "after_release",
)  # fmt: skip
LOADER = ("during_load",)


@dataclass(frozen=True)
class Form:
    """Which points, how often each, how long a stopped process stays stopped."""

    points: str
    kills: int
    stops: int
    late_s: float
    callers: int
    engine: str
    seed: int


LONG = Form(
    points=",".join((*LANE, *LOADER)), kills=20, stops=20, late_s=2.0, callers=4,
    engine="postgresql", seed=12,
)  # fmt: skip
SHORT = Form(
    points="after_open,after_close,during_load", kills=2, stops=1, late_s=0.3, callers=4,
    engine="sqlite", seed=12,
)  # fmt: skip


async def run(form: Form) -> Verdict:
    """Die and stop at one point after the other; each has a gateway and a ledger of its own."""
    verdict = Verdict("M-12 kill points")
    for point in form.points.split(","):
        server = {"workers": 1, "fast_lane": False}
        async with keeping(engine=form.engine, server=server) as books:
            await die(books, form, point, verdict)
            if form.stops:
                await halt(books, form, point, verdict)
            await books.start()
            await books.stop()
            verdict.figure += f"{point}: "
            await audit(books, verdict)
    return verdict


async def die(books: Books, form: Form, point: str, verdict: Verdict) -> None:
    """Let the process die at every seventh arrival."""
    await books.start(FASTGW_KILL_POINT=f"{point}:{every(point)}")
    async with calling(books, form, 1):
        for _ in range(form.kills):
            victim = await victim_of(books, point)
            await eventually(lambda v=victim: state_of(v) in {"", "Z"}, 30, f"a death at {point}")
            books.kills += 1
    await books.kill_all()


async def halt(books: Books, form: Form, point: str, verdict: Verdict) -> None:
    """Let the process stop there, and go on late."""
    await books.start(FASTGW_KILL_POINT=f"{point}:{every(point)}:STOP")
    async with calling(books, form, 2):
        for _ in range(form.stops):
            victim = await victim_of(books, point)
            await eventually(lambda v=victim: state_of(v) == "T", 30, f"a stop at {point}")
            await until(time.monotonic() + form.late_s)
            os.kill(victim, signal.SIGCONT)
            books.kills += 1
            await eventually(lambda v=victim: state_of(v) != "T", 10, "it goes on")
    await books.kill_all()


def every(point: str) -> int:
    """Give at which arrival it happens: batches are fewer than exchanges."""
    return 2 if point in LOADER else 7


async def victim_of(books: Books, point: str) -> int:
    """Give the process that will come to the point."""
    if point in LOADER:
        return await asyncio.to_thread(books.gateway.loader)
    return await eventually(lambda: next(iter(books.gateway.children()), None), 10, "a worker")


class calling:  # noqa: N801 - reads as a verb
    """Calls are under way as long as this lasts."""

    def __init__(self, books: Books, form: Form, round_: int) -> None:
        self._books = books
        self._form = form
        self._seed = form.seed + round_ * 100
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._books.keep_calling(number, self._seed, self._stop))
            for number in range(self._form.callers)
        ]

    async def __aexit__(self, *_: object) -> None:
        # To their ends: who hangs up is another matter, and so is what that costs.
        self._stop.set()
        while not all(task.done() for task in self._tasks):
            for pid in self._books.gateway.children():
                if state_of(pid) == "T":
                    os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.05)
        await asyncio.gather(*self._tasks)


if __name__ == "__main__":
    main(run, LONG, SHORT)
