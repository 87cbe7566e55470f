"""M-15: no database and no room for the journal: paid calls are refused, nothing goes unrecorded.

While the journal can be written the database is not missed. A journal that cannot grow is made by a
limit on the size of the worker's files, which fails its allocations as a full disk does.
"""

from __future__ import annotations

import asyncio
import json
import resource
from dataclasses import dataclass

from tests.adversity.bed import Seen
from tests.adversity.verdict import Verdict, main
from tests.money.books import MODELS, Books, audit, keeping
from tests.waiting import eventually


@dataclass(frozen=True)
class Form:
    """How often the room runs out, and how many calls are made without any."""

    times: int
    refused: int
    callers: int


LONG = Form(times=20, refused=200, callers=8)
SHORT = Form(times=1, refused=10, callers=4)
SEGMENT = 1 << 16


async def run(form: Form) -> Verdict:
    """Take the database away, then the room; give the room back, then the database."""
    verdict = Verdict("M-15 nowhere to write")
    config = {"journal": {"segment_bytes": SEGMENT}, "server": {"workers": 1}}
    async with keeping(own=True, **config) as books:
        await books.start()
        assert books.postgres is not None
        await books.call("first", MODELS[0], stream=False)
        for number in range(form.times):
            await asyncio.to_thread(books.postgres.kill)
            await without_room(books, form, number, verdict)
            await asyncio.to_thread(books.postgres.start_again)
        await eventually(lambda: asyncio.to_thread(ready, books), 30, "ready")
        await books.stop()
        await audit(books, verdict)
    return verdict


async def without_room(books: Books, form: Form, number: int, verdict: Verdict) -> None:
    """Call until there is no room, go on calling, and give the room back."""
    fine = await books.call(f"fine-{number}", MODELS[0], stream=True)
    verdict.require(fine.status == 200, f"without a database: {fine.status} {fine.body[:200]!r}")
    (worker,) = books.gateway.children()
    before = resource.prlimit(worker, resource.RLIMIT_FSIZE)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (SEGMENT // 2, before[1]))
    try:
        await fill_up(books, form, number, verdict)
        refused = [await ask(books, f"late-{number}-{late}") for late in range(form.refused)]
        for seen in refused:
            verdict.require(is_refusal(seen), f"without room: {seen.status} {seen.body[:200]!r}")
        told = json.loads((await asyncio.to_thread(books.gateway.get, "/health"))[1])
        verdict.require("journal cannot grow" in told["reasons"], f"/health says {told}")
    finally:
        resource.prlimit(worker, resource.RLIMIT_FSIZE, before)
    again = [0]

    async def recovered() -> bool:
        again[0] += 1
        return (await ask(books, f"again-{number}-{again[0]}")).status == 200

    await eventually(recovered, 10, "it recovers by itself")
    verdict.figure += f"{len(refused)} refused without room; "
    names = {json.loads(each["body"])["messages"][0]["content"] for each in books.mock.log()}
    asked = [name for name in books.seen if name.startswith("late-") and f"I am {name}" in names]
    verdict.require(not asked, f"served without a line: {asked[:5]}")


async def fill_up(books: Books, form: Form, number: int, verdict: Verdict) -> None:
    """Call until the journal is full."""
    full = False

    async def caller(which: int) -> None:
        nonlocal full
        count = 0
        while not full:
            count += 1
            seen = await ask(books, f"fill-{number}-{which}-{count}")
            full = full or seen.status != 200
            fine = seen.status == 200 or is_refusal(seen)
            verdict.require(fine, f"while it fills: {seen.status} {seen.body[:200]!r}")

    await asyncio.gather(*(caller(which) for which in range(form.callers)))
    # What was kept back for their closing lines is room again, for a few.
    for left in range(100):
        if is_refusal(await ask(books, f"last-{number}-{left}")):
            return
    verdict.problems.append("it never fills up")


async def ask(books: Books, name: str) -> Seen:
    """Ask for something short."""
    return await books.call(name, MODELS[0], stream=False)


def is_refusal(seen: Seen) -> bool:
    """Tell whether it is the refusal that is due."""
    return seen.status == 503 and b'"store_unavailable"' in seen.body


def ready(books: Books) -> bool:
    """Tell whether it serves."""
    return books.gateway.get("/readyz")[0] == 200


if __name__ == "__main__":
    main(run, LONG, SHORT)
