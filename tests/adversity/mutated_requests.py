"""H-5: mutated requests, and how many answers come back: never more than llhttp counts requests.

No crash, no traceback, no request that llhttp finds whole left without an answer, and a canary in a
process of its own that never waits long. A mutant is known by its number: `--first N --requests 1`
sends it again, and a number that once failed stands in `KEPT` for ever.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import httptools

from tests.adversity.bed import Bed, mocking, nodelay, provider, serving
from tests.adversity.mutation import Mutant, mutant, seeds
from tests.adversity.verdict import Verdict, main
from tests.answers import Answers
from tests.processes import ROOT

KEPT: tuple[int, ...] = ()
SEED = 20261121
HANG_S = 15.0
REFUSAL_S = 1.0
"""For what llhttp refuses: another reader may find it incomplete, and wait."""
QUIET_S = 0.05
"""After the last byte: what llhttp finds incomplete may get no answer at all."""
STALL_MS = 100.0


@dataclass(frozen=True)
class Form:
    """How many mutants, from which number on, how many at a time."""

    requests: int
    first: int
    at_once: int


LONG = Form(requests=200_000, first=0, at_once=128)
SHORT = Form(requests=1_000, first=0, at_once=32)


@dataclass
class Counted:
    """What llhttp makes of some bytes."""

    begun: int = 0
    complete: int = 0
    refused: bool = False
    stray: bool = False
    """Line ends behind the last request, which llhttp skips and a strict reader may refuse."""
    methods: list[str] = field(default_factory=list)


class _Counter:
    """httptools' callbacks."""

    def __init__(self, counted: Counted) -> None:
        self.counted = counted
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.counted.begun += 1

    def on_headers_complete(self) -> None:
        self.counted.methods.append(self.parser.get_method().decode())

    def on_message_complete(self) -> None:
        self.counted.complete += 1


def count(data: bytes) -> Counted:
    """Count requests as llhttp does; behind an upgrade that nobody takes up it goes on."""
    counted = _count(data)
    ends = data.endswith((b"\r", b"\n"))
    counted.stray = ends and _count(data[:-1]).complete == counted.complete
    return counted


def _count(data: bytes) -> Counted:
    counted = Counted()
    while data:
        try:
            _Counter(counted).parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            data = data[exc.args[0] :]
            continue
        except httptools.HttpParserError:
            counted.refused = True
        break
    return counted


@dataclass
class Met:
    """What a mutant met with."""

    answers: Answers
    ending: str
    seconds: float


async def send(bed: Bed, each: Mutant, counted: Counted) -> Met:
    """Send a mutant; listen until all answers that must come are there and then a little longer."""
    methods = counted.methods or ["POST"]
    if each.whole.startswith((b"\r", b"\n")):
        methods = ["POST", *methods[1:]]  # refused, with a body: for us no HEAD has begun
    answers = Answers([*methods, "POST"] if len(methods) < counted.begun else methods)
    started = time.monotonic()
    reader, writer = await asyncio.open_connection(*bed.address)
    try:
        nodelay(writer)
        for number, piece in enumerate(each.pieces):
            if number:
                await asyncio.sleep(0)
            if writer.transport.is_closing():
                break  # refused already
            writer.write(piece)
        while not answers.fault:
            wait = QUIET_S
            if answers.busy or (counted.complete and not answers.answers):
                wait = HANG_S
            elif counted.refused and not answers.answers:
                wait = REFUSAL_S
            try:
                async with asyncio.timeout(wait):
                    data = await reader.read(1 << 16)
            except TimeoutError:
                return Met(answers, "silent", time.monotonic() - started)
            except ConnectionError:
                return Met(answers, "reset", time.monotonic() - started)
            if not data:
                answers.end()
                return Met(answers, "closed", time.monotonic() - started)
            answers.feed(data)
    finally:
        writer.transport.abort()
    return Met(answers, "fault", time.monotonic() - started)


def judge(each: Mutant, counted: Counted, met: Met) -> list[str]:
    """Say what is wrong."""
    name = f"mutant {each.number}"
    found = []
    # Bytes that begin no request may get one refusal.
    if met.answers.count > max(counted.begun + counted.stray, 1):
        found.append(f"{name}: {met.answers.count} answers to {counted.begun} requests")
    if met.answers.fault:
        found.append(f"{name}: {met.answers.fault}")
    if any(answer.status == 500 for answer in met.answers.answers):
        found.append(f"{name}: answered 500")
    if met.ending == "silent" and counted.complete and not met.answers.count:
        found.append(f"{name}: no answer within {HANG_S:.0f} s")
    return found


class Canary:
    """A process that asks for `/healthz` all the time; its own loop has nothing else to do."""

    SCRIPT = """
import socket, sys, time, select
host, port = sys.argv[1], int(sys.argv[2])
worst = count = 0
plug = socket.create_connection((host, port))
while not select.select([sys.stdin], [], [], 0.005)[0]:
    began = time.monotonic()
    plug.sendall(b"GET /healthz HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n")
    assert plug.recv(65536).startswith(b"HTTP/1.1 200")
    worst = max(worst, time.monotonic() - began)
    count += 1
print(worst * 1000, count)
"""

    def __init__(self, bed: Bed) -> None:
        host, port = bed.address
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT, host, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def worst_ms(self) -> float:
        """End it; give the longest it had to wait."""
        told, _ = self._process.communicate("stop\n", timeout=30)
        assert told, "the canary died"
        return float(told.split()[0])


async def run(form: Form) -> Verdict:
    """Send them all."""
    verdict = Verdict("H-5 mutated requests")
    endings: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    async with mocking() as mock:
        config = {"providers": [provider(mock.base_url, models=["mock"])]}
        async with serving(config) as bed:
            sources = seeds(bed.key)
            workers = bed.gateway.children()
            canary = Canary(bed)
            numbers = iter([*KEPT, *range(form.first, form.first + form.requests)])

            async def sender() -> None:
                for number in numbers:
                    each = mutant(sources, SEED, number)
                    counted = count(each.whole)
                    met = await send(bed, each, counted)
                    verdict.problems.extend(judge(each, counted, met))
                    endings[met.ending] += 1
                    totals["answers"] += met.answers.count
                    totals["requests"] += counted.begun

            await asyncio.gather(*(sender() for _ in range(form.at_once)))
            worst = await asyncio.to_thread(canary.worst_ms)
            verdict.require(workers == bed.gateway.children(), "a worker died")
    verdict.in_time(worst <= STALL_MS, f"the canary waited {worst:.0f} ms")
    verdict.figure = (
        f"{endings.total()} mutants, {totals['requests']} requests by llhttp,"
        f" {totals['answers']} answers, {dict(endings)}, canary p100 {worst:.0f} ms"
    )
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
