"""M-11: an `Idempotency-Key` is one provider call, one charge, one answer, also after kill -9.

A hundred duplicates at once over several workers, then the same after every process was killed. A
call that was under way at the kill is lost with its process: who asks again is answered afresh.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.adversity.bed import CHAT, Seen, ask, make_store, mocking, provider
from tests.adversity.verdict import Verdict, main
from tests.processes import Gateway, Mock
from tests.waiting import eventually

MODEL = "p/mock?chunks=4&delay_ms=20"
SLOW = "p/mock?chunks=2&latency_ms=4000"


@dataclass(frozen=True)
class Form:
    """How many names, how many duplicates of each at once, how many workers."""

    names: int
    duplicates: int
    workers: int
    engine: str


LONG = Form(names=40, duplicates=100, workers=4, engine="postgresql")
SHORT = Form(names=2, duplicates=100, workers=2, engine="sqlite")


@dataclass
class Place:
    """A gateway that can be killed and started again on the same database."""

    folder: Path
    url: str
    config: dict[str, Any]
    gateway: Gateway

    async def kill(self) -> None:
        """Kill every process of it, and start it again."""
        os.kill(self.gateway.pid, signal.SIGSTOP)  # so that it starts nobody meanwhile
        for pid in [*self.gateway.children(), self.gateway.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(self.gateway.wait)
        self.gateway = await asyncio.to_thread(Gateway, self.folder, self.url, self.config)
        await asyncio.to_thread(self.gateway.ready)

    async def ask(self, key: str, name: str, *, stream: bool = False, model: str = MODEL) -> Seen:
        """Ask under a name, on a connection of its own."""
        content = [{"role": "user", "content": f"this is {name}"}]
        body = json.dumps({"model": model, "messages": content, "stream": stream}).encode()
        named = f"idempotency-key: {name}\r\n" if name else ""
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: gateway.test\r\nauthorization: Bearer {key}\r\n"
            f"{named}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        url = urlsplit(self.gateway.url)
        assert url.hostname
        assert url.port
        return await ask((url.hostname, url.port), head.encode() + body)


@asynccontextmanager
async def placing(form: Form, mock: Mock) -> AsyncIterator[Place]:
    """Start a gateway; it must end cleanly."""
    fast = os.environ.get("FASTGW_LANE") != "standard"
    config = {
        "server": {"workers": form.workers, "fast_lane": fast},
        "providers": [provider(mock.base_url)],
    }
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="fastgw-money-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        url = await asyncio.to_thread(make_store, form.engine, folder, stack)
        gateway = await asyncio.to_thread(Gateway, folder, url, config)
        await asyncio.to_thread(gateway.ready)
        place = Place(folder, url, config, gateway)
        try:
            yield place
        finally:
            status = await asyncio.to_thread(place.gateway.stop)
        assert status == 0, place.gateway.text
        assert "Traceback" not in place.gateway.text, place.gateway.text


async def run(form: Form) -> Verdict:
    """Ask again and again, and count the provider's calls."""
    verdict = Verdict("M-11 idempotency")
    async with mocking() as mock, placing(form, mock) as place:
        key = await asyncio.to_thread(place.gateway.create_key)
        other = await asyncio.to_thread(place.gateway.create_key, "other")
        price = {"input_pico": 10**6, "output_pico": 10**6}
        await asyncio.to_thread(place.gateway.set_price, "p", MODEL.removeprefix("p/"), **price)
        await eventually(lambda: priced(place, key), 10, "a price in force")
        first: dict[str, Seen] = {}
        for number in range(form.names):
            name, stream = f"name-{number}", bool(number % 2)
            seen = await asyncio.gather(
                *(place.ask(key, name, stream=stream) for _ in range(form.duplicates))
            )
            first[name] = seen[0]
            one_answer(verdict, name, seen)
        named = await asyncio.to_thread(calls, mock)
        verdict.require(set(named.values()) == {1}, f"calls before the kill: {named}")
        ids = Counter(label(seen) for seen in first.values())

        def charged() -> bool:
            records = place.gateway.records()
            return Counter(r.id for r in records if r.id in ids and r.cost_nano) == ids

        await eventually(lambda: asyncio.to_thread(charged), 10, "one charge for each name")
        await place.kill()
        for number, (name, before) in enumerate(first.items()):
            again = await place.ask(key, name, stream=bool(number % 2))
            one_answer(verdict, f"{name} after the kill", [before, again])
            wrong = await place.ask(key, name, stream=not number % 2)
            verdict.require(wrong.status == 422, f"another body: {wrong.status}")
        verdict.require(await asyncio.to_thread(calls, mock) == named, "asked again after the kill")
        foreign = await place.ask(other, "name-0")
        verdict.require(
            foreign.status == 200 and label(foreign) != label(first["name-0"]),
            "another key got a foreign answer",
        )
        lost = await lose_one(place, mock, key)
        verdict.require(lost.status == 200, f"after a lost call: {lost.status} {lost.body!r}")
        again = await place.ask(key, "lost", model=SLOW)
        one_answer(verdict, "lost", [lost, again])
    verdict.figure = (
        f"{form.names} names x {form.duplicates} at once: {sum(named.values())} provider calls, "
        f"{len(ids)} charges, {form.names} replayed after kill -9"
    )
    return verdict


async def priced(place: Place, key: str) -> bool:
    """Tell whether calls cost something already; these have no name."""
    seen = await place.ask(key, "")
    assert seen.answer is not None
    return "x-fastgw-cost" in dict(seen.answer.headers)


async def lose_one(place: Place, mock: Mock, key: str) -> Seen:
    """Kill the gateway while a first request is under way; ask again."""
    asking = asyncio.ensure_future(place.ask(key, "lost", model=SLOW))

    def claimed() -> bool:
        sql = "SELECT count(*) FROM kept_answers WHERE status IS NULL"
        return bool(place.gateway.in_store(lambda store: store.fetchval(sql)))

    await eventually(lambda: asyncio.to_thread(claimed), 10, "a claim")
    await place.kill()
    await asking
    return await place.ask(key, "lost", model=SLOW)


def one_answer(verdict: Verdict, name: str, seen: list[Seen]) -> None:
    """All got the same, whole."""
    verdict.require(all(one.whole for one in seen), f"{name}: cut short")
    told = {(one.status, one.body, label(one)) for one in seen}
    verdict.require(len(told) == 1 and seen[0].status == 200, f"{name}: {len(told)} answers")


def label(seen: Seen) -> str:
    """Give whose answer it is."""
    assert seen.answer is not None
    return dict(seen.answer.headers).get("x-fastgw-id", "")


def calls(mock: Mock) -> Counter[str]:
    """Count the provider's calls by what they say."""
    said = (json.loads(line["body"])["messages"][0]["content"] for line in mock.log())
    return Counter(text for text in said if "name" in text)


if __name__ == "__main__":
    main(run, LONG, SHORT)
