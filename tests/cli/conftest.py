"""Runs commands in this process, on a fresh database of each engine, in an empty folder."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from fastgw.cli import main
from fastgw.providers import discovery


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run `fastgw ARGS` with no terminal and an environment that names nothing."""
    for name in ("DATABASE_URL", "REDIS_URL", "FASTGW_CONFIG", *discovery()):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "here"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)

    def command(*args: object, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return command


@pytest.fixture
def cli(run, store_url, monkeypatch):
    """The same with a database, once for each engine."""
    monkeypatch.setenv("DATABASE_URL", store_url)
    return run
