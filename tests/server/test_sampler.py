"""The sampler tells who used the CPU, and never disturbs who does not."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastgw.server.sampler import Sampler


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(1000))


def outer() -> None:
    burn(0.3)


@pytest.fixture
def sampler():
    sampler = Sampler(beat_s=0.002)
    sampler.start()
    yield sampler
    signal.setitimer(signal.ITIMER_PROF, 0)


def weight(stacks: dict[str, int], part: str) -> int:
    return sum(spent for stack, spent in stacks.items() if part in stack)


def test_the_time_is_the_functions_that_used_it(sampler):
    """0.3 s in `burn` called by `outer`: most of all time stands there, in microseconds."""
    outer()
    stacks = sampler.stop()
    assert weight(stacks, ":outer;") > 0.6 * sum(stacks.values())
    assert 200_000 < weight(stacks, ":burn") < 2_000_000
    assert all(stack.startswith("MainThread;") for stack in stacks if ":outer" in stack)
    assert all(" " not in stack and stack.count("\n") == 0 for stack in stacks)


async def test_coroutines_show_under_the_loop(sampler):
    """On the gateway's loop, which handles signals in its own way; its helper is not shown."""

    async def work() -> None:
        outer()
        await asyncio.sleep(0)

    await work()
    stacks = sampler.stop()
    assert weight(stacks, ".work;") > 0.6 * sum(stacks.values())
    assert weight(stacks, "_noop") == 0


async def test_another_thread_is_told_apart_and_a_waiting_one_weighs_nothing(sampler):
    """Only threads that run are in the profile, under their own names."""
    waiting = threading.Event()
    idle = threading.Thread(target=waiting.wait, name="idle")
    idle.start()
    with ThreadPoolExecutor(1, thread_name_prefix="a; busy one") as pool:
        await asyncio.get_running_loop().run_in_executor(pool, outer)
        stacks = sampler.stop()
    waiting.set()
    idle.join()
    assert weight(stacks, ":outer;") > 100_000
    assert all(stack.startswith("a,_busy_one_0;") for stack in stacks if ":outer;" in stack)
    assert weight(stacks, "idle;") == 0


def test_a_late_beat_does_not_end_the_process(sampler):
    """SIGPROF ends a process by default; after the profile it is ignored."""
    sampler.stop()
    os.kill(os.getpid(), signal.SIGPROF)


def test_a_second_profile_starts_from_nothing():
    """What the first one saw is not in the next."""
    first = Sampler()
    first.start()
    outer()
    assert weight(first.stop(), ":outer") > 0
    second = Sampler()
    second.start()
    assert weight(second.stop(), ":outer") == 0
