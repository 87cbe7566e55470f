"""`fastgw models` and `fastgw db`, on both engines."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from fastgw import catalog
from fastgw.catalog.sync import SMALL_CATALOGUE
from fastgw.storage import open_store
from fastgw.storage.sql import catalog_syncs

CHAT = {"litellm_provider": "openai", "mode": "chat", "max_input_tokens": 1000}


def entry(input_usd, output_usd, **fields):
    return CHAT | {"input_cost_per_token": input_usd, "output_cost_per_token": output_usd} | fields


def write(name, entries):
    Path(name).write_text(json.dumps(entries))
    return name


OLD = {
    "kept": entry(1e-6, 2e-6),
    "dearer": entry(1e-6, 2e-6),
    "gone": entry(1e-6, 2e-6),
    "groq/kept": entry(3e-6, 4e-6, litellm_provider="groq"),
}
NEW = {
    "kept": entry(1e-6, 2e-6),
    "dearer": entry(5e-6, 2e-6),
    "new": entry(7e-6, 8e-6),
    "wrong": entry("free", 0),
    "groq/kept": entry(3e-6, 4e-6, litellm_provider="groq"),
}


def syncs(store_url):
    async def read():
        store = await open_store(store_url, migrate=False)
        try:
            return (await catalog_syncs.list(store)).items
        finally:
            await store.close()

    return asyncio.run(read())


def test_a_sync_adds_changes_and_deprecates(cli, store_url):
    """The diff says each change with before and after, and the record keeps it."""
    cli("models", "sync", "--file", write("old.json", OLD))
    result = cli("models", "sync", "--file", write("new.json", NEW), "--json")
    row = result.json
    assert row["added_models"] == ["openai/new"]
    assert row["deprecated_models"] == ["openai/gone"]
    assert row["changes"] == [
        {"model": "openai/dearer", "field": "price.input", "before": "1", "after": "5"}
    ]
    assert row["skipped"] == ["wrong"]
    assert "skipped 'wrong'" in result.err
    assert cli("models", "show", "openai/gone", "--json").json["deprecated_at"] is not None
    newest, first = syncs(store_url)
    assert (first.added, first.source) == (4, "old.json")
    assert (newest.added, newest.changed, newest.deprecated) == (1, 1, 1)
    assert newest.changes[0]["before"] == 1_000_000


def test_a_second_sync_changes_nothing(cli):
    """The same file again is a sync without a change."""
    cli("models", "sync", "--file", write("new.json", NEW))
    result = cli("models", "sync", "--file", "new.json")
    assert result.out.startswith("0 models added, 0 changed, 0 deprecated, 4 as they were")


def test_what_was_set_by_hand_outlives_every_sync(cli):
    """An admin's price stays, the file's other facts come in; what he made is not deprecated."""
    cli("models", "sync", "--file", write("old.json", OLD))
    cli("models", "set", "openai/dearer", "--input-usd-per-mtok", "0.5")
    cli("models", "set", "smart", "--input-usd-per-mtok", "1", "--output-usd-per-mtok", "2")
    changed = NEW | {"dearer": entry(5e-6, 9e-6)}
    row = cli("models", "sync", "--file", write("new.json", changed), "--json").json
    assert row["kept_overrides"] == 1
    model = cli("models", "show", "openai/dearer", "--json").json
    assert (model["input_usd_per_mtok"], model["output_usd_per_mtok"]) == ("0.5", "9")
    assert model["set_by_hand"] == ["input_pico"]
    own = cli("models", "show", "smart", "--json").json
    assert (own["provider"], own["deprecated_at"]) == ("", None)


def test_a_dry_run_writes_nothing(cli, store_url):
    """It says what would change, and leaves neither models nor a record."""
    result = cli("models", "sync", "--file", write("old.json", OLD), "--dry-run")
    assert "4 models would be added" in result.out
    assert cli("models", "list", "--json").json == []
    assert syncs(store_url) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<html>", "not a JSON file"),
        ("{}", "no entry in it describes a model"),
        (json.dumps({"a": 1, "b": 2, "kept": entry(1, 1)}), "2 of 3 entries are wrong"),
    ],
)
def test_a_bad_file_changes_nothing_and_is_on_record(cli, store_url, content, said):
    """Exit code 1 with the reason; the models stay, the failure is kept."""
    cli("models", "sync", "--file", write("old.json", OLD))
    before = cli("models", "list", "--json").out
    Path("bad.json").write_text(content)
    result = cli("models", "sync", "--file", "bad.json")
    assert result.code == 1
    assert said in result.err
    assert cli("models", "list", "--json").out == before
    assert syncs(store_url)[0].status == "failed"


def test_a_fragment_is_refused(cli):
    """A file with a few models does not deprecate a catalogue."""
    many = {f"m{number}": entry(1e-6, 1e-6) for number in range(SMALL_CATALOGUE)}
    cli("models", "sync", "--file", write("many.json", many))
    result = cli("models", "sync", "--file", write("few.json", {"m1": entry(1e-6, 1e-6)}))
    assert result.code == 1
    assert "leaves out" in result.err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--file", "nope.json"), 1, "nope.json: No such file"),
        (("--url", "http://user:canarypw@example.com/x"), 1, "not an https address"),
        (("--url", "file:///etc/passwd"), 1, "not an https address"),
        (("--file", "a", "--url", "b"), 2, "not both"),
    ],
)
def test_sources_that_cannot_be_read(cli, args, code, said):
    """One line that says why, without credentials."""
    result = cli("models", "sync", *args)
    assert result.code == code
    assert said in result.err
    assert "canarypw" not in result.err


def test_set_prices(cli):
    """Prices are exact; a provider's model and a public name are apart."""
    row = cli(
        "models", "set", "eu/m", "--provider", "azure", "--input-usd-per-mtok", "2.5",
        "--output-usd-per-mtok", "10", "--cached-usd-per-mtok", "0.000001",
        "--cache-write-usd-per-mtok", "3", "--reasoning-usd-per-mtok", "11",
        "--usd-per-request", "0.01", "--context-window", "128000", "--json",
    ).json  # fmt: skip
    assert (row["provider"], row["name"], row["context_window"]) == ("azure", "eu/m", 128000)
    prices = {name: value for name, value in row.items() if "usd" in name and value}
    assert prices == {
        "input_usd_per_mtok": "2.5",
        "output_usd_per_mtok": "10",
        "cached_usd_per_mtok": "0.000001",
        "cache_write_usd_per_mtok": "3",
        "reasoning_usd_per_mtok": "11",
        "usd_per_request": "0.01",
    }
    assert cli("models", "set", "a/b", "--disable", "--json").json["provider"] == ""
    assert cli("models", "set", "openai/x", "--disable", "--json").json["provider"] == "openai"


