"""H-11 and H-12: SIGTERM under live streams, and under streams that outlive the grace period."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass

from tests.adversity import stream
from tests.adversity.bed import Bed, Caller, Seen, ask, mocking, provider, serving
from tests.adversity.verdict import Verdict, main
from tests.waiting import eventually

GRACE_S = 15


@dataclass(frozen=True)
class Form:
    """Live streams, hung streams, and the database."""

    streams: int
    hung: int
    chunks: int
    hung_grace_s: int
    engine: str


LONG = Form(streams=200, hung=20, chunks=50, hung_grace_s=3, engine="postgresql")
SHORT = Form(streams=20, hung=4, chunks=10, hung_grace_s=1, engine="sqlite")


async def run(form: Form) -> Verdict:
    """Both cases, one after the other."""
    verdict = Verdict("H-11 H-12 drain")
    async with mocking() as mock:
        await drain_live(form, mock.base_url, verdict)
        await drain_hung(form, mock.base_url, verdict)
    return verdict


def configuration(base_url: str, grace_s: int) -> dict[str, object]:
    """Give two workers on a provider that may be silent for long."""
    timeouts = {"connect_s": 5, "first_byte_s": 60, "idle_s": 60, "total_s": 120}
    return {
        "server": {"workers": 2, "shutdown_grace_s": grace_s},
        "providers": [provider(base_url, timeouts=timeouts)],
    }


async def start_streams(bed: Bed, count: int, model: str) -> list[asyncio.Task[Seen]]:
    """Start streams and wait until each has begun."""
    request = bed.request(model, stream=True)
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(ask(bed.address, request, patience=90)) for _ in range(count)]

    async def live() -> bool:
        metrics = (await bed.get("/metrics")).body.decode()
        return f"\nfastgw_in_flight {count}.0" in metrics

    await eventually(live, 30, f"{count} live streams")
    return tasks


async def drain_live(form: Form, base_url: str, verdict: Verdict) -> None:
    """Every live stream ends whole; the door is shut politely."""
    async with serving(configuration(base_url, GRACE_S), engine=form.engine) as bed:
        watcher = Caller(bed.address)
        await watcher.get("/readyz")
        model = f"p/mock?chunks={form.chunks}&delay_ms=60"
        tasks = await start_streams(bed, form.streams, model)
        told = time.monotonic()
        bed.gateway.signal(signal.SIGTERM)
        unready = await readiness(watcher)
        verdict.in_time(unready - told < 1.0, f"/readyz 503 after {unready - told:.2f} s")
        late = asyncio.get_running_loop().create_task(knock(bed, tasks))
        seen = await asyncio.gather(*tasks)
        endings = await late
        status = await asyncio.to_thread(bed.gateway.wait)
        took = time.monotonic() - told
        watcher.leave()
        records = await bed.records(form.streams)
    whole = sum(one.whole and one.body.endswith(stream.DONE) for one in seen)
    verdict.require(whole == form.streams, f"{whole} of {form.streams} streams ended whole")
    verdict.require(status == 0, f"exit {status}")
    good = sum(record.usage_source == "reported" and record.status == 200 for record in records)
    verdict.require(good >= form.streams, f"usage of {good} streams is on record")
    verdict.require(not endings["broken"], f"{endings['broken']} newcomers cut in mid-answer")
    verdict.in_time(took <= GRACE_S, f"took {took:.1f} s")
    verdict.figure += (
        f"{whole} streams whole, exit {status} after {took:.1f} s, newcomers {dict(endings)}; "
    )


async def readiness(watcher: Caller) -> float:
    """Ask until it says that it is not ready, on the connection from before; give the time."""

    async def unready() -> bool:
        return (await watcher.get("/readyz")).status != 200  # 503, or refused: the listener is gone

    await eventually(unready, 10)
    return time.monotonic()


async def knock(bed: Bed, tasks: list[asyncio.Task[Seen]]) -> Counter[str]:
    """Come with new connections until the last stream has ended; count how that goes."""
    endings: Counter[str] = Counter(broken=0)
    while not all(task.done() for task in tasks):
        seen = await ask(bed.address, bed.request("p/mock?chunks=1"), patience=10)
        if seen.whole:
            endings[str(seen.status)] += 1
        elif seen.answer is not None:
            endings["broken"] += 1
        else:
            endings[seen.ending] += 1
        await asyncio.sleep(0.01)
    return endings


async def drain_hung(form: Form, base_url: str, verdict: Verdict) -> None:
    """Streams that hang are told so when the grace is over."""
    grace = form.hung_grace_s
    async with serving(configuration(base_url, grace), engine=form.engine) as bed:
        model = "p/mock?chunks=9&fault=stall&after=3"
        tasks = await start_streams(bed, form.hung, model)
        told = time.monotonic()
        bed.gateway.signal(signal.SIGTERM)
        seen = await asyncio.gather(*tasks)
        status = await asyncio.to_thread(bed.gateway.wait)
        took = time.monotonic() - told
        records = await bed.records(form.hung)
    errors = sum(stream.has_error(one.body) and not one.whole for one in seen)
    partial = sum(record.usage_source == "partial" for record in records)
    verdict.require(errors == form.hung, f"{errors} of {form.hung} hung streams got an error event")
    verdict.require(partial == form.hung, f"{partial} of {form.hung} billed as partial")
    verdict.require(status == 0, f"exit {status} after the grace")
    verdict.in_time(took <= grace + 2, f"exit {took:.1f} s after SIGTERM, grace {grace} s")
    verdict.figure += (
        f"{errors} hung streams told, exit {status} {took - grace:.1f} s past the grace"
    )


if __name__ == "__main__":
    main(run, LONG, SHORT)
