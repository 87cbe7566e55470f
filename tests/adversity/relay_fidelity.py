"""S-4: 38 public SSE streams in four segmentations reach the client byte for byte.

Only the usage event that nobody asked for is taken out; whatever else stands in a stream stays.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

from tests.adversity import stream
from tests.adversity.bed import provider, serving
from tests.adversity.deliveries import SIZES, cut
from tests.adversity.verdict import Verdict, main
from tests.corpora import shared
from tests.scripted import Play, Scripted, Step


@dataclass(frozen=True)
class Form:
    """In how many of the segmentations."""

    segmentations: int


LONG = Form(segmentations=len(SIZES))
SHORT = Form(segmentations=2)


def streams() -> dict[str, bytes]:
    """Give the bytes of each public case, and of some with a usage event at odd places."""
    cases = json.loads((shared("sse_public") / "cases.json").read_text())
    return {case["id"]: base64.b64decode(case["bytes_b64"]) for case in cases}


async def run(form: Form) -> Verdict:
    """Relay each stream in each segmentation, with and without a usage event behind it."""
    verdict = Verdict("S-4 relay fidelity")
    usage = stream.event(None, usage=stream.USAGE)
    scripts: dict[str, Sequence[Step]] = {}
    wanted: dict[str, bytes] = {}
    for name, body in streams().items():
        for size in SIZES[: form.segmentations]:
            plain, mixed = f"{name}.{size}", f"{name}.{size}.usage"
            wanted[plain] = body
            scripts[plain] = cut(stream.HEAD + stream.framed([body] if body else []), size)
            # Between events, so that both the corpus's stream and ours are what they were.
            ended = stream.event("a") + usage + stream.DONE + body
            wanted[mixed] = stream.event("a") + stream.DONE + body
            scripts[mixed] = cut(stream.HEAD + stream.framed(cut(ended, max(size, 16))), size)
    async with (
        Scripted([Play(scripts)]) as scripted,
        serving({"providers": [provider(scripted.url + "/v1")]}) as bed,
    ):
        for model, body in wanted.items():
            got = await bed.chat(f"p/{model}", stream=True)
            verdict.require(got.whole, f"{model}: {got.status} {got.ending} {got.fault}")
            verdict.require(got.body == body, f"{model}: {got.body!r}, not {body!r}")
        records = await bed.records(len(wanted))
    verdict.require(len(records) == len(wanted), f"{len(records)} records of {len(wanted)}")
    verdict.figure = f"{len(wanted)} streams, byte for byte"
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
