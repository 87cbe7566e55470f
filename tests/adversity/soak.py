"""The soak: millions of requests over a hundred thousand keys; memory stays where it was.

Keys are made in the database in batches. A worker looks up at most 200 unknown keys a second, so
each key is shown to it once at that pace; that is part of the first tenth. After it, growth counts.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.processes import BenchError, build_tools, drive, start_upstream, stop
from fastgw.storage import Store
from fastgw.storage.sql import keys as key_rows
from tests.adversity.bed import Bed, Caller, provider, resident_kib, serving
from tests.adversity.verdict import Verdict, main
from tests.waiting import eventually

BATCH = 500
LOADS_A_SECOND = 180
CONNECTIONS = 64
CORE = 1
MODEL = "bench"
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi " * 300}]})


@dataclass(frozen=True)
class Form:
    """How many requests over how many keys, of which database; `growth`: what memory may grow by.

    A short run is still growing its caches after its first tenth, so that says little there.
    """

    requests: int
    keys: int
    engine: str
    growth: float


LONG = Form(requests=10_000_000, keys=100_000, engine="postgresql", growth=0.05)
SHORT = Form(requests=5_000, keys=200, engine="sqlite", growth=0.5)


async def run(form: Form) -> Verdict:
    """Make keys, warm up, load."""
    verdict = Verdict("soak")
    with tempfile.TemporaryDirectory(prefix="fastgw-soak-") as name:
        folder = Path(name)
        tools = await asyncio.to_thread(build_tools, folder)
        upstream, port = await asyncio.to_thread(
            lambda: start_upstream(tools, core=CORE, log=folder / "upstream.log", chunks=4)
        )
        try:
            there = provider(f"http://127.0.0.1:{port}/v1", models=[MODEL])
            async with serving({"providers": [there]}, engine=form.engine) as bed:
                await soak(bed, form, tools, verdict)
        finally:
            stop(upstream)
    return verdict


async def soak(bed: Bed, form: Form, tools: Path, verdict: Verdict) -> None:
    """Run the first tenth, then the rest; compare the memory."""
    texts = await asyncio.to_thread(bed.gateway.in_store, lambda store: make_keys(store, form.keys))
    (tools / "keys").write_text("".join(f"{text}\n" for text in texts))
    (tools / "body").write_text(BODY)
    await warm(bed, texts, verdict)
    (worker,) = bed.gateway.children()
    began = time.monotonic()
    tenth = max(form.requests // 10 - form.keys, 1)
    served = form.keys + await load(bed, tools, texts[0], tenth, verdict)
    base = resident_kib(worker)
    samples = [base]
    rest = form.requests - served
    task = asyncio.get_running_loop().create_task(load(bed, tools, texts[0], rest, verdict))
    while not task.done():
        await asyncio.wait([task], timeout=1)
        samples.append(resident_kib(worker))
    served += await task
    rate = (served - form.keys) / (time.monotonic() - began)
    grown = resident_kib(worker) / base - 1
    verdict.require(bed.gateway.children() == [worker], "the worker died")
    verdict.require(grown <= form.growth, f"memory grew by {grown:.1%} after the first tenth")
    await eventually(lambda: recorded(bed, served), 600, "every request is on record")
    verdict.figure = (
        f"{served} requests over {form.keys} keys at {rate:.0f}/s, {grown:+.1%} after the first"
        f" tenth; KiB on the way: {[samples[len(samples) * part // 10] for part in range(10)]}"
    )


async def make_keys(store: Store, count: int) -> list[str]:
    """Make keys, so many in a transaction that it is quick and others still get a turn."""
    texts: list[str] = []
    while len(texts) < count:
        async with store.transaction() as tx:
            for _ in range(min(BATCH, count - len(texts))):
                _, secret = await key_rows.create(tx, name=f"soak-{len(texts)}")
                texts.append(secret.reveal())
    return texts


async def warm(bed: Bed, texts: list[str], verdict: Verdict) -> None:
    """Show each key once."""
    caller = Caller(bed.address)
    request = bed.request(MODEL)
    began = time.monotonic()
    for number, text in enumerate(texts):
        await asyncio.sleep(max(0, began + number / LOADS_A_SECOND - time.monotonic()))
        seen = await caller.ask(request.replace(bed.key.encode(), text.encode()))
        verdict.require(seen.status == 200, f"key {number}: {seen.status} {seen.body[:200]!r}")
    caller.leave()


async def load(bed: Bed, tools: Path, key: str, requests: int, verdict: Verdict) -> int:
    """Drive so many requests; give how many were served."""
    host, port = bed.address
    options = ["--url", f"http://{host}:{port}", "--connections", str(CONNECTIONS)]
    options += ["--requests", str(requests), "--body", str(tools / "body")]
    options += ["--header", f"Authorization: Bearer {key}", "--keys", str(tools / "keys")]
    try:
        figures = await asyncio.to_thread(drive, tools, options, core=CORE, timeout=3600)
    except BenchError as exc:
        verdict.problems.append(str(exc))
        return 0
    verdict.require(not figures["errors"], f"{figures['errors']} errors: {figures}")
    served: int = figures["requests"]
    return served


async def recorded(bed: Bed, count: int) -> bool:
    """Tell whether the database has so many records."""
    told = await asyncio.to_thread(
        bed.gateway.in_store, lambda store: store.fetchval("SELECT count(*) FROM usage_records")
    )
    return told == count


if __name__ == "__main__":
    main(run, LONG, SHORT)
