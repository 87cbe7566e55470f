"""Where the ledger is tried: a gateway that may die and come back, clients that name their calls,
and the audit that compares what the ledger says with the mock provider's own account.

A call's name travels as `x-request-id`, which is in its record, and in the body, which is in the
mock's account.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastgw.domain import UsageRecord
from fastgw.storage import Store
from fastgw.storage.sql import budgets, usage
from tests import servers
from tests.adversity.bed import CHAT, Seen, ask, make_store, provider
from tests.adversity.verdict import Verdict
from tests.processes import Gateway, Mock

INPUT_PICO, OUTPUT_PICO = 2_000_000, 8_000_000
MODELS = ("mock?chunks=3", "mock?chunks=8&delay_ms=5", "mock?chunks=20&delay_ms=5")
MOST_TOKENS = 64
ROLL_UPS = ("usage_daily", "usage_monthly")


@dataclass
class Books:
    """A gateway on a database that outlives it, and everything that was asked of it."""

    folder: Path
    url: str
    config: dict[str, Any]
    mock: Mock
    postgres: servers.Postgres | None
    """The database's server, where it is this arrangement's own."""
    gateway: Gateway = field(init=False)
    key: str = ""
    seen: dict[str, Seen] = field(default_factory=dict)
    kills: int = 0

    async def start(self, **env: str) -> None:
        """Start the gateway; the first time make its key, its budget and its prices."""
        self.gateway = await asyncio.to_thread(
            Gateway, self.folder, self.url, self.config, env=env or None
        )
        await asyncio.to_thread(self.gateway.ready)
        if not self.key:
            self.key = await asyncio.to_thread(self.gateway.create_key)
            for model in MODELS:
                await asyncio.to_thread(
                    self.gateway.set_price, "p", model,
                    input_pico=INPUT_PICO, output_pico=OUTPUT_PICO,
                )  # fmt: skip
            await asyncio.to_thread(self.gateway.in_store, make_budget)
            await asyncio.sleep(1.5)  # polled each second; nothing tells when it is in force

    async def stop(self, *, clean: bool = True) -> int:
        """End the gateway; it must say that everything is in the store."""
        status = await asyncio.to_thread(self.gateway.stop)
        assert status == 0 or not clean, self.gateway.text
        return status

    async def kill_all(self) -> None:
        """Kill every process of the gateway, as a lost machine does."""
        pids = [self.gateway.pid, *self.gateway.children(), self.gateway.loader()]
        os.kill(self.gateway.pid, signal.SIGSTOP)  # so that it starts nobody meanwhile
        for pid in reversed(pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(self.gateway.wait)
        self.kills += 1

    async def call(self, name: str, model: str, *, stream: bool) -> Seen:
        """Ask once."""
        url = urlsplit(self.gateway.url)
        body = json.dumps(
            {"model": f"p/{model}", "messages": [{"role": "user", "content": f"I am {name}"}],
             "max_tokens": MOST_TOKENS, "stream": stream}
        ).encode()  # fmt: skip
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: gateway.test\r\nauthorization: Bearer {self.key}\r\n"
            f"x-request-id: {name}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        assert url.hostname
        assert url.port
        seen = await ask((url.hostname, url.port), head.encode() + body, patience=20)
        self.seen[name] = seen
        return seen

    async def keep_calling(self, caller: int, seed: int, stop: asyncio.Event) -> None:
        """Call again and again until told to stop, streams and whole answers."""
        dice = random.Random(seed * 1000 + caller)
        number = 0
        while not stop.is_set():
            number += 1
            seen = await self.call(
                f"call-{seed}-{caller}-{number}", dice.choice(MODELS), stream=dice.random() < 0.5
            )
            if seen.status != 200:
                await asyncio.sleep(0.05)  # nobody is there just now


async def make_budget(store: Store) -> None:
    """So much money that it is reserved and never runs out."""
    await budgets.put(store, scope="key", match="*", limit_nano=10**15, period="month")
    await usage.ensure_partitions(store)


@asynccontextmanager
async def keeping(
    *, engine: str = "sqlite", own: bool = False, **config: Any
) -> AsyncIterator[Books]:
    """Make the arrangement; whoever uses it starts and stops the gateway.

    `own`: with a PostgreSQL server of its own, to be killed.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="fastgw-money-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = servers.Postgres() if own else None
        if postgres is not None:
            await asyncio.to_thread(postgres.launch)
            stack.callback(postgres.close)
            url = postgres.dsn
        else:
            url = await asyncio.to_thread(make_store, engine, folder, stack)
        (folder / "mock").mkdir()
        mock = await asyncio.to_thread(Mock, folder / "mock")
        try:
            fast = os.environ.get("FASTGW_LANE") != "standard"
            server = {"fast_lane": fast, "shutdown_grace_s": 5, **config.pop("server", {})}
            whole = {"providers": [provider(mock.base_url)], **config, "server": server}
            yield Books(folder, url, whole, mock, postgres)
        finally:
            await asyncio.to_thread(mock.stop)


