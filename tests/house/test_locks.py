"""The locks: everything pinned and hashed, in step with pyproject.toml, free of any host."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    """Give what a lock pins, name -> version."""
    return dict(PIN.findall((ROOT / "requirements" / f"{name}.lock").read_text()))


def asked(name: str) -> list[str]:
    """Give the requirements that pyproject.toml writes down for a lock."""
    if name == "run":
        return PROJECT["project"]["dependencies"]
    return PROJECT["dependency-groups"][name]


@pytest.mark.parametrize("name", [lock.stem for lock in LOCKS])
def test_a_lock_satisfies_what_is_asked_of_it(name: str):
    """A dependency that was changed without `make lock` is noticed."""
    held = pins(name)
    for line in asked(name):
        requirement = Requirement(line)
        version = held.get(canonicalize_name(requirement.name))
        assert version is not None, f"{line} is not in {name}.lock: run make lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{line}: {version}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_pin_has_a_hash_and_no_lock_names_a_host(lock: Path):
    """Where packages come from is the machine's business; what they are is ours."""
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"^--?(i|index-url|extra|find|f)\b", text, re.MULTILINE)
    for block in re.split(r"\n(?=\S)", text):
        if not block.startswith("#"):
            assert PIN.match(block), block[:80]
            assert "--hash=sha256:" in block, block[:80]


def test_one_environment_can_hold_every_layer():
    """No two locks want different versions of a package; `lock` is made of its own tool alone."""
    seen: dict[str, str] = {}
    for lock in LOCKS:
        for name, version in pins(lock.stem).items():
            assert seen.setdefault(name, version) == version, f"{name} in {lock.name}"


def test_the_build_tools_are_the_declared_ones():
    """What pip would fetch for an isolated build is what the build lock pins."""
    declared = {Requirement(r).name: r for r in PROJECT["build-system"]["requires"]}
    for name, line in declared.items():
        assert Requirement(line).specifier.contains(pins("build")[name])
