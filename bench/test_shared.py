"""What limits and budgets in Redis cost: our CPU a check, and Redis' own.

    pytest bench/test_shared.py --benchmark-only

A check is 3 limits and 2 budgets, reserved and settled. Targets: 12 us of our CPU where 5 wait in
one turn of the loop, 4 us where 50 do; 50,000 decisions a second of one Redis' CPU. The time that
is shown is our process's CPU time of a whole turn; `extra_info` has it by the check.
"""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
import redis
import uvloop

from fastgw._ext import limits
from fastgw.flow.rules import Rule
from fastgw.flow.shared import make_meter
from fastgw.server.keeper import Keeper
from fastgw.storage.redis import parse
from tests import servers

MANY = 10**15
RULES = (
    Rule(id="a", scope="key", metric="requests", limit=MANY),
    Rule(id="b", scope="key", metric="tokens", limit=MANY),
    Rule(id="c", scope="key", metric="concurrent", limit=MANY),
    Rule(id="d", scope="key", metric="money", limit=MANY, period="day"),
    Rule(id="e", scope="org", metric="money", limit=MANY, period="month"),
)
ids = itertools.count(1)


@pytest.fixture
def server():
    """Give a Redis of our own."""
    started = servers.Redis()
    started.launch()
    yield started
    started.close()


async def flush():
    """There is no ledger here."""


class Bench:
    """A keeper on a loop that runs when it is told to."""

    def __init__(self, url, keys):
        self.loop = uvloop.new_event_loop()
        self.loop.run_until_complete(self.start(url, keys))

    async def start(self, url, keys):
        """Connect and make a guard for each key."""
        self.keeper = Keeper(
            parse(url), instance="i", place="p", workers=1, on_failure="deny", flush=flush
        )
        self.run = asyncio.get_running_loop().create_task(self.keeper.run())
        await self.keeper.wait_until_up(5)
        self.guards = [self.guard(number) for number in range(keys)]

    def guard(self, number):
        """Give the guard of one key."""
        meters = [make_meter(rule, f"{number}" if rule.scope == "key" else "") for rule in RULES]
        guard = limits.Guard(tuple(meters))
        guard.keeper = self.keeper
        for meter in meters[3:]:
            self.keeper.spent(meter, 0, 0)
        return guard

    async def turn(self, waiting):
        """Let so many wait in one turn, and settle them."""
        held, all_here = [], self.loop.create_future()

        def done(outcome):
            assert type(outcome) is limits.Reservation, outcome
            held.append(outcome)
            if len(held) == waiting:
                all_here.set_result(None)

        guards = self.guards
        for number in range(waiting):
            guard = guards[number % len(guards)]
            self.keeper.reserve(guard, f"fgx_{next(ids):022}", 500, 1_000, done)
        await all_here
        now = limits.now_us()
        for reservation in held:
            reservation.settle(now, 300, 700)

    def turns(self, count, waiting):
        """Do so many turns."""

        async def all_turns():
            for _ in range(count):
                await self.turn(waiting)

        self.loop.run_until_complete(all_turns())

    def stop(self):
        """Disconnect."""
        self.run.cancel()
        self.loop.run_until_complete(asyncio.gather(self.run, return_exceptions=True))
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("keys", [1, 10])
@pytest.mark.parametrize("waiting", [1, 5, 50])
def test_checks(benchmark, server, waiting, keys):
    """Reserve for all who wait in a turn with one call, and settle with the next."""
    bench = Bench(server.url, keys)
    turns = 500 // waiting + 10
    with redis.Redis.from_url(server.url) as client:
        before = client.info("cpu")
        benchmark.pedantic(bench.turns, (turns, waiting), rounds=10, warmup_rounds=1)
        after = client.info("cpu")
    bench.stop()
    spent = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
    benchmark.extra_info["our_us_a_check"] = benchmark.stats["median"] / turns / waiting * 1e6
    benchmark.extra_info["decisions_a_second"] = 11 * turns * waiting / spent
