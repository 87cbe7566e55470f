"""The gauge drives a real worker: what it prints is the price of answers that were given."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bench import gauge
from bench.instructions import Instructions


@pytest.fixture
def short(monkeypatch):
    """Batches that take no time."""
    monkeypatch.setattr(gauge, "BATCHES", 2)
    monkeypatch.setattr(gauge, "REQUESTS", 5)
    monkeypatch.setattr(gauge, "CHUNKS", 20)


def test_it_prints_a_figure_for_a_request_and_for_a_chunk(short, tmp_path, capsys):
    """Whole exchanges pass through the protocol of a listening worker, on no socket."""
    file = tmp_path / "gauge.json"
    assert gauge.main(["--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert [each["what"] for each in figures] == ["request", "chunk"]
    assert all(0 < each["cpu_ns"] <= each["median_ns"] for each in figures)
    printed = capsys.readouterr().out
    assert "ns a request" in printed
    assert "ns a chunk" in printed


def test_a_refused_request_is_no_figure(short, monkeypatch):
    """An answer that is not the provider's ends the run with what came instead."""

    true = gauge.govern

    async def govern(url):
        return replace(await true(url), key="fgw-nobody")

    monkeypatch.setattr(gauge, "govern", govern)
    monkeypatch.setattr(gauge, "MOST_TURNS", 1000)
    with pytest.raises(RuntimeError, match="401 Unauthorized"):
        gauge.main([])


def test_instructions_are_a_number_that_grows_or_absent():
    """Checked with a counter that every kernel has, the clock of the task, where one may be had."""
    clock = Instructions(kind=1, event=1)
    first = clock.read()
    if first is None:
        pytest.skip("this machine lets nobody count")
    sum(range(100_000))
    assert clock.read() > first
    assert Instructions(kind=99).read() is None
