"""`fastgw keys` and `fastgw aliases`, on both engines."""

from __future__ import annotations

import re

import pytest

from fastgw.wire.apikey import is_well_formed


def test_create_prints_the_object_and_the_key_once(cli):
    """`create --json` is the created object with the plaintext as `key`; nobody else has it."""
    made = cli(
        "keys", "create", "--name", "ci", "--models", "gpt*,b", "--models", "c", "--tags",
        "app=x,env=prod", "--client-tags", "job", "--expires-at", "30d", "--priority", 7, "--json",
    ).json  # fmt: skip
    assert is_well_formed(made["key"])
    assert made["allowed_models"] == ["gpt*", "b", "c"]
    assert made["tags"] == {"app": "x", "env": "prod"}
    assert made["client_tags"] == ["job"]
    assert made["priority"] == 7
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made["expires_at"])
    everything = cli("keys", "list", "--json").out + cli("keys", "show", "ci").out
    assert made["key"] not in everything
    assert made["id"] in everything


def test_a_table_is_for_people(cli):
    """Without --json the key is shown with a word of warning on stderr, not on stdout."""
    result = cli("keys", "create", "--name", "ci")
    assert result.code == 0
    assert re.search(r"^key +fgw-", result.out, re.MULTILINE)
    assert "once" in result.err
    assert "once" not in result.out


def test_the_whole_life_of_a_key(cli):
    """create, list, show, update, regenerate, revoke; then it is gone."""
    key = cli("keys", "create", "--name", "a", "--json").json
    assert [row["id"] for row in cli("keys", "list", "--json").json] == [key["id"]]
    changed = cli(
        "keys", "update", key["id"], "--name", "b", "--disable", "--models", "m", "--tags", "x=1",
        "--expires-at", "2h", "--json",
    ).json  # fmt: skip
    assert (changed["name"], changed["enabled"], changed["tags"]) == ("b", False, {"x": "1"})
    cleared = cli(
        "keys", "update", "b", "--enable", "--models", "", "--tags", "", "--expires-at", "never",
        "--json",
    ).json  # fmt: skip
    assert cleared["enabled"]
    assert (cleared["allowed_models"], cleared["tags"]) == ([], {})
    assert cleared["expires_at"] is None
    again = cli("keys", "regenerate", "b", "--json").json
    assert again["key"] != key["key"]
    assert again["id"] == key["id"]
    assert cli("keys", "revoke", "b").code == 0
    assert cli("keys", "list", "--json").json == []
    assert cli("keys", "show", key["id"]).code == 1


def test_listing_in_all_forms(cli):
    """Newest first; a part of the name searches; JSON, CSV and table name the same rows."""
    for name in ("one", "two", "three"):
        cli("keys", "create", "--name", name)
    assert [row["name"] for row in cli("--json", "keys", "list").json] == ["three", "two", "one"]
    assert [row["name"] for row in cli("keys", "list", "--json", "--search", "T").json] == [
        "three",
        "two",
    ]
    assert len(cli("keys", "list", "--json", "--limit", 1).json) == 1
    assert cli("keys", "list", "--csv").out.splitlines()[0].startswith("id,name,hint,enabled")
    assert len(cli("keys", "list").out.splitlines()) == 4


@pytest.mark.parametrize(
    "args",
    [
        ("keys", "show", "key_0123"),
        ("keys", "update", "nope", "--disable"),
        ("keys", "revoke", "no\x1b[2Jpe"),
        ("keys", "regenerate", ""),
        ("keys", "create", "--name", "a", "--user", "nobody"),
        ("keys", "create", "--name", "a", "--team", "nobody"),
        ("aliases", "show", "nope"),
        ("aliases", "delete", "nope"),
        ("aliases", "set", "a", "b", "--billing-key", "nope"),
    ],
)
def test_what_is_not_there_is_one_line(cli, args):
    """Exit code 1, one line on stderr that names it, nothing on stdout, no traceback."""
    result = cli(*args)
    assert result.code == 1
    assert result.out == ""
    assert re.fullmatch(r"fastgw: no [ -~]+\n", result.err)


@pytest.mark.parametrize(
    "args",
    [
        ("keys", "create"),
        ("keys", "create", "--name", "a", "--expires-at", "soon"),
        ("keys", "create", "--name", "a", "--expires-at", "2001-01-01"),
        ("keys", "create", "--name", "a", "--tags", "novalue"),
        ("keys", "create", "--name", "a", "--tags", "a=1,a=2"),
        ("keys", "create", "--name", "a\x1b[2J"),
        ("keys", "create", "--name", ""),
        ("keys", "create", "--name", "a", "--priority", "10"),
        ("keys", "create", "--name", "a", "--models", "a\nb"),
        ("keys", "create", "--name", "a", "--bogus"),
        ("keys", "create", "--name", "a", "--json", "--csv"),
        ("keys", "update", "a"),
        ("keys", "bogus"),
        ("aliases", "set", "a", "a"),
        ("aliases", "set", "a"),
        ("nonsense",),
    ],
)
def test_wrong_use_is_one_line(run, args):
    """Exit code 2, one printable line that says what is wrong and where help is."""
    result = run(*args)
    assert result.code == 2
    assert result.out == ""
    assert re.fullmatch(r"fastgw[ -~]+--help\)\n", result.err)


def test_names_may_repeat_ids_do_not(cli):
    """Two keys of one name: the name alone is ambiguous, and the line says what to do."""
    ids = {cli("keys", "create", "--name", "twin", "--json").json["id"] for _ in range(2)}
    assert len(ids) == 2
    result = cli("keys", "revoke", "twin")
    assert result.code == 1
    assert "use the id" in result.err


def test_aliases(cli):
    """set makes and changes; list, show and delete."""
    key = cli("keys", "create", "--name", "payer", "--json").json
    made = cli("aliases", "set", "fast", "gpt-4o-mini", "--json").json
    changed = cli(
        "aliases", "set", "fast", "gpt-4o", "--tags", "t=1", "--billing-key", "payer", "--json"
    ).json
    assert changed["id"] == made["id"]
    assert (changed["model"], changed["billing_key_id"]) == ("gpt-4o", key["id"])
    assert cli("aliases", "show", "fast", "--json").json == changed
    assert cli("aliases", "list", "--json").json == [changed]
    assert cli("aliases", "delete", "fast").code == 0
    assert cli("aliases", "list", "--json").json == []
