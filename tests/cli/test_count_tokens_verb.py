"""`fastgw count-tokens`: needs no configuration, no database and no network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastgw.catalog import tokens

ASKED = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello to the world."}]}


def test_text_from_a_file_and_from_stdin(run):
    """The same text, the same count; it says what it took it for."""
    Path("text.txt").write_text("The quick brown fox jumps over the lazy dog.")
    for result in (
        run("count-tokens", "--model", "gpt-4o", "text.txt", "--json"),
        run("count-tokens", "--model", "gpt-4o", "--json", stdin=Path("text.txt").read_text()),
    ):
        assert result.json == {
            "tokens": 10,
            "model": "gpt-4o",
            "of": "text",
            "family": "gpt-4o",
            "encoding": "o200k_base",
        }


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4", "claude-sonnet-4-5"])
def test_a_request_counts_as_its_prompt(run, model):
    """A JSON object is a request, unless it is said to be text."""
    body = json.dumps(ASKED)
    row = run("count-tokens", "--model", model, "--json", stdin=body).json
    assert (row["of"], row["tokens"]) == ("request", tokens.prompt(body.encode(), model))
    row = run("count-tokens", "--model", model, "--text", "--json", stdin=body).json
    assert (row["of"], row["tokens"]) == ("text", tokens.text(body, model))
    assert run("count-tokens", "--model", model, "--json", stdin="[1, 2]").json["of"] == "text"


def test_wrong_use_and_a_missing_file(run):
    """A model is needed, and a file that is there."""
    assert run("count-tokens", stdin="x").code == 2
    result = run("count-tokens", "--model", "gpt-4o", "nowhere.txt")
    assert (result.code, "nowhere.txt" in result.err) == (1, True)
