"""H-1 to H-4 over the public corpus: 460 malformed and odd requests."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.adversity.wire.canned import Canned
from tests.adversity.wire.memory import resident
from tests.adversity.wire.raw import Heard, talk
from tests.corpora import shared
from tests.processes import Gateway

REFUSALS = {400, 408, 413, 414, 417, 431, 501, 505}
"""Verdicts on the HTTP itself."""
ROUTED = REFUSALS | {404, 405}
LEFT_TO_THE_ROUTE = {
    "gunicorn/invalid_rfc9112_chunked_missing_final_crlf_01",
    "http11probe/comp_post_cl_undersend",
    "http11probe/comp_chunked_no_final",
    "http11probe/mal_post_cl_huge_no_body",
    "http_garden/server_bugs_32",
}
"""Nothing is wrong with what has come of them: the rest of the body is missing. No route wants it,
so they hear 404 without waiting for it."""
ROUNDS = 3
GROWTH_KIB = 16 << 10


def cases() -> list[tuple[dict[str, Any], bytes]]:
    folder: Path = shared("http_public")
    index = json.loads((folder / "requests.json").read_text())
    return [(case, (folder / case["file"]).read_bytes()) for case in index]


async def ask_all(port: int, corpus: list[tuple[dict[str, Any], bytes]], size: int) -> list[Heard]:
    """Send every case on a connection of its own, cut into pieces of `size`."""
    places = asyncio.Semaphore(64)

    async def ask(data: bytes) -> Heard:
        async with places:
            pieces = [data[i : i + size] for i in range(0, len(data), size)]
            return await talk(port, pieces, head=data.startswith(b"HEAD"))

    return await asyncio.gather(*(ask(data) for _, data in corpus))


def faults_of(case: dict[str, Any], data: bytes, heard: Heard, *, early: bool) -> list[str]:
    """Give what is wrong with what one case heard.

    `early` says that an answer may come before the body: no route wants it.
    """
    faults = []
    statuses = heard.statuses
    if not statuses:
        faults.append("never answered")
    if not heard.closed:
        faults.append("left open")
    if len(statuses) > case["responses"]:
        faults.append("more answers than requests")
    if not set(statuses) <= ROUTED:
        faults.append("a status of no such verdict")
    refused = not REFUSALS.isdisjoint(statuses)
    if case["bar"] == "reject" and not refused:
        early = early and re.search(rb"(?i)transfer-encoding:[ \t]*chunked", data) is not None
        if not early and case["id"] not in LEFT_TO_THE_ROUTE:
            faults.append("accepted")
    if case["bar"] == "accept" and (refused or len(statuses) != case["responses"]):
        faults.append("refused")
    if not data.startswith(b"HEAD"):
        for response in heard.responses:
            response.error()
        if heard.rest:
            faults.append("bytes that are no answer")
    return faults


@pytest.mark.parametrize("size", [1 << 20, 1], ids=["whole", "bytewise"])
def test_every_verdict(
    port: int, gateway: Gateway, provider: Canned, size: int, record_property: Any
) -> None:
    """No wrong verdict, no silence, no status 500, every answer JSON, nothing reaches a provider.

    Single bytes are told on the corpus of short cases only: there is nothing new in long ones.
    """
    corpus = [each for each in cases() if size > 1 or len(each[1]) < 400]
    calls = len(provider.calls)
    wrong: dict[str, Any] = {}
    verdicts: Counter[int] = Counter()
    heard = asyncio.run(ask_all(port, corpus, size))
    for (case, data), each in zip(corpus, heard, strict=True):
        verdicts.update(each.statuses)
        if faults := faults_of(case, data, each, early=size == 1):
            wrong[case["id"]] = (faults, each.statuses, data[:120])
    record_property(
        "table", f"H-1..H-4 ({len(corpus)} cases): {len(wrong)} wrong; answers {dict(verdicts)}"
    )
    assert not wrong
    assert len(provider.calls) == calls
    assert "Traceback" not in gateway.text


def test_three_rounds_leave_nothing_behind(
    port: int, gateway: Gateway, record_property: Any
) -> None:
    """The same processes serve afterwards, hardly larger than before."""
    corpus = cases()
    workers = gateway.children()
    before = resident(workers)
    for _ in range(ROUNDS):
        asyncio.run(ask_all(port, corpus, 1 << 20))
    growth = resident(workers) - before
    record_property("table", f"H-3: {ROUNDS} rounds, RSS + {growth} KiB")
    assert gateway.children() == workers
    assert growth <= GROWTH_KIB
    assert gateway.get("/healthz")[0] == 200
