"""M-22: a key that is revoked, expires, or gets a lower limit: in force in all workers within 2 s.

Clients keep asking over connections of their own, so that every worker is asked all the time. What
the store says is the truth from its commit on; who is let in later than 2 s after it fails the row.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fastgw.domain import now_ms
from fastgw.storage import Store
from fastgw.storage.sql import keys, limits
from tests.adversity.bed import Bed, Caller, mocking, provider, serving
from tests.adversity.verdict import Verdict, main
from tests.waiting import eventually

PROMISE_S = 2.0
PATIENCE_S = 15.0
"""A fact, however slow the machine: after this nobody is let in any more."""


@dataclass(frozen=True)
class Form:
    """How many workers, clients of each key, and rounds."""

    workers: int
    clients: int
    rounds: int
    engine: str


LONG = Form(workers=4, clients=16, rounds=20, engine="postgresql")
SHORT = Form(workers=2, clients=6, rounds=1, engine="sqlite")


@dataclass
class Asked:
    """What the clients of one key saw: when they were let in, and what they were told."""

    admitted: list[float] = field(default_factory=list)
    """When the request was sent that was let in."""
    refusals: dict[str, int] = field(default_factory=dict)
    workers: set[int] = field(default_factory=set)


async def revoke(store: Store, key_id: str) -> None:
    await keys.revoke(store, key_id)


async def expire(store: Store, key_id: str) -> None:
    await keys.update(store, key_id, {"expires_at": now_ms()})


async def lower(store: Store, key_id: str) -> None:
    await limits.put(store, scope="key", match=key_id, metric="requests", limit=0)


Change = Callable[[Store, str], Awaitable[None]]
CHANGES: dict[str, tuple[Change, str]] = {
    "revoke": (revoke, "invalid_api_key"),
    "expire": (expire, "expired_api_key"),
    "lower": (lower, "rate_limit_exceeded"),
}


async def run(form: Form) -> Verdict:
    """Change keys under load."""
    verdict = Verdict("M-22 revocations")
    config = {"server": {"workers": form.workers}}
    latest: dict[str, float] = {}
    async with mocking() as mock:
        config["providers"] = [provider(mock.base_url)]  # type: ignore[assignment]
        async with serving(config, engine=form.engine) as bed:
            for number in range(form.rounds):
                after = await asyncio.gather(
                    *(change_one(bed, form, f"{name}-{number}", verdict) for name in CHANGES)
                )
                for name, late in zip(CHANGES, after, strict=True):
                    latest[name] = max(latest.get(name, 0.0), late)
    for name, late in latest.items():
        verdict.in_time(late <= PROMISE_S, f"{name} took {late:.2f} s")
    verdict.figure = "last admitted after " + ", ".join(
        f"{name} {late:.2f} s" for name, late in latest.items()
    )
    return verdict


async def change_one(bed: Bed, form: Form, name: str, verdict: Verdict) -> float:
    """Change one key while its clients ask; give how long after that one was let in."""
    change, code = CHANGES[name.partition("-")[0]]
    text = await asyncio.to_thread(bed.gateway.create_key, name)
    await asyncio.to_thread(bed.gateway.in_store, lambda store: loosen(store, name))
    asked, stop = Asked(), asyncio.Event()
    clients = [
        asyncio.ensure_future(keep_asking(bed, text, asked, stop)) for _ in range(form.clients)
    ]

    def met_all() -> bool:
        return len(asked.admitted) > 10 * form.clients and len(asked.workers) == form.workers

    await eventually(met_all, PATIENCE_S, "requests let in by every worker")

    async def apply(store: Store) -> None:
        await change(store, (await keys.find(store, name)).id)

    await asyncio.to_thread(bed.gateway.in_store, apply)
    changed = time.monotonic()
    # It is quiet once all have been refused for a while; nothing else tells that it stays so.
    while time.monotonic() - max(asked.admitted) < PROMISE_S:
        if time.monotonic() - changed > PATIENCE_S:
            verdict.require(False, f"{name}: still let in after {PATIENCE_S} s")
            break
        await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*clients)
    verdict.require(set(asked.refusals) == {code}, f"{name}: {asked.refusals}")
    return max(asked.admitted) - changed


async def loosen(store: Store, name: str) -> None:
    """Give a key a limit that never refuses, which can be lowered."""
    found = await keys.find(store, name)
    await limits.put(store, scope="key", match=found.id, metric="requests", limit=10**9)


async def keep_asking(bed: Bed, key: str, asked: Asked, stop: asyncio.Event) -> None:
    """Ask over connections that now and then are made anew, so that every worker is met."""
    request = Bed(bed.gateway, key).request("p/mock?chunks=1")
    while not stop.is_set():
        caller = Caller(bed.address)
        told = await caller.get("/health")
        if told.whole:
            asked.workers.add(json.loads(told.body)["worker"])
        for _ in range(10):
            sent = time.monotonic()
            seen = await caller.ask(request)
            if seen.status == 200:
                asked.admitted.append(sent)
            elif seen.whole:
                code = json.loads(seen.body)["error"]["code"]
                asked.refusals[code] = asked.refusals.get(code, 0) + 1
                await asyncio.sleep(0.02)
        caller.leave()


if __name__ == "__main__":
    main(run, LONG, SHORT)
