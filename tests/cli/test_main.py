"""The command line as a whole: help, exit codes, edges, import cost."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fastgw.cli import VERBS, build

ROOT = os.fspath(Path(__file__).parents[2])


def fastgw(*args, cwd, **environ):
    """Run the real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fastgw", *args],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ROOT, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_help_lists_every_verb_and_loads_none(tmp_path):
    """`fastgw --help` is cheap: no heavy room is imported for it."""
    heavy = {"asyncpg", "pydantic", "alembic", "aiohttp", "yaml", "cryptography", "redis"}
    code = (
        "import sys; from fastgw.cli import main; main(['--help']);"
        f"sys.exit(' '.join({heavy} & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(run, verb):
    """Each verb loads and says how it is used."""
    result = run(verb, "--help")
    assert result.code == 0, result.err
    assert f"Usage: fastgw {verb} " in result.out


def test_verbs_are_loaded_only_when_named():
    """Building the application for one verb leaves the others as names."""
    commands = {command.name: command for command in build(["config"]).registered_commands}
    assert "keys" in commands
    assert "config" not in commands


def test_a_process_from_end_to_end(tmp_path):
    """create, list and a failure through the real entry point, with real exit codes."""
    made = fastgw("keys", "create", "--name", "a", "--json", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    listed = fastgw("keys", "list", cwd=tmp_path)
    assert len(listed.stdout.splitlines()) == 2
    absent = fastgw("keys", "show", "b", cwd=tmp_path)
    assert (absent.returncode, absent.stdout, absent.stderr) == (1, "", "fastgw: no key 'b'\n")
    assert fastgw("keys", "list", "--limit", "x", cwd=tmp_path).returncode == 2


def test_a_reader_that_leaves_is_no_error_of_ours(tmp_path):
    """`fastgw ... | head` prints no complaint."""
    command = f"{sys.executable} -m fastgw config show | true"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:canarypw@127.0.0.1:1/x", "database"),
        ("sqlite:////proc/nope/x.db", "No such file"),
        ("mysql://u:canarypw@h/x", "sqlite"),
    ],
)
def test_a_database_that_is_not_there_is_one_line(run, monkeypatch, url, said):
    """Exit code 1, one line, no password in it."""
    monkeypatch.setenv("DATABASE_URL", url)
    result = run("keys", "list")
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert said in result.err
    assert "canarypw" not in result.err


def test_a_file_that_is_no_database(run, monkeypatch, tmp_path):
    """Garbage where the database should be is said, not overwritten."""
    path = tmp_path / "x.db"
    path.write_bytes(b"this is no database" * 100)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{path}")
    result = run("keys", "list")
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert path.read_bytes().startswith(b"this is no database")


def test_a_bad_configuration_names_the_line(run, tmp_path):
    """Every problem is a line with file, line and key; the exit code is 1."""
    (tmp_path / "bad.yaml").write_text("server:\n  prot: 1\nlogs:\n  level: loud\n")
    result = run("--config", tmp_path / "bad.yaml", "config", "show")
    assert result.code == 1
    assert len(result.err.splitlines()) == 2
    assert "bad.yaml:2" in result.err
    assert "port" in result.err


def test_config_show_masks_secrets(run, monkeypatch):
    """A secret is recognised, not read; each value says where it came from."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canarycanarycanary")
    monkeypatch.setenv("FASTGW_SERVER__PORT", "9000")
    rows = {row["key"]: row for row in run("config", "show", "--json").json}
    assert rows["server.port"] == {
        "key": "server.port",
        "value": "9000",
        "origin": "FASTGW_SERVER__PORT",
    }
    assert "canarycanary" not in str(rows)
    assert rows["providers[0].api_key"]["origin"].startswith("OPENAI_API_KEY")


def test_init_writes_a_private_file_once(run, tmp_path):
    """0600, loads as it is, and is not overwritten without --force."""
    assert run("init").code == 0
    path = tmp_path / "here/fastgw.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run("config", "show").code == 0
    path.write_text("logs: {level: debug}\n")
    result = run("init")
    assert result.code == 1
    assert "--force" in result.err
    assert path.read_text() == "logs: {level: debug}\n"
    assert run("init", "--force").code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(each.name for each in path.parent.iterdir()) == ["fastgw.yaml"]


def test_init_where_nothing_can_be_written(run):
    """A folder that does not exist is one line."""
    result = run("init", "no/such/folder/fastgw.yaml")
    assert result.code == 1
    assert "No such file or directory" in result.err


def test_version(run):
    """`fastgw --version`."""
    result = run("--version")
    assert result.code == 0
    assert result.out.startswith("fastgw ")


def test_a_defect_is_one_line_unless_asked(run, monkeypatch):
    """What we did not foresee ends with one line; --debug shows the traceback."""

    def fail(*_):
        raise ZeroDivisionError("a\x1bb")

    monkeypatch.setattr("fastgw.cli.config.show", fail)
    result = run("config", "show")
    assert result.code == 1
    assert result.err == (
        "fastgw: a defect: ZeroDivisionError: a\\x1bb (fastgw --debug shows where)\n"
    )
    with pytest.raises(ZeroDivisionError):
        run("--debug", "config", "show")
