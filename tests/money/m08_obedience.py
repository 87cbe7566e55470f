"""M-8: a sole client that obeys `x-ratelimit-*` and `retry-after` is never refused again.

Each client has a key, and a limit, of its own. One sends only what is left and waits for `reset`;
the other sends until it is refused, waits for `retry-after`, and must be let in.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

from tests.adversity.bed import Bed, Caller, Seen, mocking, provider, serving
from tests.adversity.verdict import Verdict, main

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
LANES = ("fast", "standard")
RULES = {
    "window": {"limit": 6, "window_s": 2},
    "bucket": {"limit": 8, "window_s": 2, "algorithm": "token_bucket", "burst": 3},
    "tokens": {"metric": "tokens", "limit": 200, "window_s": 2},
    "tokenbucket": {
        "metric": "tokens", "limit": 300, "window_s": 2, "algorithm": "token_bucket", "burst": 250,
    },
    "stack": {"limit": 4, "window_s": 1},
    "stack*": {"limit": 9, "window_s": 3},
}  # fmt: skip
"""Which keys (by a pattern of their names), and which limit."""
MODEL = "p/mock?chunks=1"
TOKENS = 60
"""More than one request may use: the maximum it names, and its prompt."""


@dataclass(frozen=True)
class Form:
    """How long each client goes on."""

    seconds: float
    engine: str


LONG = Form(seconds=40, engine="postgresql")
SHORT = Form(seconds=4, engine="sqlite")


@dataclass
class Client:
    """What one client went through."""

    name: str
    served: int = 0
    refused: int = 0
    problem: str = ""


async def run(form: Form) -> Verdict:
    """Serve obedient clients on both lanes."""
    verdict = Verdict("M-8 obedience")
    rules = [{"scope": "key", "match": f"{name.rstrip('*')}-*", "metric": "requests"} | rule
             for name, rule in RULES.items()]  # fmt: skip
    figures = []
    async with mocking() as mock:
        for lane in LANES:
            config = {"providers": [provider(mock.base_url)], "limits": {"defaults": rules}}
            async with serving(config, engine=form.engine, fast=lane == "fast") as bed:
                names = [name for name in RULES if not name.endswith("*")]
                clients = await asyncio.gather(
                    *(obey(bed, f"{name}-obeys", form.seconds) for name in names),
                    *(knock(bed, f"{name}-knocks", form.seconds) for name in names),
                )
            for client in clients:
                verdict.require(not client.problem, f"{lane} {client.name}: {client.problem}")
                verdict.require(client.served > 3, f"{lane} {client.name}: {client.served} served")
            obeying = [client for client in clients if client.name.endswith("obeys")]
            knocking = [client for client in clients if client.name.endswith("knocks")]
            verdict.require(
                all(client.refused for client in knocking), "somebody was never refused"
            )
            figures.append(
                f"{lane} lane: {sum(c.served for c in obeying)} requests that obeyed, "
                f"{sum(c.refused for c in obeying)} refused; "
                f"{sum(c.refused for c in knocking)} refused and let in after retry-after"
            )
    verdict.figure = ", ".join(figures)
    return verdict


async def obey(bed: Bed, name: str, seconds: float) -> Client:
    """Send only what is left; else wait for `reset`."""
    client, caller = Client(name), Caller(bed.address)
    request = await request_of(bed, name)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        seen = await caller.ask(request)
        if seen.status != 200:
            client.refused += 1
            client.problem = f"refused after {client.served}: {seen.body!r}"
            break
        client.served += 1
        told = fields(seen)
        client.problem = client.problem or doubts(told)
        await asyncio.sleep(wait_of(told))
    caller.leave()
    return client


async def knock(bed: Bed, name: str, seconds: float) -> Client:
    """Send until refused, then wait as long as one is told to, once."""
    client, caller = Client(name), Caller(bed.address)
    request = await request_of(bed, name)
    ends = time.monotonic() + seconds
    waited = False
    while time.monotonic() < ends or waited:
        seen = await caller.ask(request)
        if seen.status == 200:
            client.served += 1
            waited = False
            continue
        client.refused += 1
        told = fields(seen)
        if seen.status != 429 or "retry-after" not in told or waited:
            client.problem = f"{seen.status} after waiting: {waited}; {told}"
            break
        await asyncio.sleep(told["retry-after"])
        waited = True
    caller.leave()
    return client


async def request_of(bed: Bed, name: str) -> bytes:
    """Give the request of a new key."""
    key = await asyncio.to_thread(bed.gateway.create_key, name)
    return Bed(bed.gateway, key).request(MODEL, max_tokens=20)


def fields(seen: Seen) -> dict[str, float]:
    """Give what the headers say, times in seconds."""
    assert seen.answer is not None
    told = {}
    for name, value in seen.answer.headers:
        if name == "retry-after":
            told[name] = float(value)
        elif name.startswith("x-ratelimit-reset-"):
            parts = re.findall(r"([0-9.]+)(ms|h|m|s)", value)
            told[name] = sum(float(number) * UNITS[unit] for number, unit in parts)
        elif name.startswith("x-ratelimit-"):
            told[name] = float(value)
    return told


def wait_of(told: dict[str, float]) -> float:
    """Give how long somebody waits who obeys."""
    wait = 0.0
    for metric, needs in (("requests", 1), ("tokens", TOKENS)):
        if told.get(f"x-ratelimit-remaining-{metric}", needs) < needs:
            wait = max(wait, told[f"x-ratelimit-reset-{metric}"])
    return wait


def doubts(told: dict[str, float]) -> str:
    """Say what cannot be true."""
    for metric in ("requests", "tokens"):
        left = told.get(f"x-ratelimit-remaining-{metric}", 0)
        if left > told.get(f"x-ratelimit-limit-{metric}", 0):
            return f"more is left than there can be: {told}"
    return "" if len(told) >= 3 else f"headers are missing: {told}"


if __name__ == "__main__":
    main(run, LONG, SHORT)
