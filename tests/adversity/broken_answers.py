"""S-1: broken provider answers, to a plain and to a streamed request.

What must be refused never reaches the client as an answer; what may be accepted arrives well-formed
or as 502 or 504; nothing is answered 500 and nothing takes longer than the time-out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.adversity.bed import Seen, provider, serving
from tests.adversity.verdict import Verdict, main
from tests.corpora import shared
from tests.scripted import Close, Hold, Play, Scripted, Step

TIMEOUT_S = 1.0
LAST_S = 5.0
"""On top of the time-out: for connecting, and for a machine that does something else too."""
OURS = {502, 503, 504}


@dataclass(frozen=True)
class Form:
    """How often the whole set is played."""

    rounds: int


LONG = Form(rounds=3)
SHORT = Form(rounds=1)


def entries() -> list[dict[str, Any]]:
    """Give the corpus."""
    folder = shared("http_public")
    found = json.loads((folder / "upstream.json").read_text())
    return [{**entry, "data": (folder / entry["file"]).read_bytes()} for entry in found]


def judge(entry: dict[str, Any], model: str, seen: Seen) -> list[str]:
    """Say what is wrong with what the client saw."""
    if seen.fault or seen.ending == "silent":
        return [f"{model}: {seen.ending} {seen.fault}"]
    if seen.status == 500 or seen.status == 0 or 100 <= seen.status < 200:
        return [f"{model}: status {seen.status} {seen.ending}"]
    if entry["bar"] == "reject" and seen.status < 500 and seen.whole:
        return [f"{model}: accepted with {seen.status}, but {entry['why']}"]
    if seen.status in OURS and "error" not in json.loads(seen.body):
        return [f"{model}: {seen.status} in another shape"]
    return []


async def run(form: Form) -> Verdict:
    """Play each answer, then the provider hangs up, or stays without a word."""
    verdict = Verdict("S-1 broken provider answers")
    corpus = entries()
    scripts: dict[str, Sequence[Step]] = {}
    for entry in corpus:
        for ending, last in (("close", Close()), ("hold", Hold())):
            scripts[f"{entry['id']}.{ending}"] = [entry["data"], last]
    timeouts = {"connect_s": 1, "first_byte_s": TIMEOUT_S, "idle_s": TIMEOUT_S, "total_s": 20}
    count = slowest = 0.0
    async with Scripted([Play(scripts)]) as scripted:
        config = {"providers": [provider(scripted.url + "/v1", timeouts=timeouts)]}
        async with serving(config) as bed:

            async def one(entry: dict[str, Any], ending: str, streams: bool) -> float:
                model = f"p/{entry['id']}.{ending}"
                seen = await bed.chat(model, stream=streams)
                verdict.problems.extend(judge(entry, f"{model} stream={streams}", seen))
                return seen.seconds

            for _ in range(form.rounds):
                took = await asyncio.gather(
                    *(
                        one(entry, ending, streams)
                        for entry in corpus
                        for ending in ("close", "hold")
                        for streams in (False, True)
                    )
                )
                count += len(took)
                slowest = max(slowest, *took)
            records = await bed.records(int(count))
    verdict.require(len(records) == count, f"{len(records)} records of {count:.0f}")
    statuses = sorted({record.status for record in records})
    verdict.require(500 not in statuses, "a 500 is on record")
    verdict.in_time(slowest < TIMEOUT_S + LAST_S, f"one took {slowest:.1f} s")
    verdict.figure = f"{count:.0f} answers, slowest {slowest:.2f} s, recorded {statuses}"
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
