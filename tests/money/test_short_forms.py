"""Every script of the money campaign in its short form: facts are judged, and no time."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = sorted(path.stem for path in Path(__file__).parent.glob("m[0-9][0-9]_*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_short_form_finds_nothing(name, record_property):
    """Its figure is shown."""
    script = import_module(f"tests.money.{name}")
    verdict = await script.run(script.SHORT)
    record_property("table", str(verdict))
    assert verdict.problems == []