@pytest.mark.parametrize(
    "args",
    [
        ("m",),
        ("m", "--input-usd-per-mtok", "-1"),
        ("m", "--input-usd-per-mtok", "cheap"),
        ("m", "--context-window", "0"),
        ("m\x1b[2J", "--disable"),
    ],
)
def test_set_wrongly(cli, args):
    """Wrong use changes nothing."""
    assert cli("models", "set", *args).code == 2
    assert cli("models", "list", "--json").json == []


def test_show_names_near_misses_and_the_ambiguous(cli):
    """A name several providers have must be told apart; a wrong one gets its neighbours."""
    cli("models", "sync", "--file", write("old.json", OLD))
    assert "groq/kept, openai/kept" in cli("models", "show", "kept").err
    assert cli("models", "show", "groq/kept", "--json").json["provider"] == "groq"
    assert cli("models", "show", "kept", "--provider", "openai", "--json").code == 0
    assert cli("models", "show", "gone", "--json").json["name"] == "gone"
    result = cli("models", "show", "daerer")
    assert (result.code, result.err) == (1, "fastgw: no model 'daerer'; near: dearer\n")


def test_list(cli):
    """By provider and name; search, provider and limit narrow it."""
    cli("models", "sync", "--file", write("old.json", OLD))
    names = [(row["provider"], row["name"]) for row in cli("models", "list", "--json").json]
    assert names == [("groq", "kept"), ("openai", "dearer"), ("openai", "gone"), ("openai", "kept")]
    assert len(cli("models", "list", "--provider", "openai", "--json").json) == 3
    assert len(cli("models", "list", "--search", "KEPT", "--limit", 1, "--json").json) == 1
    assert "1" in cli("models", "list", "--search", "gone").out


def test_db_up_seed_down(run, empty_url, monkeypatch):
    """A new database is brought up, filled twice to the same effect, and brought down."""
    monkeypatch.setenv("DATABASE_URL", empty_url)
    assert run("db", "current", "--json").json["revision"] is None
    assert run("db", "upgrade", "--json").json["before"] is None
    assert "as before" in run("db", "upgrade").out
    assert run("db", "current", "--json").json["up_to_date"] is True
    first = run("db", "seed", "--demo-data", "--json").json
    assert first["models_added"] == len(catalog.load().models)
    assert set(first["keys"]) >= {"demo"}
    again = run("db", "seed", "--demo-data", "--json").json
    assert (again["models_added"], again["models_changed"], again["keys"]) == (0, 0, {})
    assert first["org_id"] == again["org_id"]
    assert run("db", "downgrade", "base").out == "schema at nothing\n"
    assert run("db", "downgrade", "nonsense").code == 1
    assert run("db", "downgrade").code == 2
