"""The Dockerfile as text: what it promises, and how `make image-check` reads it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import image_check  # noqa: E402 - a script, not a package

STEPS = image_check.instructions((ROOT / "Dockerfile").read_text())


def rest_of(name: str) -> list[str]:
    return [rest for instruction, rest in STEPS if instruction == name]


def test_the_image_runs_as_nobody_in_particular():
    assert rest_of("USER") == ["10001:10001"]
    assert rest_of("ENTRYPOINT") == ['["fastgw"]']
    assert rest_of("CMD") == ['["serve", "--host", "0.0.0.0"]']


def test_only_locked_packages_get_in():
    """Every install is by hash, but for the wheel that was just built; nothing comes by apt."""
    installs = [part for run in rest_of("RUN") for part in run.split("&&") if " install " in part]
    pip = [part for part in installs if "pip" in part]
    assert len(pip) == 3
    assert all("--require-hashes" in part or "--no-index" in part for part in pip)
    assert not [run for run in rest_of("RUN") if "apt-get" in run or "curl" in run]


def test_no_command_of_the_final_image_needs_a_shell():
    for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
        assert rest_of(name)[0].endswith("]"), name


def test_image_check_knows_every_instruction():
    assert [name for name, _ in STEPS if not hasattr(image_check.Build, f"do_{name.lower()}")] == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("fastgw/__init__.py", True),
        ("fastgw/_ext/_scan.pyx", True),
        ("fastgw/_ext/_scan.cpython-311-x86_64-linux-gnu.so", False),
        ("fastgw/__pycache__/domain.cpython-311.pyc", False),
        ("requirements/run.lock", True),
        ("tests/house/test_image.py", False),
        (".git/config", False),
        (".env", False),
        ("fastgw.yaml", False),
        ("fastgw-data/master.key", False),
    ],
)
def test_an_image_is_sent_nothing_but_sources(name: str, kept: bool):
    lines = [line.strip() for line in (ROOT / ".dockerignore").read_text().splitlines()]
    ignore = [line for line in lines if line and not line.startswith("#")]
    assert image_check.allowed(name, ignore) is kept
