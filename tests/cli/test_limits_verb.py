"""`fastgw limits` and `fastgw budgets`, on both engines."""

from __future__ import annotations

import asyncio

import pytest

from fastgw.domain import now_ms
from fastgw.storage import open_store
from fastgw.storage.sql import aliases, usage
from tests.storage.samples import record


def make_key(cli, name="anna", *options):
    return cli("keys", "create", "--name", name, *options, "--json").json["id"]


def spend(store_url, *records):
    async def write():
        store = await open_store(store_url, migrate=False)
        try:
            await aliases.put(store, name="nick", model="m")
            await usage.insert_batch(store, records)
        finally:
            await store.close()

    asyncio.run(write())


def test_a_limit_is_made_changed_and_taken_away(cli):
    """The same scope, metric and window is the same limit; names become ids."""
    key = make_key(cli)
    made = cli("limits", "set", "--key", "anna", "--requests", 60, "--json").json
    assert (made["scope"], made["match"], made["metric"], made["limit"]) == (
        "key", key, "requests", 60,
    )  # fmt: skip
    assert (made["window_s"], made["algorithm"], made["shared"]) == (60, "sliding_window", False)
    again = cli("limits", "set", "--key", key, "--requests", 90, "--json").json
    assert (again["id"], again["limit"]) == (made["id"], 90)
    cli("limits", "set", "--key", "*", "--tokens", 5_000, "--window", 3600, "--json")
    assert len(cli("limits", "list", "--json").json) == 2
    assert cli("limits", "show", made["id"], "--json").json == again | {"matches": []}
    cleared = cli("limits", "reset", made["id"], "--counters", "--json").json
    assert cleared == {"id": made["id"], "reset": True}
    assert cli("limits", "show", made["id"], "--json").json["metadata"]["reset_at"] > 0
    assert cli("limits", "reset", made["id"]).code == 0
    assert cli("limits", "show", made["id"]).code == 1
    assert len(cli("limits", "list", "--json").json) == 1


def test_a_limit_shows_what_was_used(cli, store_url):
    """Of the window, as the records tell, by whom it matches; nothing that reached no provider."""
    key = make_key(cli)
    now = now_ms()
    spend(
        store_url,
        record(1, created_at=now, key_id=key, input_tokens=30, output_tokens=10),
        record(2, created_at=now, key_id=key, input_tokens=5, output_tokens=0),
        record(3, created_at=now, key_id=key, upstream_model="", provider=""),
        record(4, created_at=now - 120_000, key_id=key, input_tokens=7, output_tokens=0),
    )

    def matches(*options):
        made = cli("limits", "set", *options, "--json").json
        return cli("limits", "show", made["id"], "--json").json["matches"]

    assert matches("--key", "anna", "--requests", 3) == [
        {"match": key, "used": 2, "remaining": 1}
    ]  # fmt: skip
    assert matches("--key", "*", "--tokens", 40) == [{"match": key, "used": 45, "remaining": 0}]
    assert matches("--global", "--tokens", 100, "--window", 600) == [
        {"match": "", "used": 52, "remaining": 48}
    ]  # fmt: skip
    assert matches("--key", "*", "--model", "m", "--requests", 3) is None
    assert matches("--key", "*", "--concurrent", 3) is None


def test_several_scopes_together_mean_both(cli):
    """They make a limit of their own beside that of each scope alone."""
    alone = cli("limits", "set", "--key", "*", "--requests", 60, "--json").json
    both = cli("limits", "set", "--key", "*", "--model", "gpt-*", "--requests", 5, "--json").json
    assert both["id"] != alone["id"]
    assert (both["scope"], both["match"]) == ("key", "* & model=gpt-*")
    changed = cli("limits", "set", "--model", "gpt-*", "--key", "*", "--requests", 6, "--json").json
    assert (changed["id"], changed["limit"]) == (both["id"], 6)
    assert cli("limits", "show", alone["id"], "--json").json["limit"] == 60


