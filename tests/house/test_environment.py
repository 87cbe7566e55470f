"""The environment's maker on its worst day: killed half-way, moved, upgraded, given a wrong Python.

Making one takes the network and is done by `.ci/run`; here is how it judges what it finds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WANTED = {"build": "1", "run": "2"}
sys.path.insert(0, str(ROOT / "scripts"))
import environment  # noqa: E402 - a script, not a package


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An environment as a finished run leaves it, but for its packages."""
    path = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    packages = next((path / "lib").glob("python*")) / "site-packages"
    (packages / "pip.py").touch()
    note = {"path": str(path), "base": os.path.realpath(sys.executable)} | WANTED
    (path / environment.NOTE).write_text(json.dumps(note))
    return path


def judged(path: Path) -> str | None:
    return environment.Environment(path)._unfit(WANTED)


def change(path: Path, **facts: str) -> None:
    note = json.loads((path / environment.NOTE).read_text())
    (path / environment.NOTE).write_text(json.dumps(note | facts))


def test_a_finished_environment_is_kept(made: Path):
    assert judged(made) is None


def test_a_layer_that_is_not_there_yet_is_no_reason_to_start_over(made: Path):
    assert environment.Environment(made)._unfit(WANTED | {"lint": "3"}) is None


def take_python_away(path: Path) -> Path:
    (path / "bin/python").unlink()
    return path


def upgrade_python(path: Path) -> Path:
    """The link now leads to a version that looks for its packages elsewhere."""
    library = next((path / "lib").glob("python*"))
    library.rename(library.with_name("python3.1"))
    return path


def move(path: Path) -> Path:
    return Path(shutil.move(path, path.with_name("elsewhere")))


def tear_note(path: Path) -> Path:
    (path / environment.NOTE).write_text('{"path": "')
    return path


def interrupt(path: Path) -> Path:
    change(path, busy="run")
    return path


def relock(path: Path) -> Path:
    change(path, run="other")
    return path


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (interrupt, "left half-done at run"),
        (move, "not made here"),
        (tear_note, "not made here"),
        (relock, "locks have changed"),
        (take_python_away, "its Python is gone"),
        (upgrade_python, "its Python is gone"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_harmed_environment_is_made_anew(made: Path, harm: Callable[[Path], Path], reason: str):
    """Pip takes a half-written package for an installed one, so nothing is ever repaired."""
    assert (judged(harm(made)) or "").startswith(reason)


def test_a_step_that_fails_leaves_its_mark(made: Path):
    env = environment.Environment(made)
    with pytest.raises(environment.Trouble), env.step("lint", "3"):
        raise environment.Trouble("the network is away")
    assert (judged(made) or "").startswith("left half-done at lint")


def test_a_folder_that_is_not_an_environment_is_never_removed(tmp_path: Path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(environment.Trouble, match="move it away"):
        environment.Environment(folder).ensure(["run"])
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_a_lock_is_held_by_an_orphaned_pip(tmp_path: Path):
    """Killed with kill -9, the maker's child may still write: the next maker has to wait for it."""
    script = (
        "import fcntl, os, sys; sys.path.insert(0, sys.argv[1]); import environment\n"
        "holder = os.open(sys.argv[2], os.O_RDONLY); os.set_inheritable(holder, True)\n"
        "fcntl.flock(holder, fcntl.LOCK_EX)\n"
        "environment.run('flock', '--nonblock', '--conflict-exit-code', '7', sys.argv[2], 'true')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "scripts"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "failed (7)" in done.stderr


def test_variables_that_would_bend_pip_are_dropped(monkeypatch: pytest.MonkeyPatch):
    """And pip's own configuration stays in force."""
    for name in ("PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("HOME", "/nonexistent")
    env = environment.tool_env()
    assert not {"PYTHONPATH", "PIP_TARGET", "PIP_PREFIX"} & set(env)
    assert env["PIP_INDEX_URL"] == "x"
    assert env["PIP_ONLY_BINARY"] == ":all:"
    assert env["PIP_NO_CACHE_DIR"] == "1"


@pytest.mark.parametrize("compiler", ["/bin/false", "/nonexistent/cc"])
def test_a_compiler_that_does_not_work_is_none(monkeypatch: pytest.MonkeyPatch, compiler: str):
    monkeypatch.setenv("CC", compiler)
    assert environment.missing_for_c() is not None


@pytest.mark.parametrize("python", ["/bin/false", "/nonexistent/python", "/bin/true"])
def test_the_shell_part_refuses_a_python_that_will_not_do(python: str):
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "scripts/bootstrap"), "run"],
        env={"PYTHON": python, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "3.11" in done.stderr


def test_the_shell_part_says_what_to_install_when_there_is_no_python():
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "scripts/bootstrap"), "run"],
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "apt-get install python3" in done.stderr


def test_an_export_has_no_leftovers(tmp_path: Path):
    """A wheel is built from this: a compiled module of yesterday must not slip in."""
    environment.export(tmp_path)
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert {"pyproject.toml", "setup.py", "fastgw/__init__.py", "requirements/run.lock"} <= names
    assert not [n for n in names if n.endswith((".so", ".pyc")) or n.startswith((".venv", "build"))]
