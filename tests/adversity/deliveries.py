"""S-3: the same bytes in pieces of 1, 2 and 1,500 bytes and in one give the client the same bytes.

Usage is the same as well. The chunk framing and the segments are cut each on their own.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

from tests.adversity import stream
from tests.adversity.bed import provider, serving
from tests.adversity.verdict import Verdict, main
from tests.scripted import Play, Scripted, Step

SIZES = (1, 2, 1500, 1 << 20)
JSON_HEAD = stream.HEAD.replace(b"text/event-stream; charset=utf-8", b"application/json")


@dataclass(frozen=True)
class Form:
    """How many words a stream has."""

    words: int


LONG = Form(words=200)
SHORT = Form(words=12)


def bodies(words: int) -> dict[str, bytes]:
    """Give bodies that are easily cut in a wrong place."""
    plain = {
        "id": "c",
        "choices": [{"message": {"content": "größer 👩‍👩‍👧"}}],
        "usage": stream.USAGE,
    }
    reported = stream.event("last", usage=stream.USAGE)
    return {
        "usual": b"".join(stream.events(words, size=9)),
        "unicode": b"".join([stream.event("größer 東京 👩‍👩‍👧")] * words + [stream.DONE]),
        "returns": b"".join(stream.events(words)).replace(b"\n", b"\r\n"),
        "comments": b": hello\n\n" + stream.event("a") + b":\n\n" + reported + stream.DONE,
        "json": json.dumps(plain, ensure_ascii=False).encode(),
    }


def cut(data: bytes, size: int) -> list[bytes]:
    """Cut into pieces of a size."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def scripts(words: int) -> dict[str, Sequence[Step]]:
    """Give a script for each body and each way to cut it."""
    found: dict[str, Sequence[Step]] = {}
    for (name, body), chunks, segments in itertools.product(bodies(words).items(), SIZES, SIZES):
        head = JSON_HEAD if name == "json" else stream.HEAD
        wire = head + stream.framed(cut(body, chunks))
        found[f"{name}.{chunks}.{segments}"] = cut(wire, segments)
    return found


async def run(form: Form) -> Verdict:
    """Deliver everything in every way."""
    verdict = Verdict("S-3 deliveries")
    chosen = scripts(form.words)
    seen: dict[str, bytes] = {}
    async with (
        Scripted([Play(chosen)]) as scripted,
        serving({"providers": [provider(scripted.url + "/v1")]}) as bed,
    ):
        for model in chosen:
            streams = not model.startswith("json")
            options = {"stream_options": {"include_usage": True}} if streams else {}
            got = await bed.chat(f"p/{model}", stream=streams, **options)
            verdict.require(got.whole, f"{model}: {got.ending} {got.fault}")
            seen[model] = got.body
        records = await bed.records(len(chosen))
    used: dict[str, set[tuple[int, int, str]]] = {}
    for record in records:
        name = record.requested_model.split("/")[1].split(".")[0]
        usage = (record.input_tokens, record.output_tokens, record.usage_source)
        used.setdefault(name, set()).add(usage)
    for model, body in seen.items():
        name = model.split(".")[0]
        verdict.require(body == bodies(form.words)[name], f"{model}: other bytes")
    for name, usages in used.items():
        verdict.require(len(usages) == 1, f"{name}: usage {usages}")
    verdict.require(len(records) == len(chosen), f"{len(records)} records")
    verdict.figure = f"{len(seen)} deliveries of {len(used)} bodies"
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