def test_a_bucket_has_a_burst(cli):
    """All options arrive."""
    made = cli(
        "limits", "set", "--tag", "job=*", "--requests", 60, "--window", 10,
        "--algorithm", "token_bucket", "--burst", 5, "--shared", "--disable", "--json",
    ).json  # fmt: skip
    assert (made["match"], made["burst"], made["shared"], made["enabled"]) == (
        "job=*", 5, True, False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        ("limits", "set", "--requests", 1),
        ("limits", "set", "--key", "*"),
        ("limits", "set", "--key", "*", "--requests", 1, "--tokens", 1),
        ("limits", "set", "--key", "nobody", "--requests", 1),
        ("limits", "set", "--global", "--key", "*", "--requests", 1),
        ("limits", "set", "--key", "*", "--requests", 1, "--burst", 2),
        ("limits", "set", "--key", "*", "--requests", -1),
        ("limits", "set", "--key", "*", "--requests", 1, "--window", 0),
        ("limits", "set", "--tag", "job", "--requests", 1),
        ("budgets", "set", "--key", "*", "--usd", "1e99", "--period", "day"),
        ("budgets", "set", "--key", "*", "--usd", "NaN", "--period", "day"),
        ("budgets", "set", "--key", "*", "--usd", "-1", "--period", "day"),
        ("budgets", "set", "--key", "*", "--usd", "1", "--period", "year"),
        ("budgets", "set", "--key", "*"),
        ("budgets", "set", "--key", "*", "--model", "m", "--usd", "1", "--period", "day"),
        ("keys", "create", "--name", "x", "--allowed-ips", "10.0.0.0/99"),
    ],
)
def test_wrong_use_is_told(cli, wrong):
    """Exit code 2 and one line."""
    result = cli(*wrong)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1


def test_a_budget_shows_what_was_spent(cli, store_url):
    """By whom it matches, aliases counted to their model, and nothing of the last period."""
    made = cli("budgets", "set", "--model", "*", "--usd", "25", "--period", "month", "--json").json
    assert (made["limit_usd"], made["spent_usd"], made["reserved_usd"]) == ("25", "0", None)
    now = now_ms()
    spend(
        store_url,
        record(1, created_at=now, requested_model="m", cost_nano=1_000_000_000),
        record(2, created_at=now, requested_model="nick", cost_nano=250_000_000),
        record(3, created_at=now, requested_model="n", cost_nano=500_000_000),
        record(4, created_at=now - 40 * 86_400_000, requested_model="n", cost_nano=10**9),
    )
    shown = cli("budgets", "show", made["id"], "--json").json
    assert shown["spent_usd"] == "1.75"
    assert shown["matches"] == [
        {"match": "m", "spent_usd": "1.25"},
        {"match": "n", "spent_usd": "0.5"},
    ]
    total = cli("budgets", "set", "--global", "--usd", "9.5", "--period", "total", "--json").json
    assert total["spent_usd"] == "2.75"
    rows = cli("budgets", "list", "--json").json
    assert [row["spent_usd"] for row in rows] == ["2.75", "1.75"]
    assert cli("budgets", "reset", made["id"]).code == 0
    assert cli("budgets", "show", made["id"], "--json").json["spent_usd"] == "0"


def test_a_budget_is_changed_in_place(cli):
    """The same scope and period is the same budget."""
    made = cli("budgets", "set", "--team", "*", "--usd", "1", "--period", "day", "--json").json
    soft = ("--usd", "0.000000001", "--period", "day", "--soft", "--shared", "--json")
    changed = cli("budgets", "set", "--team", "*", *soft).json
    assert changed["id"] == made["id"]
    assert (changed["limit_usd"], changed["hard"], changed["shared"]) == (
        "0.000000001", False, True,
    )  # fmt: skip


def test_a_key_is_bound_to_networks(cli):
    """Given as addresses or networks; '' lifts the bond."""
    make_key(cli, "anna", "--allowed-ips", "10.1.2.3/8,192.168.1.1")
    shown = cli("keys", "show", "anna", "--json").json
    assert shown["allowed_ips"] == ["10.0.0.0/8", "192.168.1.1/32"]
    changed = cli("keys", "update", "anna", "--allowed-ips", "", "--json").json
    assert changed["allowed_ips"] == []
