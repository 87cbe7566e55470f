"""S-2: the provider dies at every byte of its answer, once by FIN and once by RST.

Before the first whole event nothing has been promised: 502. After it: whole events, an error event,
no `[DONE]`, no clean end. One record each; nothing is billed that was not sent, and something once
content was delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from fastgw.domain import UsageRecord
from tests.adversity import stream
from tests.adversity.bed import Bed, Seen, provider, serving
from tests.adversity.verdict import Verdict, main
from tests.scripted import Close, Play, Reset, Scripted, Step

BODY = stream.framed(stream.events(14, size=8))
ANSWER = stream.HEAD + BODY
COMPLETE = len(stream.HEAD) + BODY.index(stream.DONE) + len(stream.DONE)
"""From here on every event is there, and only the end of the framing is missing."""
ALL = b"".join(event for event in stream.events(14, size=8) if b'"usage"' not in event)
MANY = 32


@dataclass(frozen=True)
class Form:
    """Every `step`-th offset is tried."""

    step: int
    engine: str


LONG = Form(step=1, engine="postgresql")
SHORT = Form(step=23, engine="sqlite")


def scripts(step: int) -> dict[str, Sequence[Step]]:
    """Give a script for each offset and kind of death."""
    found: dict[str, Sequence[Step]] = {}
    for at in range(0, len(ANSWER), step):
        for word, death in (("fin", Close()), ("rst", Reset())):
            found[f"{word}-{at}"] = [ANSWER[:at], death] if at else [death]
    return found


def judge(model: str, seen: Seen, record: UsageRecord | None) -> list[str]:
    """Say what is wrong with what a client saw and with what was written down."""
    found = []
    delivered = False
    if seen.ending not in {"complete", "closed", "reset"}:
        found.append(f"{model}: {seen.ending} {seen.fault}")
    elif seen.status == 200:
        whole = stream.text_of(b"".join(stream.events(14, size=8)))
        text = stream.text_of(seen.body)
        delivered = bool(text)
        if not whole.startswith(text):
            found.append(f"{model}: the text is no prefix")
        if seen.whole or b"[DONE]" in seen.body:
            found.append(f"{model}: a clean end")
        if seen.ending != "reset" and not stream.has_error(seen.body):
            found.append(f"{model}: no error event")
    elif seen.status != 502:
        found.append(f"{model}: status {seen.status}")
    if record is None:
        found.append(f"{model}: no record")
    elif record.status not in {502, 504} or record.error_code is None:
        found.append(f"{model}: recorded as {record.status}")
    elif record.output_tokens > 14 * 8:
        found.append(f"{model}: {record.output_tokens} tokens billed")
    elif delivered and record.output_tokens == 0:
        found.append(f"{model}: delivered content is not billed")
    return found


async def run(form: Form) -> Verdict:
    """Let it die everywhere."""
    verdict = Verdict("S-2 provider dies at every byte")
    chosen = scripts(form.step)
    async with Scripted([Play(chosen)]) as scripted:
        config = {"providers": [provider(scripted.url + "/v1")]}
        async with serving(config, engine=form.engine) as bed:
            seen = await ask_all(bed, list(chosen))
            records = await bed.records(len(chosen))
    by_model: dict[str, list[UsageRecord]] = {model: [] for model in chosen}
    for record in records:
        by_model[record.requested_model.removeprefix("p/")].append(record)
    for model, what in seen.items():
        found = by_model[model]
        verdict.require(len(found) == 1, f"{model}: {len(found)} records")
        if int(model.split("-")[1]) >= COMPLETE and what.body.startswith(ALL):
            continue  # every event was passed on; how the connection ends says nothing more
        verdict.problems += judge(model, what, found[0] if found else None)
    begun = sum(what.status == 200 for what in seen.values())
    verdict.figure = (
        f"{len(seen)} deaths in {len(ANSWER)} bytes, {begun} after the answer had begun,"
        f" {len(records)} records"
    )
    return verdict


async def ask_all(bed: Bed, models: list[str]) -> dict[str, Seen]:
    """Ask each model once, a few at a time."""
    gate = asyncio.Semaphore(MANY)

    async def ask(model: str) -> Seen:
        async with gate:
            return await bed.chat(f"p/{model}", stream=True)

    return dict(zip(models, await asyncio.gather(*map(ask, models)), strict=True))


if __name__ == "__main__":
    main(run, LONG, SHORT)
