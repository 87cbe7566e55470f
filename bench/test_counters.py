"""What counting costs: cells in both builds, the look-up before them, a scrape."""

from __future__ import annotations

import asyncio

import pytest

from fastgw._ext import counters as built
from fastgw.metrics import Exposition, Metrics

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
KEY = ("chat_completions", "openai", "gpt-5", 200, "")


@pytest.fixture(params=["_counters", "pure.counters"])
def slot(request):
    module = pytest.importorskip(f"fastgw._ext.{request.param}")
    return module.Board(1 << 16, 1).slot(0)


def test_counter_add(benchmark, slot):
    benchmark(slot.counter("a").add, 1)


def test_gauge_add(benchmark, slot):
    benchmark(slot.gauge("a").add, 1.0)


def test_histogram_observe(benchmark, slot):
    benchmark(slot.histogram("a", BOUNDS).observe, 0.3)


def test_look_up_and_add(benchmark):
    requests = Metrics(built.Board(1 << 20, 1).slot(0)).requests
    benchmark(lambda: requests[KEY].add(1))


def test_scrape_of_four_workers(benchmark):
    board = built.Board(1 << 22, 4)
    for number in range(4):
        metrics = Metrics(board.slot(number))
        for model in range(100):
            metrics.requests["chat_completions", "openai", f"m{model}", 200, ""].add(1)
            metrics.first_token["openai", f"m{model}"].observe(0.3)
    exposition = Exposition(board)
    assert benchmark(lambda: asyncio.run(exposition.render("")))
