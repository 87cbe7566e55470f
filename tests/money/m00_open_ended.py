"""No maximum is the normal case: a dollar for streams that say nothing of how long they get.

100 clients stream answers of 50 to 1,500 tokens from a model whose ceiling is 128,000, without
max_tokens, until the budget is used up. At least 95 % of it is used, nothing is overspent, and
nobody is refused while what is settled and one slice for each open stream leave room.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from fastgw.domain import NANO, usd
from tests.adversity.bed import Bed, Caller
from tests.adversity.verdict import Verdict, main
from tests.money.purse import INPUT, OUTPUT, Purse, code_of, cost_of, purse, usage_of

SLICE = 2_048
LENGTHS = [50 + round(step * 1_450 / 99) for step in range(100)]
MODEL = "open-ended"
PROMPT = 100
"""Tokens that a prompt of three words is never reserved more for."""
HELD = cost_of(PROMPT, SLICE)
"""What an open stream holds at most while it has not come to the end of its first slice."""


@dataclass(frozen=True)
class Form:
    """So many dollars, one after the other, for so many clients; pause between tokens."""

    runs: int
    clients: int
    delay_ms: float


LONG = Form(runs=10, clients=100, delay_ms=2.0)
SHORT = Form(runs=1, clients=100, delay_ms=0.5)


@dataclass
class Crowd:
    """What all clients of one key know together."""

    bed: Bed
    settled: int = 0
    open: int = 0
    begun: int = 0
    served: int = 0
    refused: int = 0
    waited: int = 0
    wrong: list[str] = field(default_factory=list)
    turned: asyncio.Event = field(default_factory=asyncio.Event)

    async def client(self) -> None:
        """Ask again and again, and wait for others where that helps."""
        caller = Caller(self.bed.address)
        request = self.bed.request(MODEL, stream=True, stream_options={"include_usage": True})
        try:
            while True:
                settled, begun = self.settled, self.begun
                others = self.open
                self.open += 1
                self.begun += 1
                seen = await caller.ask(request)
                self.open -= 1
                if seen.status == 200:
                    self.finish(seen.whole, usage_of(seen))
                    continue
                # Whatever was open at any time meanwhile may have held a slice.
                most = settled + (others + self.begun - begun - 1) * HELD
                if most + HELD <= NANO:
                    self.wrong.append(f"refused while {usd(NANO - most)} USD were free")
                if code_of(seen) != "budget_reserved":
                    self.refused += 1
                    if code_of(seen) != "insufficient_quota":
                        self.wrong.append(f"refused with {seen.status} {code_of(seen)}")
                    return
                self.waited += 1
                await self.turned.wait()
        finally:
            caller.leave()

    def finish(self, whole: bool, usage: dict[str, int] | None) -> None:
        """Count a stream that has ended, and let those that wait try again."""
        self.served += 1
        if not whole or usage is None:
            self.wrong.append("a stream without its end")
        else:
            self.settled += cost_of(usage["prompt_tokens"], usage["completion_tokens"])
        self.turned.set()
        self.turned = asyncio.Event()


async def spend(purse: Purse, form: Form, number: int) -> Crowd:
    """Have a new key's dollar spent."""
    crowd = Crowd(await purse.key(f"key-{number}"))
    await asyncio.gather(*(crowd.client() for _ in range(form.clients)))
    return crowd


async def run(form: Form) -> Verdict:
    """Spend some dollars."""
    verdict = Verdict("no maximum is the normal case")
    deployments = [
        {"provider": "p", "model": f"mock?chunks={length}&delay_ms={form.delay_ms}"}
        for length in LENGTHS
    ]
    model = {"name": MODEL, "deployments": deployments}
    async with purse([model]) as bought:
        await bought.price(MODEL)
        await bought.budget("1.00", match="key-*")
        crowds = [await spend(bought, form, number) for number in range(form.runs)]
        served = sum(crowd.served for crowd in crowds)
        records = await bought.records(served)
        truth = [line for line in bought.mock.log() if "delay_ms" in (line["model"] or "")]
        overrun = await bought.overrun()
    spent: dict[str, int] = {}
    for record in records:
        spent[record.key_id or ""] = spent.get(record.key_id or "", 0) + record.cost_nano
    for crowd in crowds:
        verdict.problems += crowd.wrong[:5]
    least, most = min(spent.values()), max(spent.values())
    asked = sum(cost_of(line["billed"]["prompt"], line["billed"]["completion"]) for line in truth)
    cut = sum(record.usage_source != "reported" for record in records)
    verdict.require(len(spent) == form.runs, f"{len(spent)} keys have spent")
    verdict.require(most <= NANO, f"{usd(most)} USD spent of one")
    verdict.require(least >= 0.95 * NANO, f"only {usd(least)} USD used of one")
    verdict.require(overrun == 0, f"an overrun of {overrun} USD")
    verdict.require(len(truth) == served, f"{len(truth)} calls of the provider, {served} served")
    if not cut:
        verdict.require(asked == sum(spent.values()), "the records are not what was used")
    verdict.figure = (
        f"{form.runs} x 1 USD, {form.clients} clients: {served} streams,"
        f" {least / NANO:.1%} to {most / NANO:.1%} used, overshoot {max(most - NANO, 0)},"
        f" {sum(c.waited for c in crowds)} waits, {cut} cut"
    )
    return verdict


assert HELD == cost_of(PROMPT, SLICE) == PROMPT * INPUT // 1000 + SLICE * OUTPUT // 1000

if __name__ == "__main__":
    main(run, LONG, SHORT)
