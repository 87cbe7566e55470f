"""Whatever bytes stand in the files: settings, or a ConfigError that names the place."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.config import ConfigError, Settings, init_text, load
from fastgw.config.files import parse_file
from tests.corpora import shared

PIECES = [
    "server", "port", "models", "providers", "name", "type", "limits", "defaults", ":", ": ", "\n",
    "\n  ", "\n  - ", "- ", "[", "]", "{", "}", ",", "=", '"', "'", '"""', "'''", "&a", "*a", "<<",
    "!!str", "!x", "|", ">", "%", "@", "`", "?", "? ", "#", " #", "\t", "\r", "\r\n", "\x00",
    "\ufeff", "\u2028", "é", "${", "${A}", "$${", "}", "1", "-1", ".nan", "nan", "1e999",
    "null", "~", "true", "---", "...", "[[", "]]", "[server]", "[[models]]", "\\", "\\u0000",
    "2025-01-01", "9" * 60,
]  # fmt: skip

LETTERS = st.characters(exclude_categories=["Cs", "Nd"])
"""No digits: writers of YAML 1.1 leave text such as 0E0 without quotes, a number in YAML 1.2."""


def try_to_load(folder: Path) -> None:
    problems = ()
    try:
        loaded = load({}, None, {"A": "x"}, folder)
    except ConfigError as exc:
        problems = exc.problems or ("a ConfigError without a problem",)
    else:
        assert Settings.from_json(loaded.settings.to_json()) == loaded.settings
    for problem in problems:
        assert problem.place
        assert problem.message


@pytest.mark.parametrize("name", ["fastgw.yaml", "fastgw.toml", ".env"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(st.sampled_from(PIECES), max_size=40))
def test_pieces_of_syntax(tmp_path, name, parts):
    """Pieces of YAML, TOML and .env in any order."""
    (tmp_path / name).write_bytes("".join(parts).encode())
    try_to_load(tmp_path)


@pytest.mark.parametrize("name", ["fastgw.yaml", "fastgw.toml", ".env"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=300))
def test_any_bytes(tmp_path, name, data):
    """Any bytes at all."""
    (tmp_path / name).write_bytes(data)
    try_to_load(tmp_path)


def test_damaged_template(config):
    """A good file with one byte deleted, changed or doubled, at 150 places."""
    text = init_text().replace("#  ", "  ").encode()
    chance = random.Random(2)
    for _ in range(150):
        at = chance.randrange(len(text))
        kind = chance.randrange(3)
        middle = [b"", bytes([chance.randrange(256)]), text[at : at + 1] * 2][kind]
        config.write(text[:at] + middle + text[at + 1 :])
        try_to_load(config.folder)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**40), 2**40)
        | st.floats(allow_nan=False)
        | st.text(LETTERS, max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(LETTERS, max_size=9), inner)
        ),
        max_leaves=20,
    ).filter(lambda value: isinstance(value, dict) and "<<" not in repr(value))
)
def test_what_yaml_writers_write(value):
    """What a YAML writer makes of any value is read as that value."""
    text = yaml.safe_dump(value)
    assert parse_file(text, "x.yaml").plain() == value


def test_naughty_strings_as_values(config):
    """515 hostile strings as an alias' tag: kept as they are, or refused by name."""
    import json

    strings = json.loads((shared("naughty_strings") / "blns.json").read_text())
    kept = 0
    refused = []
    for text in strings:
        value = json.dumps([{"name": "a", "model": "m", "tags": {"t": text}}])
        try:
            loaded = load({}, None, {"FASTGW_ALIASES": value}, config.folder)
        except ConfigError as exc:
            refused.append(str(exc))
        else:
            assert loaded.settings.aliases[0].tags == {"t": text}
            kept += 1
    assert all(each.startswith("FASTGW_ALIASES: aliases[0].tags.t: ") for each in refused)
    assert kept > 450


def test_file_without_permission(tmp_path_factory):
    """Files that may not be read are errors with the reason, not absent settings."""
    folder = tmp_path_factory.mktemp("locked")
    secret = folder / "s"
    secret.write_text("0123456789abcdef")
    (folder / "fastgw.yaml").write_text("security:\n  master_key: {file: s}\n")
    secret.chmod(0)
    root = os.geteuid() == 0
    if root:  # root reads everything: look with another user's eyes
        for parent in (folder, *folder.parents):
            if parent.stat().st_mode & 0o777 == 0o700:
                parent.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError) as caught:
            load({}, None, {}, folder)
    finally:
        if root:
            os.seteuid(0)
    assert str(caught.value) == (
        "fastgw.yaml:2: security.master_key: cannot read s: Permission denied"
    )