# -- the audit ------------------------------------------------------------------------------------


def cost(tokens: dict[str, int]) -> int:
    """Give what so many tokens cost, in nano-dollars."""
    return (tokens["prompt"] * INPUT_PICO + tokens["completion"] * OUTPUT_PICO + 500) // 1000


async def audit(books: Books, verdict: Verdict) -> None:
    """Compare the ledger of a gateway that has ended with the mock's account and with the clients.

    Lost 0: each call that reached the provider has a record. Double 0: none has two. True: a call
    that was relayed whole has its real cost; any other at least what the provider would charge.
    """
    records: list[UsageRecord] = await asyncio.to_thread(books.gateway.records)
    truth = await asyncio.to_thread(books.mock.log)
    by_name: dict[str, list[UsageRecord]] = {}
    for record in records:
        by_name.setdefault(record.request_id, []).append(record)
    verdict.require(len({each.id for each in records}) == len(records), "an id occurs twice")
    for name, found in by_name.items():
        verdict.require(len(found) == 1, f"{name} has {len(found)} records")
    sums = {"held": 0, "whole": 0}
    for exchange in truth:
        name = json.loads(exchange["body"])["messages"][0]["content"].removeprefix("I am ")
        found = by_name.get(name, [])
        verdict.require(found, f"lost: {name} reached the provider and has no record")
        if not found:
            continue
        record, seen = found[0], books.seen.get(name)
        sums["held"] += record.usage_source == "held"
        least = cost(exchange["billed"])
        verdict.require(
            record.cost_nano >= least,
            f"{name}: {record.usage_source} {record.cost_nano}, the provider charges {least}",
        )
        if seen is not None and seen.whole and seen.status == 200:
            sums["whole"] += 1
            exact = cost(exchange["sent"])
            verdict.require(
                (record.usage_source, record.cost_nano, record.status) == ("reported", exact, 200),
                f"{name} came whole: {record.usage_source} {record.cost_nano} {record.status},"
                f" truth {exact}",
            )
    recorded = sum(record.cost_nano for record in records)
    for table in ROLL_UPS:
        rolled = await asyncio.to_thread(
            books.gateway.in_store,
            lambda store, table=table: store.fetchval(  # type: ignore[misc]
                f"SELECT CAST(COALESCE(sum(cost_nano), 0) AS BIGINT) FROM {table}"
            ),
        )
        verdict.require(rolled == recorded, f"{table}: {rolled}, records: {recorded}")
    left = [path.name for path in (books.folder / "fastgw-data/journal").glob("*.*")]
    verdict.require(not left, f"left in the journal: {left}")
    verdict.figure += (
        f"{books.kills} kills, {len(books.seen)} calls, {len(truth)} at the provider,"
        f" {sums['whole']} whole, {sums['held']} held, lost 0, double 0; "
        if not verdict.problems
        else f"{books.kills} kills, {len(books.seen)} calls; "
    )


def state_of(pid: int) -> str:
    """Give the state of a process, "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return ""


async def until(deadline: float) -> None:
    """Wait until a moment of the monotonic clock."""
    await asyncio.sleep(max(0.0, deadline - time.monotonic()))
