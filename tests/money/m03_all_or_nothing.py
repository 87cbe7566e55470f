"""M-3: five stacked limits and two budgets, one of which refuses: the others are left unchanged.

The flow's own meters, in both builds' semantics: counters of all are compared before and after.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from fastgw._ext import limits
from fastgw.domain import Principal
from fastgw.flow.limits import Limiter
from fastgw.flow.rules import Rule, Rules
from tests.adversity.verdict import Verdict, main

START = 1_790_000_000_000_000
SCOPES = {
    "key": "key_1", "user": "user_1", "team": "team_1", "model": "m", "global": "*",
}  # fmt: skip
METRICS = ("requests", "tokens", "concurrent")


@dataclass(frozen=True)
class Form:
    """How many requests are refused."""

    runs: int
    seed: int = 3


LONG = Form(runs=100_000)
SHORT = Form(runs=1_000)


def rules(random_: random.Random, tight: str) -> list[Rule]:
    """Give a limit for each scope, of any metric and algorithm, and two budgets; one is tight."""
    made = []
    for scope, match in SCOPES.items():
        metric = random_.choice(METRICS)
        made.append(
            Rule(
                id=scope,
                scope=scope,
                match=match,
                metric=metric,
                limit=0 if scope == tight else 10**9,
                window_s=random_.choice((1, 60, 86_400)),
                algorithm=random_.choice(("sliding_window", "token_bucket")),
            )
        )
    for period, scope in (("day", "key"), ("month", "team")):
        made.append(
            Rule(
                id=period,
                scope=scope,
                match=SCOPES[scope],
                metric="money",
                limit=0 if period == tight else 10**15,
                period=period,
            )
        )
    return made


def state(guard: limits.Guard, now: int) -> list[tuple[int, ...]]:
    """Give what every meter holds."""
    found = []
    for meter in guard.meters:
        more = (meter.spent, meter.reserved) if isinstance(meter, limits.Budget) else ()
        found.append((meter.remaining(now), *more))
    return found


async def run(form: Form) -> Verdict:
    """Refuse many, and extend some that are refused more."""
    verdict = Verdict("M-3 all or nothing")
    random_ = random.Random(form.seed)
    who = Principal(key_id="key_1", name="mine", user_id="user_1", team_id="team_1")
    now, extended = START, 0
    for number in range(form.runs):
        tight = random_.choice([*SCOPES, "day", "month"])
        limiter = Limiter(Rules(rules(random_, tight)))
        guard = limiter.guard(who, "m", ["p"], {})
        by_id = {meter.rule.id: meter for meter in guard.meters}
        now += random_.randrange(10**6)
        tokens, nano = random_.randrange(1, 5_000), random_.randrange(1, 10**9)
        held = None
        if random_.random() < 0.3:  # under way since before the limit was lowered
            limit, by_id[tight].limit = by_id[tight].limit, 10**15
            if isinstance(by_id[tight], limits.Bucket):
                by_id[tight].burst = 10**15
            held = guard.reserve(now, tokens, nano)
            by_id[tight].limit = limit
            if isinstance(by_id[tight], limits.Bucket):
                by_id[tight].burst = 0
        before = state(guard, now)
        verdict.require(guard.reserve(now, tokens, nano) is None, f"{number}: {tight} let through")
        verdict.require(state(guard, now) == before, f"{number}: {tight} has changed others")
        if held is not None:
            counts = by_id[tight].rule.metric in {"tokens", "money"}
            fits = held.extend(now, tokens, nano)
            verdict.require(fits != counts, f"{number}: {tight}: extended {fits}")
            verdict.require(fits or state(guard, now) == before, f"{number}: {tight} took a part")
            extended += 1
            held.release(now)
        verdict.require(
            all(m.spent == m.reserved == 0 for m in limiter.budgets()), f"{number}: money stays"
        )
    verdict.figure = f"{form.runs} refusals of 7 meters, {extended} extensions: none took a part"
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
