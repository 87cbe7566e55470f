"""H-14: kill -9 of one of four workers under load costs its requests in flight, no more."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.adversity.bed import Bed, Caller, Seen, mocking, provider, quantile, serving
from tests.adversity.verdict import Verdict, main
from tests.waiting import eventually

WORKERS = 4


@dataclass(frozen=True)
class Form:
    """How many clients, how long the load lasts on either side of the kill, how often."""

    clients: int
    seconds: float
    kills: int
    engine: str


LONG = Form(clients=64, seconds=5.0, kills=5, engine="postgresql")
SHORT = Form(clients=16, seconds=1.0, kills=1, engine="sqlite")


@dataclass
class Client:
    """What one client went through; `worker` serves its connection."""

    worker: int = -1
    failures: list[tuple[int, Seen]] = field(default_factory=list)
    timed: list[tuple[float, float, int]] = field(default_factory=list)
    """When, how long, served by whom."""


async def run(form: Form) -> Verdict:
    """Kill workers, one after the other."""
    verdict = Verdict("H-14 killed worker")
    async with mocking() as mock:
        config = {"server": {"workers": WORKERS}, "providers": [provider(mock.base_url)]}
        async with serving(config, engine=form.engine) as bed:
            for number in range(form.kills):
                await kill_one(bed, form, number % WORKERS, verdict)
    return verdict


async def kill_one(bed: Bed, form: Form, victim: int, verdict: Verdict) -> None:
    """Load, kill, load."""
    clients = [Client() for _ in range(form.clients)]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(call(bed, client, stop)) for client in clients]
    await asyncio.sleep(form.seconds)
    before = set(bed.gateway.children())
    # Workers are forked in the order of their numbers, and their successors take their places.
    pid = await worker_pid(bed, victim)
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        now = set(bed.gateway.children())
        return len(now) == WORKERS and now != before

    await eventually(replaced, 10, "a new worker")
    respawned = time.monotonic() - killed
    await asyncio.sleep(form.seconds)
    stop.set()
    await asyncio.gather(*tasks)
    await eventually(lambda: serves(bed, victim), 10, "the new worker serves")
    failures = [(worker, seen) for client in clients for worker, seen in client.failures]
    foreign = [worker for worker, _ in failures if worker not in {victim, -1}]
    verdict.require(not foreign, f"requests on other workers failed: {foreign}")
    most = max(len(client.failures) for client in clients)
    verdict.require(most <= 1, f"a client failed {most} times")
    quiet = [took for at, took, _ in timed(clients) if at < killed]
    after = [took for at, took, worker in timed(clients) if at >= killed and worker != victim]
    one, two = quantile(quiet, 0.99), quantile(after, 0.99)
    verdict.in_time(respawned <= 2, f"respawned after {respawned:.1f} s")
    verdict.in_time(two <= 2 * one, f"others' p99 {two * 1000:.1f} ms, {one * 1000:.1f} before")
    verdict.figure += (
        f"{len(failures)} in flight lost of {len(quiet) + len(after)}, respawn {respawned:.2f} s,"
        f" others' p99 {one * 1000:.1f} -> {two * 1000:.1f} ms; "
    )


def timed(clients: list[Client]) -> list[tuple[float, float, int]]:
    """Give the timings of all clients."""
    return [each for client in clients for each in client.timed]


async def call(bed: Bed, client: Client, stop: asyncio.Event) -> None:
    """Ask over one connection until told to stop; learn first which worker it belongs to."""
    caller = Caller(bed.address)
    request = bed.request("p/mock?chunks=2&latency_ms=20")
    while not stop.is_set():
        if client.worker < 0:
            told = await caller.get("/health")
            if not told.whole:
                continue
            client.worker = json.loads(told.body)["worker"]
        began = time.monotonic()
        seen = await caller.ask(request)
        if seen.whole and seen.status == 200:
            client.timed.append((began, seen.seconds, client.worker))
        else:
            client.failures.append((client.worker, seen))
            client.worker = -1
    caller.leave()


async def worker_pid(bed: Bed, number: int) -> int:
    """Find the process of a worker: the one whose end of a connection to it is open."""
    while True:
        reader, writer = await asyncio.open_connection(*bed.address)
        try:
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            if json.loads(await reader.readexactly(size))["worker"] != number:
                continue
            port = writer.get_extra_info("sockname")[1]
            for pid in bed.gateway.children():
                if port in peers(pid, bed.address[1]):
                    return pid
        finally:
            writer.transport.abort()


def peers(pid: int, port: int) -> set[int]:
    """Give the remote ports of a process's connections on a local port."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        link = str(entry.readlink())
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes and int(fields[1].split(":")[1], 16) == port:
            found.add(int(fields[2].split(":")[1], 16))
    return found


async def serves(bed: Bed, number: int) -> bool:
    """Tell whether some new connection is served by this worker."""
    for _ in range(20):
        told = await bed.get("/health")
        if told.whole and json.loads(told.body)["worker"] == number:
            return True
    return False


if __name__ == "__main__":
    main(run, LONG, SHORT)
