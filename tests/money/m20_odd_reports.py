"""M-20: prices that change, and usage that is negative, huge, text, cached or thought.

Money is whole nano-dollars all the way: no float in any path. What makes no sense is never credited
and never believed; the price is the one in force when the request began.
"""

from __future__ import annotations

import ast
import asyncio
from dataclasses import dataclass
from pathlib import Path

import fastgw
from fastgw.domain import UsageRecord
from tests.adversity.bed import Seen
from tests.adversity.verdict import Verdict, main
from tests.money.purse import INPUT, OUTPUT, Purse, purse
from tests.waiting import eventually_sync

WORDS = 12
EARLY, LATE = 20, 2
"""Tokens of the stream whose price changes on its way, and of the one after."""
MOCK = f"mock?chunks={WORDS}&cached=2&usage="
REPORTS = ("exact", "more", "less", "none", "null", "huge", "negative", "string", "running")
CACHED = 250_000
"""Pico-dollars of a cached token."""
PATHS = (
    "catalog/cost.py", "catalog/prices.py", "catalog/overrides.py", "_ext/pure/usage.py",
    "flow/account.py", "storage/sql/spend.py",
)  # fmt: skip
TIMES = {"account.py"}
"""Where only times are divided."""


@dataclass(frozen=True)
class Form:
    """How often each report is asked for."""

    times: int


LONG = Form(times=20)
SHORT = Form(times=2)


def floats(text: str, *, times: bool) -> list[int]:
    """Give the lines where a float is made: by a literal, a division, or its name."""
    found = []
    for node in ast.walk(ast.parse(text)):
        literal = isinstance(node, ast.Constant) and isinstance(node.value, float)
        division = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        named = isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"float", "round"}
        if named or ((literal or division) and not times):
            found.append(node.lineno)  # type: ignore[attr-defined]
    return found


def expected(record: UsageRecord, output_pico: int) -> int:
    """Give what a record's own counts cost."""
    plain = record.input_tokens - record.cached_tokens - record.cache_write_tokens
    lines = (plain * INPUT, record.cached_tokens * CACHED, record.output_tokens * output_pico)
    return sum((line + 500) // 1000 for line in lines)


async def ask_all(bought: Purse, form: Form) -> list[Seen]:
    """Have every kind of report, whole and streamed, more than once, so that both lanes serve."""
    bed = await bought.key("key-reports")
    found = []
    for report in REPORTS:
        for number in range(2 * form.times):
            stream = {"stream": True} if number % 2 else {}
            found.append(await bed.chat(f"said-{report}", max_tokens=50, **stream))
    return found


async def change_price(bought: Purse, verdict: Verdict) -> None:
    """Raise a price while a stream is under way, in the fast lane; ask once more after that."""
    bed = await bought.key("key-change")
    await bed.chat("slow", stream=True, max_tokens=1)
    early = asyncio.ensure_future(bed.chat("slow", stream=True, max_tokens=EARLY))
    await asyncio.to_thread(_begun, bought)
    await bought.price("slow", output_pico=3 * OUTPUT)
    await bought.settled_in()
    verdict.require(not early.done(), "the stream was over before the price changed")
    late = await bed.chat("slow", stream=True, max_tokens=LATE)
    verdict.require((await early).whole and late.whole, "a stream did not end")


def _begun(bought: Purse) -> None:
    gateway = bought.bed.gateway
    eventually_sync(lambda: b"fastgw_in_flight 1" in gateway.get("/metrics")[1], 10, "a stream")


async def run(form: Form) -> Verdict:
    """Ask, change, and add up."""
    verdict = Verdict("M-20 odd reports and prices that change")
    models = [
        {"name": f"said-{report}", "deployments": [{"provider": "p", "model": MOCK + report}]}
        for report in REPORTS
    ]
    slow = f"mock?chunks={EARLY}&delay_ms=400"
    models.append({"name": "slow", "deployments": [{"provider": "p", "model": slow}]})
    async with purse(models) as bought:
        await bought.price(*(model["name"] for model in models), cached_pico=CACHED)
        await bought.budget("1.00", match="key-*")
        seen = await ask_all(bought, form)
        await change_price(bought, verdict)
        records = await bought.records(len(seen) + 3)
        overrun = await bought.overrun()
    verdict.require(all(each.status == 200 for each in seen), "not all were served")
    odd = [r for r in records if r.requested_model != "slow"]
    for record in odd:
        what = record.requested_model
        costs = expected(record, OUTPUT)
        verdict.require(type(record.cost_nano) is int, f"{what}: {record.cost_nano!r}")
        verdict.require(record.cost_nano == costs > 0, f"{what}: {record.cost_nano}, not {costs}")
        verdict.require(record.output_tokens <= 2 * WORDS + 1, f"{what}: {record.output_tokens}")
    believed = {r.requested_model for r in odd if r.usage_source == "reported"}
    nonsense = {f"said-{report}" for report in ("huge", "negative", "string", "none", "null")}
    verdict.require(not believed & nonsense, f"believed: {sorted(believed & nonsense)}")
    verdict.require(any(r.cached_tokens for r in odd), "no cached tokens")
    for record in records:
        if record.requested_model == "slow":
            costs = expected(record, 3 * OUTPUT if record.output_tokens == LATE else OUTPUT)
            what = f"{record.output_tokens} tokens around a change of price"
            verdict.require(record.cost_nano == costs, f"{what}: {record.cost_nano}, not {costs}")
    for path in PATHS:
        text = (Path(fastgw.__file__).parent / path).read_text()
        lines = floats(text, times=Path(path).name in TIMES)
        verdict.require(not lines, f"{path} makes floats in lines {lines}")
    verdict.figure = (
        f"{len(odd)} answers with {len(REPORTS)} kinds of reports, {len(believed)} kinds believed,"
        f" overrun {overrun:.6f} USD; a stream across a change of price costs the old one"
    )
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
