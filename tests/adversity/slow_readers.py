"""S-5 and S-6: clients that read far more slowly than the provider sends.

What is not read stays with the provider; the gateway's memory does not grow, honest clients beside
them notice nothing, and a client that reads nothing any more is cut off.
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass

from tests.adversity.bed import (
    Bed,
    ask,
    mocking,
    provider,
    quantile,
    resident_kib,
    serving,
)
from tests.adversity.endless import Endless
from tests.adversity.verdict import Verdict, main
from tests.waiting import eventually

BLOCKED = 4 << 20
SIP = 1024
SIP_S = 0.1
"""1 KiB each 100 ms: 10 KiB/s."""


@dataclass(frozen=True)
class Form:
    """Slow and fast readers of S-6, for how long; `stall_s`: S-5 waits so long for the cut."""

    slow: int
    fast: int
    seconds: float
    stall_s: int


LONG = Form(slow=200, fast=200, seconds=20.0, stall_s=90)
SHORT = Form(slow=10, fast=10, seconds=2.0, stall_s=0)


async def run(form: Form) -> Verdict:
    """One slow reader alone, then many among fast ones."""
    verdict = Verdict("S-5 S-6 slow readers")
    timeouts = {"connect_s": 5, "first_byte_s": 60, "idle_s": 600, "total_s": 3600}
    async with Endless(flood=True) as endless, mocking() as mock:
        providers = [
            provider(endless.url + "/v1", name="endless", timeouts=timeouts),
            provider(mock.base_url, name="mock", timeouts=timeouts),
        ]
        async with serving({"providers": providers}) as bed:
            (worker,) = bed.gateway.children()
            for _ in range(3):  # what a worker only makes once
                await bed.chat("mock/mock?chunks=50&chunk_bytes=100000", stream=True)
            await one_slow_reader(bed, endless, worker, form, verdict)
            await many_slow_readers(bed, endless, worker, form, verdict)
    return verdict


class Sipper:
    """A client that asks for a stream and reads 10 KiB of it a second."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self.read = 0
        self.gone = False

    async def start(self) -> None:
        """Ask, with a receive buffer that holds little."""
        plug = socket.socket()
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        plug.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(plug, self._bed.address)
        await loop.sock_sendall(plug, self._bed.request("endless/m", stream=True))
        self._socket = plug

    async def sip(self, seconds: float) -> None:
        """Read slowly for a while."""
        until = time.monotonic() + seconds
        loop = asyncio.get_running_loop()
        while time.monotonic() < until and not self.gone:
            try:
                data = await loop.sock_recv(self._socket, SIP)
            except ConnectionError:
                data = b""
            self.gone = not data
            self.read += len(data)
            await asyncio.sleep(SIP_S)

    def is_cut(self) -> bool:
        """Tell whether the gateway has given up this client, without reading anything."""
        told = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        state = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return bool(told) or state != 1  # 1: established

    def leave(self) -> None:
        """Go."""
        self._socket.close()


async def one_slow_reader(
    bed: Bed, endless: Endless, worker: int, form: Form, verdict: Verdict
) -> None:
    """S-5: bounded, blocked, and cut when it reads nothing any more."""
    first = Sipper(bed)  # what the first stream of a process costs stays, and is not a stream's
    await first.start()
    await first.sip(0.5)
    first.leave()
    await eventually(lambda: not endless.live, 10, "the provider is let go")
    await bed.records(1)  # its tokens are counted behind its back, which costs once as well
    base, sent = resident_kib(worker), endless.sent
    sipper = Sipper(bed)
    await sipper.start()
    await sipper.sip(form.seconds)
    grown = resident_kib(worker) - base
    ahead = endless.sent - sent - sipper.read
    verdict.require(sipper.read > 0 and not sipper.gone, "the slow reader got nothing")
    verdict.require(grown <= 1024, f"one slow reader costs {grown} KiB")
    verdict.require(ahead <= BLOCKED, f"the provider is {ahead / 2**20:.1f} MiB ahead")
    verdict.figure += f"one: {grown} KiB, provider {ahead / 2**20:.2f} MiB ahead"
    if form.stall_s:
        stopped = time.monotonic()
        cut = True
        try:
            await eventually(sipper.is_cut, form.stall_s)
        except AssertionError:
            cut = False
        verdict.require(cut, f"not cut within {form.stall_s} s of not reading")
        verdict.figure += f", cut {cut} after {time.monotonic() - stopped:.0f} s"
    sipper.leave()
    await eventually(lambda: not endless.live, 10, "the provider is let go")
    records = await bed.records(5)
    billed = [record for record in records if record.requested_model == "endless/m"]
    tokens = [record.output_tokens for record in billed]
    verdict.require(len(billed) == 2 and min(tokens) > 0, f"billed {tokens}")
    verdict.figure += f", billed {tokens} tokens; "


async def many_slow_readers(
    bed: Bed, endless: Endless, worker: int, form: Form, verdict: Verdict
) -> None:
    """S-6: fast clients beside slow ones."""
    quiet = await fast_readers(bed, form)
    base = resident_kib(worker)
    sippers = [Sipper(bed) for _ in range(form.slow)]
    for sipper in sippers:
        await sipper.start()
    loop = asyncio.get_running_loop()
    sipping = [loop.create_task(sipper.sip(form.seconds + 5)) for sipper in sippers]
    await eventually(lambda: len(endless.live) == form.slow, 30, "all slow readers are served")
    busy = await fast_readers(bed, form)
    grown = resident_kib(worker) - base
    await asyncio.gather(*sipping)
    lost = sum(sipper.gone for sipper in sippers)
    for sipper in sippers:
        sipper.leave()
    await eventually(lambda: not endless.live, 30, "the provider is let go")
    one, two = quantile(quiet, 0.99), quantile(busy, 0.99)
    verdict.require(grown <= 64 * 1024, f"{form.slow} slow readers cost {grown} KiB")
    verdict.require(not lost, f"{lost} slow readers were cut")
    verdict.in_time(two <= 2 * one, f"gaps p99 {two * 1000:.1f} ms, quiet {one * 1000:.1f}")
    verdict.figure += (
        f"{form.slow} slow: {grown} KiB, {form.fast} fast: gaps p99 {one * 1000:.1f} ->"
        f" {two * 1000:.1f} ms"
    )


async def fast_readers(bed: Bed, form: Form) -> list[float]:
    """Read paced streams; give the times between reads."""
    chunks = int(form.seconds * 1000 / 50)
    request = bed.request(f"mock/mock?chunks={chunks}&delay_ms=50", stream=True)
    seen = await asyncio.gather(*(ask(bed.address, request, gaps=True) for _ in range(form.fast)))
    assert all(one.whole for one in seen), [one.ending for one in seen if not one.whole]
    return [gap for one in seen for gap in one.gaps[1:]]


if __name__ == "__main__":
    main(run, LONG, SHORT)
