"""S-7: thousands of streams that are silent: what each costs, and what others notice of them."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.adversity.bed import (
    Bed,
    Caller,
    lift_descriptors,
    provider,
    quantile,
    resident_kib,
    serving,
)
from tests.adversity.verdict import Verdict, main
from tests.processes import ROOT
from tests.server.certificates import Authority
from tests.waiting import eventually

ASKED = 300
DIALLING = 50
SLOWER_S = 0.020


@dataclass(frozen=True)
class Form:
    """`kib`: what a stream may cost; `kept`: what may stay of the growth, a share of the base."""

    streams: int
    workers: int
    tls: int
    kib: float
    kept: float


LONG = Form(streams=8000, workers=1, tls=0, kib=6.0, kept=0.2)
SHORT = Form(streams=200, workers=1, tls=0, kib=100.0, kept=0.5)


@contextmanager
def silent_provider() -> Iterator[str]:
    """Run a provider of silent streams; descriptors are per process, so it has one of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.adversity.endless"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin
    assert process.stdout
    with process.stdin, process.stdout:
        yield process.stdout.readline().strip()
    process.wait(20)


class Idler(asyncio.Protocol):
    """A client that asks for a stream and is content with its first event."""

    def __init__(self, request: bytes, begun: asyncio.Future[None]) -> None:
        self._request = request
        self._begun = begun
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if b"hello" in data and not self._begun.done():
            self._begun.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._begun.done():
            self._begun.set_exception(ConnectionError("the stream ended before it began"))


async def run(form: Form) -> Verdict:
    """Open them all, ask beside them, close them all."""
    verdict = Verdict("S-7 idle streams")
    lift_descriptors()
    timeouts = {"connect_s": 10, "first_byte_s": 60, "idle_s": 3600, "total_s": 3600}
    with silent_provider() as url, tempfile.TemporaryDirectory() as folder:
        server: dict[str, Any] = {"workers": form.workers}
        tls = None
        if form.tls:
            authority = Authority(Path(folder))
            chain, key = authority.issue("server")
            server["tls"] = {"cert": chain, "key": key}
            os.environ["SSL_CERT_FILE"] = authority.file  # for who asks whether it is ready
            tls = ssl.create_default_context(cafile=authority.file)
        config = {"server": server, "providers": [provider(url + "/v1", timeouts=timeouts)]}
        async with serving(config) as bed:
            await measure(bed, form, tls, verdict)
    return verdict


async def measure(bed: Bed, form: Form, tls: ssl.SSLContext | None, verdict: Verdict) -> None:
    """Take memory and latencies without the streams, beside them, and after them."""
    workers = bed.gateway.children()
    for idler in await open_streams(bed, 20 * form.workers, tls):  # what a worker only makes once
        idler.transport.abort()
    await eventually(lambda: in_flight(bed, tls, 0), 30)
    quiet = await latencies(bed, tls)
    base = sum(map(resident_kib, workers))
    idlers = await open_streams(bed, form.streams, tls)
    cost = (sum(map(resident_kib, workers)) - base) / form.streams
    busy = await latencies(bed, tls)
    for idler in idlers:
        idler.transport.abort()
    await eventually(lambda: in_flight(bed, tls, 0), 60, "all streams are closed")
    after = sum(map(resident_kib, workers))
    one, two = quantile(quiet, 0.99), quantile(busy, 0.99)
    verdict.require(cost <= form.kib, f"{cost:.1f} KiB a stream, wanted {form.kib:g}")
    verdict.require(after <= base * (1 + form.kept), f"{after} KiB after all, {base} before")
    verdict.in_time(two <= one + SLOWER_S, f"p99 {two * 1000:.1f} ms, quiet {one * 1000:.1f}")
    verdict.figure = (
        f"{form.streams} streams over {form.workers} workers{' under TLS' if tls else ''}:"
        f" {cost:.1f} KiB each, p99 of others {one * 1000:.1f} -> {two * 1000:.1f} ms,"
        f" {base} -> {after} KiB after"
    )


async def open_streams(bed: Bed, count: int, tls: ssl.SSLContext | None) -> list[Idler]:
    """Open streams, a few at a time; each has begun when this returns."""
    loop = asyncio.get_running_loop()
    request = bed.request("p/m", stream=True)
    gate = asyncio.Semaphore(DIALLING)

    async def one() -> Idler:
        async with gate:
            begun: asyncio.Future[None] = loop.create_future()
            host, port = bed.address
            name = host if tls is not None else None
            _, idler = await loop.create_connection(
                lambda: Idler(request, begun), host, port, ssl=tls, server_hostname=name
            )
            await begun
            return idler

    return await asyncio.gather(*(one() for _ in range(count)))


async def in_flight(bed: Bed, tls: ssl.SSLContext | None, count: int) -> bool:
    """Tell whether so many exchanges live in all workers."""
    caller = Caller(bed.address, tls)
    metrics = (await caller.get("/metrics")).body.decode()
    caller.leave()
    return f"\nfastgw_in_flight {count}.0" in metrics


async def latencies(bed: Bed, tls: ssl.SSLContext | None) -> list[float]:
    """Ask for something small, again and again."""
    caller = Caller(bed.address, tls)
    took = [(await caller.get("/healthz")).seconds for _ in range(ASKED)]
    caller.leave()
    return took[10:]


if __name__ == "__main__":
    main(run, LONG, SHORT)
