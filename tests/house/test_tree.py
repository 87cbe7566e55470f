"""What may be in a commit: no trace of one machine, no host of a registry, nothing generated."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Written in pieces, so that this file is held to the same rule.
MACHINE = ["/wo" + "rk/", "/ro" + "ot/.", "/far" + "m/", "py" + "env", "/tmp/ba" + "sh"]
REGISTRIES = ["pypi." + "org", "python" + "hosted", "npm" + "js.", "crates." + "io"]
REGISTRIES += ["proxy.go" + "lang", "debian." + "org", "maven." + "org"]
SECRETS = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|AKIA[0-9A-Z]{16}|ghp_\w{36}")
GENERATED = {".so", ".pyc", ".whl", ".egg-info", ".db", ".log"}


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file that git knows here."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"git lists no files here: {error}")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """Give a file as text; what is not text gives none."""
    data = path.read_bytes()
    return "" if b"\0" in data else data.decode("utf-8", "replace")


@pytest.mark.parametrize("word", MACHINE + REGISTRIES)
def test_no_file_speaks_of_a_machine_or_a_registry(tracked: list[Path], word: str):
    assert [str(p.relative_to(ROOT)) for p in tracked if word in text_of(p)] == []


def test_no_secret_is_committed(tracked: list[Path]):
    assert [str(p.relative_to(ROOT)) for p in tracked if SECRETS.search(text_of(p))] == []


def test_nothing_generated_is_committed(tracked: list[Path]):
    assert [str(p.relative_to(ROOT)) for p in tracked if p.suffix in GENERATED] == []


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_actions_are_pinned_by_commit_and_get_no_rights():
    """A tag can be moved; a commit cannot."""
    workflows = list((ROOT / ".github/workflows").glob("*.yml"))
    assert workflows
    for workflow in workflows:
        text = workflow.read_text()
        assert "\npermissions: {}\n" in text
        used = re.findall(r"uses: (\S+)", text)
        assert [u for u in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", u)] == []
