"""H-7 and H-8 in small: slow and silent clients are closed, honest ones never notice."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from tests.adversity.wire.canned import Canned
from tests.adversity.wire.memory import descriptors
from tests.adversity.wire.slow import KINDS, attack, keep_silent, prepare, render
from tests.processes import Gateway
from tests.waiting import eventually_sync

ATTACKERS = 20
SILENT = 200
SPARE = 5


def test_slow_clients(
    port: int, key: str, gateway: Gateway, provider: Canned, record_property: Any
) -> None:
    """Each kind is closed by a time-out, and its descriptors come back."""
    prepare(provider)
    workers = gateway.children()
    base = descriptors(workers)
    figures = asyncio.run(attack(provider, port, key, ATTACKERS, 20))
    record_property("table", render(figures))
    for kind in KINDS:
        assert len(figures.lasted[kind]) == ATTACKERS
        assert max(figures.lasted[kind]) < math.inf, kind
    assert figures.loud
    assert figures.failed == 0
    eventually_sync(lambda: descriptors(workers) <= base + SPARE, 10, "descriptors come back")


def test_silent_clients(port: int, gateway: Gateway, record_property: Any) -> None:
    """Who sends nothing is closed when a head should have been there."""
    cost, age = asyncio.run(keep_silent(port, SILENT, gateway.children(), 20))
    record_property("table", f"H-8: {SILENT} silent, {cost} bytes each, closed by {age:.2f} s")
    assert age < math.inf
