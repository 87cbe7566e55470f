"""M-16: the way between gateway and Redis is cut and silent in turns: nobody hangs, nobody gains.

A proxy in between plays the network: it swallows, it resets, it lets through again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from dataclasses import dataclass
from typing import Any

from tests.adversity.verdict import Verdict, main
from tests.money.together import Durable, Log, Together, load, together, totals
from tests.waiting import eventually


@dataclass(frozen=True)
class Form:
    """Requests allowed, clients, for how long, how long a partition lasts at least and at most."""

    limit: int
    clients: int
    seconds: float
    shortest_s: float
    longest_s: float


LONG = Form(limit=20_000, clients=32, seconds=300.0, shortest_s=0.2, longest_s=30.0)
SHORT = Form(limit=200, clients=8, seconds=4.0, shortest_s=0.2, longest_s=0.8)


class Network:
    """Carries bytes between clients and a port, or does not."""

    def __init__(self) -> None:
        self.target = 0
        self.port = 0
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Let go of everything."""
        assert self._server
        self._server.close()
        self.mend()
        self.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def swallow(self) -> None:
        """From now on nothing gets through, and nobody is told."""
        self._open.clear()

    def mend(self) -> None:
        """Let through what waits, and everything after it."""
        self._open.set()

    def reset(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await self._open.wait()
        with contextlib.suppress(OSError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers |= {writer, up_writer}
            with contextlib.suppress(OSError):
                await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))
            self._writers -= {writer, up_writer}
            up_writer.transport.abort()
        writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            if writer.transport.is_closing():
                return
            writer.write(data)
        writer.transport.abort()


async def run(form: Form) -> Verdict:
    """Cut and mend while clients ask."""
    verdict = Verdict("M-16 partitions")
    network = Network()
    await network.start()

    def address(redis: Durable) -> str:
        network.target = redis.port
        return f"redis://127.0.0.1:{network.port}"

    rules = [
        {"scope": "global", "metric": "requests", "limit": form.limit, "window_s": 3600},
        {"scope": "global", "metric": "concurrent", "limit": 64},
    ]
    try:
        async with together(*rules, on_failure="local", workers=2, url=address) as all_:
            await judge(all_, form, verdict, network)
    finally:
        await network.stop()
    return verdict


async def judge(all_: Together, form: Form, verdict: Verdict, network: Network) -> None:
    """Load, cut, mend, and count."""
    log = Log()
    random_ = random.Random(16)
    loop = asyncio.get_running_loop()
    pause = form.clients * form.seconds / (2 * form.limit)
    request = all_.bed.request("p/mock?chunks=1")
    loading = loop.create_task(
        load(all_.bed, request, log, seconds=form.seconds, clients=form.clients, pause=pause)
    )
    cuts, slowest = 0, 0.0
    while not loading.done():
        await asyncio.sleep(random_.uniform(0.2, 0.6))
        network.swallow()
        await asyncio.sleep(random_.uniform(form.shortest_s, form.longest_s))
        if random_.random() < 0.5:
            network.reset()
        network.mend()
        mended = time.monotonic()
        await eventually(lambda: decides(all_), 20, "Redis decides again")
        slowest = max(slowest, time.monotonic() - mended)
        cuts += 1
    await loading
    # the last word of every worker has to arrive
    await eventually(lambda: adds_up(all_, log), 20, "what was served is counted")
    served = len(all_.mock.log())
    verdict.require(not log.lost, f"{len(log.lost)} requests had no whole answer")
    verdict.require(not log.strange(), f"answers {log.statuses()}")
    verdict.require(served <= form.limit, f"{served} of {form.limit} let through")
    verdict.require(served == len(log.admitted), "the provider saw others than were served")
    waited = log.slowest(200, 429)
    verdict.in_time(waited <= 0.2, f"a request took {waited * 1000:.0f} ms")
    verdict.in_time(slowest <= 1.0, f"Redis decided again {slowest:.2f} s after the mend")
    verdict.figure = (
        f"{cuts} cuts: {served} of {form.limit} let through, answers {log.statuses()}, slowest"
        f" {waited * 1000:.0f} ms, Redis back within {slowest:.2f} s"
    )


async def decides(all_: Together) -> bool:
    """Tell whether every worker is served by Redis again."""
    seen: dict[int, bool] = {}
    for _ in range(40):
        told = await all_.bed.get("/health")
        health = json.loads(told.body)
        seen[health["worker"]] = health["limits"]["available"]
        if len(seen) == 2:
            return all(seen.values())
    return False


async def adds_up(all_: Together, log: Log) -> bool:
    """Tell whether Redis has counted what was served, and nothing is open."""
    with all_.hand() as hand:
        (window,) = totals(hand, 1)
        (slots,) = totals(hand, 3)
    return window == len(log.admitted) and slots == 0


if __name__ == "__main__":
    main(run, LONG, SHORT)
