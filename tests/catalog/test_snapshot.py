"""The bundled snapshot and look-ups in it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from fastgw import catalog
from fastgw.domain import Price


def test_the_snapshot_is_complete_and_sane():
    """Thousands of models, the big providers among them, no price above a cent a token."""
    models = catalog.load().models
    assert len(models) > 4000
    types = {provider for provider, _ in models}
    ours = {"openai", "azure", "anthropic", "gemini", "vertex", "bedrock", "ollama", "cohere"}
    assert ours | {"mistral", "groq", "deepseek"} <= types
    for key, facts in models.items():
        assert key == (facts.provider, facts.name)
        if facts.price is not None and facts.mode == "chat":
            assert max(facts.price.input, facts.price.output) < 10**10, key
    assert all(
        isinstance(amount, int) for facts in models.values() for amount in facts.extra.values()
    )


def test_the_snapshot_is_loaded_once_and_cannot_be_changed():
    """Every room sees the same immutable facts."""
    assert catalog.load() is catalog.load()
    with pytest.raises(TypeError):
        catalog.load().models["openai", "free"] = None  # type: ignore[index]


def test_the_licence_lies_beside_the_data():
    """The data is MIT; its notice travels with it."""
    data = resources.files("fastgw.catalog").joinpath("data")
    assert "MIT License" in data.joinpath("prices.LICENSE").read_text()
    assert "litellm" in data.joinpath("README.md").read_text()


def test_the_script_rebuilds_a_snapshot_without_chance(tmp_path, monkeypatch):
    """The same source gives the same bytes, readable as facts."""
    root = Path(__file__).parents[2]
    source = tmp_path / "source.json"
    source.write_text(
        json.dumps({"m": {"litellm_provider": "openai", "input_cost_per_token": 1e-6}})
    )
    script = tmp_path / "scripts/make_price_snapshot.py"
    script.parent.mkdir()
    script.write_text((root / "scripts/make_price_snapshot.py").read_text())
    target = tmp_path / "fastgw/catalog/data/prices.json.gz"
    target.parent.mkdir(parents=True)
    made = set()
    for _ in range(2):
        subprocess.run(
            [sys.executable, script, source], check=True, cwd=root, env={"PYTHONPATH": str(root)}
        )
        made.add(target.read_bytes())
    (content,) = made
    assert json.loads(gzip.decompress(content))[0]["price"]["input"] == 1_000_000


@pytest.mark.parametrize(
    ("provider", "asked", "found"),
    [
        ("openai", "gpt-4o", "gpt-4o"),
        ("openai", "gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
        ("openai", "gpt-4o-2031-01-01", "gpt-4o"),
        ("openai", "gpt-4o-latest", "gpt-4o"),
        ("openai", "gpt-4o-mini-2031-01-01", "gpt-4o-mini"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme:x:abc", "ft:gpt-4o-mini-2024-07-18"),
        ("anthropic", "claude-sonnet-4-5-20310101", "claude-sonnet-4-5"),
        ("ollama", "llama3:latest", "llama3"),
        ("openai", "gpt-4o-20240806", "gpt-4o"),
        ("openai", "gpt-4o-2024", None),
        ("openai", "gpt-4o-mine", None),
        ("openai", "", None),
        ("openai", "x" * 100_000, None),
        ("groq", "gpt-4o", None),
        ("nobody", "gpt-4o", None),
    ],
)
def test_find(provider, asked, found):
    """Exactly, else the undated base of a dated build; never a different model."""
    facts = catalog.load().find(provider, asked)
    assert (facts and facts.name) == found


def test_a_known_price():
    """One price as its provider publishes it: 2.50, 1.25 and 10.00 dollars a million tokens."""
    assert catalog.load().find("openai", "gpt-4o").price == Price(
        input=2_500_000, output=10_000_000, cached=1_250_000
    )


def test_nearest_names():
    """A slip of the fingers finds the name that was meant; noise finds nothing."""
    known = catalog.load()
    assert known.nearest("gtp-4o-mni")[0] == "gpt-4o-mini"
    assert known.nearest("qqqqqqqqqqqqqqqq") == []
    assert known.nearest("x" * 100_000) == []
