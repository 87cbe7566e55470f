"""Every script of the campaign in its short form: facts are judged, and no time."""

from __future__ import annotations

from importlib import import_module

import pytest

SCRIPTS = (
    "broken_answers",
    "deliveries",
    "drain",
    "dying_provider",
    "fuzz",
    "idle_streams",
    "killed_worker",
    "mutated_requests",
    "relay_fidelity",
    "reloads",
    "slow_readers",
    "soak",
)


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_short_form_finds_nothing(name, record_property):
    """Its figure is shown."""
    if name == "fuzz":
        pytest.importorskip("fastgw._ext._scan", reason="no compiled build to compare with")
    script = import_module(f"tests.adversity.{name}")
    verdict = await script.run(script.SHORT)
    record_property("table", str(verdict))
    assert verdict.problems == []
