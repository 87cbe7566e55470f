"""M-5: a token bucket kept in Redis: at most `burst + rate * t` in every interval, and no less."""

from __future__ import annotations

from dataclasses import dataclass

from tests.adversity.verdict import Verdict, main
from tests.money.together import Log, load, together, worst_excess


@dataclass(frozen=True)
class Form:
    """Requests a second, how many at once, for how long."""

    rate: int
    burst: int
    seconds: float
    clients: int


LONG = Form(rate=10, burst=20, seconds=60.0, clients=8)
SHORT = Form(rate=10, burst=20, seconds=4.0, clients=8)


async def run(form: Form) -> Verdict:
    """Ask three times as often as the rate allows."""
    verdict = Verdict("M-5 token bucket")
    rule = {
        "scope": "key", "metric": "requests", "limit": form.rate, "window_s": 1,
        "algorithm": "token_bucket", "burst": form.burst,
    }  # fmt: skip
    async with together(rule) as all_:
        log = Log()
        await load(
            all_.bed, all_.bed.request("p/mock?chunks=1"), log, seconds=form.seconds,
            clients=form.clients, pause=form.clients / (3 * form.rate),
        )  # fmt: skip
    admitted = log.admitted
    over = worst_excess(admitted, form.rate, form.burst)
    verdict.require(not log.lost, f"{len(log.lost)} requests had no whole answer")
    verdict.require(not log.strange(), f"answers {log.statuses()}")
    verdict.require(over <= 1e-6, f"{over:.3f} more than burst and rate allow")
    wanted = form.rate * form.seconds
    verdict.in_time(len(admitted) >= 0.99 * wanted, f"{len(admitted)} of {wanted:.0f} served")
    verdict.figure = (
        f"{len(admitted)} of {len(log.entries)} served in {form.seconds:g} s, closest to the bound"
        f" {over:+.2f}"
    )
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
