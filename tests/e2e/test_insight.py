"""What an operator sees of a running server: profiles and reports, while it serves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import configuration
from tests.e2e.test_records import ask
from tests.processes import ROOT, Gateway
from tests.waiting import eventually_sync

SUBSYSTEMS = {"lanes", "plans", "pools", "journal", "keys", "clients", "directory"}


@pytest.fixture
def two_workers(sqlite_url, mock, tmp_path):
    """A gateway with two workers."""
    config = configuration(mock)
    config["server"] = {**config["server"], "workers": 2}
    config["logs"] = {"format": "json", "level": "warning"}
    gateway = Gateway(tmp_path, sqlite_url, config)
    gateway.ready()
    yield gateway
    gateway.stop()


def profile(gateway: Gateway, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `fastgw profile` as the operator does, where the server was started."""
    command = [sys.executable, "-m", "fastgw", "profile", *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        cwd=gateway.folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_profile_samples_every_worker_under_load(two_workers, tmp_path):
    """Collapsed stacks of both workers, our own functions by name; then the server goes on."""
    gateway = two_workers
    key = gateway.create_key()
    out = tmp_path / "stacks.txt"
    with ThreadPoolExecutor(5) as pool:
        sampled = pool.submit(profile, gateway, "--seconds", "2", "--out", str(out))
        while not sampled.done():
            for asked in [pool.submit(ask, gateway, key, "smart") for _ in range(40)]:
                assert asked.result()[0] == 200
    done = sampled.result()
    assert (done.returncode, done.stderr) == (0, "")
    lines = out.read_text().splitlines()
    assert all(re.fullmatch(r"worker-[01](;[^; ]+)+ \d+", line) for line in lines)
    assert {line.split(";")[0] for line in lines} == {"worker-0", "worker-1"}
    assert any(";fastgw.server.run:work;" in line for line in lines)
    again = profile(gateway, "--seconds", "0.1", "--out", str(out))
    assert (again.returncode, out.read_text().splitlines()) == (1, lines)
    assert gateway.get("/healthz")[0] == 200


def test_profile_without_a_server_says_so(two_workers):
    """Exit 1, naming the folder that was looked into."""
    two_workers.stop()
    done = profile(two_workers, "--seconds", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no server with the data folder" in done.stderr


def test_usr1_reports_each_subsystem_of_each_worker(two_workers):
    """To the supervisor: all workers, one line each; to a worker: its own. Nothing else changes."""
    gateway = two_workers
    key = gateway.create_key()
    assert ask(gateway, key, "smart")[0] == 200

    def reports() -> list[dict]:
        lines = [line for line in gateway.output if '"report"' in line]
        return [json.loads(line) for line in lines]

    serving: set[int] = set()  # one that is still starting hears nothing

    def both_serve() -> bool:
        serving.add(json.loads(gateway.get("/health")[1])["worker"])
        return serving == {0, 1}

    eventually_sync(both_serve, 20, "both workers")
    gateway.signal(signal.SIGUSR1)
    eventually_sync(lambda: len(reports()) >= 2 * len(SUBSYSTEMS), 10, "reports of both")
    told = {(each["worker"], each["subsystem"]) for each in reports()}
    assert told == {(worker, name) for worker in (0, 1) for name in SUBSYSTEMS}
    (pools,) = [
        each["origins"] for each in reports() if each["subsystem"] == "pools" and each["origins"]
    ]
    assert re.search(r"1 open, 1 idle", str(pools))
    served = [each["served"] for each in reports() if each["subsystem"] == "lanes"]
    assert sum(sum(counts.values()) for counts in served) == 1
    assert key not in gateway.text

    before = len(reports())
    os.kill(gateway.children()[0], signal.SIGUSR1)
    eventually_sync(lambda: len(reports()) >= before + len(SUBSYSTEMS), 10, "reports of one")
    assert len({each["worker"] for each in reports()[before:]}) == 1
    assert gateway.get("/healthz")[0] == 200
