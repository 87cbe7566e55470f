"""What limits and budgets cost a request: reserve and settle, header lines, amounts.

    pytest bench/test_limits.py --benchmark-group-by=param:build

Target on one core: reserve and settle of 3 limits and 2 budgets in 0.5 us, compiled.
"""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest

PATTERNS = {"compiled": "fastgw._ext._{}", "pure": "fastgw._ext.pure.{}"}
MINUTE = 60_000_000
MANY = 10**15


@pytest.fixture(params=PATTERNS)
def build(request):
    """Give the modules of one build."""
    pattern = PATTERNS[request.param]
    try:
        return SimpleNamespace(
            **{name: import_module(pattern.format(name)) for name in ("limits", "estimate")}
        )
    except ImportError as error:
        pytest.skip(str(error))


def make_guard(limits):
    """Give a guard of 3 limits and 2 budgets."""
    return limits.Guard(
        (
            limits.Window(MANY, MINUTE),
            limits.Window(MANY, MINUTE, "tokens"),
            limits.Slots(100),
            limits.Budget(MANY, "day"),
            limits.Budget(MANY, "month"),
        )
    )


def test_reserve_and_settle(benchmark, build):
    """Reserve from five meters and settle, with the clock read twice."""
    guard, now_us = make_guard(build.limits), build.limits.now_us

    def turn():
        guard.reserve(now_us(), 500, 1_000).settle(now_us(), 300, 700)

    benchmark(turn)
    assert guard.meters[2].taken == 0


def test_fields(benchmark, build):
    """Write the six header lines."""
    guard, now = make_guard(build.limits), build.limits.now_us()
    guard.reserve(now, 500, 1_000).settle(now, 300, 700)
    assert benchmark(guard.fields, now).count(b"\r\n") == 6


def test_amounts(benchmark, build):
    """Bound what a request may use."""
    family = build.estimate.Family()
    tariff = build.limits.Tariff(family, 2_500_000, 10_000_000, 0, 16_000)
    assert benchmark(tariff.amounts, 400, 1_200, -1, 1, True)[1] > 0
