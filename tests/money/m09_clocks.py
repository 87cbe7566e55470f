"""M-9: gateways whose clocks are five minutes apart share a window: time comes from Redis."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.adversity.bed import Bed, mocking, provider
from tests.adversity.verdict import Verdict, main
from tests.money.together import Log, keeping, load, most_in_window
from tests.processes import Gateway

SHIFT_S = 300

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) { const char *s = getenv("SHIFT_S"); return s ? atol(s) : 0; }

int clock_gettime(clockid_t clock, struct timespec *at)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, at);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    static int (*real)(struct timeval *, void *);
    if (!real)
        real = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(at, zone);
    if (result == 0)
        at->tv_sec += shift();
    return result;
}

time_t time(time_t *into)
{
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (into)
        *into = at.tv_sec;
    return at.tv_sec;
}
"""
"""Put before libc: the wall clock is wrong by so much, and no other clock is."""


@dataclass(frozen=True)
class Form:
    """The limit and its window, for how long, from how many clients of each gateway."""

    limit: int
    window_s: float
    seconds: float
    clients: int


LONG = Form(limit=100, window_s=10.0, seconds=60.0, clients=8)
SHORT = Form(limit=20, window_s=1.5, seconds=4.5, clients=4)


def build_shim(folder: Path) -> Path:
    """Compile the shim."""
    source, built = folder / "shift.c", folder / "shift.so"
    source.write_text(SHIM)
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is needed, as for the gateway itself"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"], check=True)
    return built


@contextlib.asynccontextmanager
async def shifted(
    folder: Path, shim: Path, shift_s: int, config: dict[str, object]
) -> AsyncIterator[Bed]:
    """Serve with a clock that is wrong by so much."""
    folder.mkdir()
    env = {"LD_PRELOAD": str(shim), "SHIFT_S": str(shift_s)}
    gateway = await asyncio.to_thread(
        Gateway, folder, f"sqlite:///{folder}/fastgw.db", config, env=env
    )
    try:
        await asyncio.to_thread(gateway.ready)
        yield Bed(gateway, await asyncio.to_thread(gateway.create_key))
    finally:
        await asyncio.to_thread(gateway.stop)


async def run(form: Form) -> Verdict:
    """Ask both; the limit is everybody's."""
    verdict = Verdict("M-9 clocks")
    rule = {
        "scope": "global", "metric": "requests", "limit": form.limit, "window_s": form.window_s,
    }  # fmt: skip
    async with mocking() as mock, keeping() as redis, contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastgw-clocks-")))
        config = {
            "providers": [provider(mock.base_url)],
            "redis": {"url": redis.url, "on_failure": "deny"},
            "limits": {"defaults": [rule]},
        }
        shim = build_shim(folder)
        beds = [
            await stack.enter_async_context(shifted(folder / name, shim, shift_s, config))
            for name, shift_s in (("ahead", SHIFT_S), ("behind", -SHIFT_S))
        ]
        dates = [await clock_of(bed) for bed in beds]
        verdict.require(dates[0] - dates[1] > SHIFT_S, f"the clocks are {dates} s apart")
        log = Log()
        await asyncio.gather(
            *(
                load(
                    bed, bed.request("p/mock?chunks=1"), log, seconds=form.seconds,
                    clients=form.clients, pause=form.clients * form.window_s / form.limit,
                )
                for bed in beds
            )
        )  # fmt: skip
    worst = most_in_window(log.admitted, form.window_s)
    verdict.require(not log.lost, f"{len(log.lost)} requests had no whole answer")
    verdict.require(not log.strange(), f"answers {log.statuses()}")
    verdict.require(worst <= form.limit, f"{worst} in one window of {form.limit}")
    used = len(log.admitted) / (form.limit * (form.seconds / form.window_s - 1))
    verdict.in_time(used >= 0.99, f"only {used:.1%} of the limit was used")
    verdict.figure = (
        f"clocks {dates[0] - dates[1]:.0f} s apart: at most {worst} of {form.limit} in any"
        f" {form.window_s:g} s, {len(log.admitted)} served"
    )
    return verdict


async def clock_of(bed: Bed) -> float:
    """Give the time a gateway believes it is, in epoch seconds."""
    seen = await bed.chat("p/mock?chunks=1")
    assert seen.status == 200, seen
    (record,) = await bed.records(1)
    return record.created_at / 1000


if __name__ == "__main__":
    main(run, LONG, SHORT)
