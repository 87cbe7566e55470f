"""S-1 and S-4 over the public corpora: 61 provider answers, 38 event streams in 4 cuts."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import Counter
from typing import Any, TypeVar

from tests.adversity.wire.canned import Canned, Plan
from tests.adversity.wire.raw import Heard, talk
from tests.corpora import shared
from tests.processes import Gateway

T = TypeVar("T")

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
CUTS = (1, 2, 1500, 1 << 20)


async def ask_all(port: int, key: str, models: list[str], *, stream: bool) -> list[list[Heard]]:
    """Ask for each model twice in a row, each time on a connection of its own.

    The fast lane learns from the first, and remembers so many models only.
    """
    places = asyncio.Semaphore(16)

    async def ask(model: str) -> list[Heard]:
        body = json.dumps({"model": f"canned/{model}", "messages": [], "stream": stream}).encode()
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n" % (key.encode(), len(body))
        )
        async with places:
            return [await talk(port, [head + body], enough=1) for _ in range(2)]

    return await asyncio.gather(*map(ask, models))


def each_of(asked: list[T], heard: list[list[Heard]]) -> list[tuple[T, Heard]]:
    """Put what was asked beside each thing that was heard."""
    return [(one, each) for one, both in zip(asked, heard, strict=True) for each in both]


def test_provider_answers(
    port: int, key: str, gateway: Gateway, provider: Canned, record_property: Any
) -> None:
    """A broken answer is a 502 or 504 in JSON, or an error event; never a 500, never a hang."""
    folder = shared("http_public")
    cases = json.loads((folder / "upstream.json").read_text())
    for number, case in enumerate(cases):
        provider.plans[f"answer-{number}"] = Plan([(folder / case["file"]).read_bytes()])
    wrong = {}
    verdicts: Counter[int] = Counter()
    for stream in (False, True):
        models = [f"answer-{number}" for number in range(len(cases))]
        heard = asyncio.run(ask_all(port, key, models, stream=stream))
        for case, each in each_of(cases, heard):
            verdicts.update(each.statuses)
            failed = any(status >= 500 for status in each.statuses) or each.rest
            if case["bar"] == "reject" and not failed:
                wrong[case["id"], stream] = each
            if 500 in each.statuses or not (each.statuses or each.rest):
                wrong[case["id"], stream] = each
            for response in each.responses:
                if response.status >= 500:
                    response.error()
    record_property("table", f"S-1: {4 * len(cases)} runs, {len(wrong)} wrong; {dict(verdicts)}")
    assert not wrong
    assert "Traceback" not in gateway.text


def in_the_fast_lane(gateway: Gateway) -> float:
    """Give how many requests the fast lane has served."""
    _, text = gateway.get("/metrics")
    found = re.findall(rb'^fastgw_lane_total\{lane="fast".*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


def test_event_streams(
    port: int, key: str, gateway: Gateway, lane: str, provider: Canned, record_property: Any
) -> None:
    """What the client gets is what the provider sent, byte for byte, however it was cut."""
    cases = json.loads((shared("sse_public") / "cases.json").read_text())
    expected = {}
    for case in cases:
        data = base64.b64decode(case["bytes_b64"])
        for cut in CUTS:
            model = f"stream-{case['id']}-{cut}"
            expected[model] = data
            pieces = [data[i : i + cut] for i in range(0, len(data), cut)]
            framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
            provider.plans[model] = Plan([STREAM_HEAD, *framed, b"0\r\n\r\n"], hold=True)
    before = in_the_fast_lane(gateway)
    heard = asyncio.run(ask_all(port, key, list(expected), stream=True))
    wrong = {
        model: each
        for (model, data), each in each_of(list(expected.items()), heard)
        if each.statuses != [200] or each.responses[0].body != data
    }
    fast = in_the_fast_lane(gateway) - before
    record_property(
        "table",
        f"S-4: {2 * len(expected)} streams, {fast:.0f} in the fast lane, {len(wrong)} changed",
    )
    assert not wrong
    assert (fast > 0) == (lane == "fast")
