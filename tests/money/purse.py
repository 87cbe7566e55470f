"""What scripts about budgets share: a gateway in front of the mock, prices, budgets, spend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastgw.domain import NANO, UsageRecord
from fastgw.storage import Store
from fastgw.storage.sql import budgets, models
from tests.adversity.bed import Bed, Caller, Seen, mocking, provider, serving
from tests.processes import Mock
from tests.waiting import eventually

INPUT = 2_500_000
OUTPUT = 10_000_000
"""Pico-dollars a token: 2.50 and 10 USD a million."""
CEILING = 128_000


@dataclass
class Purse:
    """A running gateway, its provider, and who asks."""

    bed: Bed
    mock: Mock
    probes: int = field(default=0)

    async def price(self, *names: str, provider: str = "", **picos: int) -> None:
        """Set what models cost."""
        values = {"input_pico": INPUT, "output_pico": OUTPUT, "max_output_tokens": CEILING, **picos}

        async def put(store: Store) -> None:
            for name in names:
                await models.put(store, provider, name, **values)

        await asyncio.to_thread(self.bed.gateway.in_store, put)

    async def budget(self, usd: str, **values: Any) -> None:
        """Give a budget; it is in force when this returns, and all that was set before."""
        limit = int(float(usd) * NANO)
        made = {"scope": "key", "period": "total", **values, "limit_nano": limit}
        await asyncio.to_thread(self.bed.gateway.in_store, lambda store: budgets.put(store, **made))
        await self.settled_in()

    async def settled_in(self) -> None:
        """Wait until the gateway goes by what the store says now."""
        self.probes += 1
        name = f"probe-{self.probes}"
        key = await asyncio.to_thread(self.bed.gateway.create_key, name)
        probe = {"scope": "key", "match": name, "limit_nano": 0, "period": "month"}
        await asyncio.to_thread(
            self.bed.gateway.in_store, lambda store: budgets.put(store, **probe)
        )
        request = Bed(self.bed.gateway, key).request("probe", max_tokens=1)

        async def refused() -> bool:
            caller = Caller(self.bed.address)
            try:
                return (await caller.ask(request)).status == 429
            finally:
                caller.leave()

        await eventually(refused, 30)

    async def key(self, name: str) -> Bed:
        """Give the gateway as a new key sees it."""
        return Bed(self.bed.gateway, await asyncio.to_thread(self.bed.gateway.create_key, name))

    async def overrun(self) -> float:
        """Give what `fastgw_overrun_usd_total` says."""
        text = (await self.bed.get("/metrics")).body.decode()
        line = next(x for x in text.splitlines() if x.startswith("fastgw_overrun_usd_total "))
        return float(line.split()[1])

    async def records(self, least: int) -> list[UsageRecord]:
        """Give the records of what was served, but for the probes, once there are so many."""

        def ours(records: Sequence[UsageRecord]) -> list[UsageRecord]:
            return [r for r in records if r.requested_model != "probe" and r.status == 200]

        found: list[UsageRecord] = []

        async def enough() -> bool:
            found[:] = ours(await asyncio.to_thread(self.bed.gateway.records, 0))
            return len(found) >= least

        await eventually(enough, 60, f"{least} records")
        return found


@asynccontextmanager
async def purse(
    models: Sequence[dict[str, Any]] = (), *, mock_options: Sequence[str] = (), **sections: Any
) -> AsyncIterator[Purse]:
    """Serve the mock through a gateway; the model `probe` has a price and no other use."""
    async with mocking(*mock_options) as mock:
        probe = {"name": "probe", "deployments": [{"provider": "p", "model": "mock?chunks=1"}]}
        config = {
            "providers": [provider(mock.base_url)],
            "models": [probe, *models],
            **sections,
        }
        async with serving(config) as bed:
            made = Purse(bed, mock)
            await made.price("probe")
            yield made


def code_of(seen: Seen) -> str:
    """Give the code of an error answer."""
    try:
        return str(json.loads(seen.body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def cost_of(prompt: int, completion: int) -> int:
    """Give nano-dollars, as the prices above say."""
    return (prompt * INPUT + 500) // 1000 + (completion * OUTPUT + 500) // 1000


def usage_of(seen: Seen) -> dict[str, int] | None:
    """Give the usage that a stream or an answer told."""
    for event in reversed(seen.body.split(b"\n\n")):
        if b'"usage":{' in event:
            payload: dict[str, Any] = json.loads(event.removeprefix(b"data: "))
            usage: dict[str, int] = payload["usage"]
            return usage
    return None
