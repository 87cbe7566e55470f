"""M-2: a provider that reports more than was reserved, because it takes no notice of a maximum.

It is recorded in full, the budget shows it, the next request is refused; the overrun is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastgw.domain import NANO, usd
from tests.adversity.verdict import Verdict, main
from tests.money.purse import code_of, cost_of, purse

WORDS = 200
MOST = 10
LIMIT = 1_500_000
"""Nano-dollars: enough for what is asked, less than what comes."""


@dataclass(frozen=True)
class Form:
    """How often, whole answers and streams."""

    times: int


LONG = Form(times=20)
SHORT = Form(times=2)


async def run(form: Form) -> Verdict:
    """Ask for ten tokens and get two hundred, each time with another key."""
    verdict = Verdict("M-2 more than was reserved")
    upstream = f"mock-ignore-max?chunks={WORDS}"
    model = {"name": "deaf", "deployments": [{"provider": "p", "model": upstream}]}
    count = 0
    async with purse([model]) as bought:
        await bought.price("deaf")
        await bought.budget(usd(LIMIT), match="key-*")
        for number in range(2 * form.times):
            bed = await bought.key(f"key-{number}")
            fields = {"max_tokens": MOST} | ({"stream": True} if number % 2 else {})
            before = await bought.overrun()
            first = await bed.chat("deaf", **fields)
            verdict.require(first.status == 200 and first.whole, f"answered {first.status}")
            over = await bought.overrun() - before
            count += over > 0
            second = await bed.chat("deaf", **fields)
            refused = (second.status, code_of(second))
            verdict.require(refused == (429, "insufficient_quota"), f"then answered {refused}")
        served = await bought.records(2 * form.times)
        truth = [line["billed"] for line in bought.mock.log() if "ignore" in (line["model"] or "")]
        overrun = await bought.overrun()
    verdict.require(len(truth) == len(served) == 2 * form.times, f"{len(truth)} provider calls")
    wanted = [cost_of(line["prompt"], line["completion"]) for line in truth]
    verdict.require(sorted(r.cost_nano for r in served) == sorted(wanted), "not recorded in full")
    verdict.require(all(cost > LIMIT for cost in wanted), "the mock has kept to the maximum")
    verdict.require(count == 2 * form.times, f"{count} of {2 * form.times} overruns counted")
    most = sum(wanted)
    verdict.require(0 < overrun * NANO < most, f"an overrun of {overrun} USD of {usd(most)}")
    verdict.figure = (
        f"{len(served)} answers of {WORDS} tokens where {MOST} were asked for: {usd(most)} USD"
        f" recorded, {overrun:.6f} USD over, every next request refused"
    )
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
