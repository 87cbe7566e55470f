"""The supervisor keeps its workers alive, loses no connection when one dies, and ends with them."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT
from tests.waiting import eventually_sync

SCRIPT = Path(__file__).with_name("supervised.py")


class Stage:
    """The script's process, which forks supervisors."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(self, **order: Any) -> Any:
        """Have something done."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self.process.communicate()


class Supervised:
    """One supervisor and what it leaves in its folder."""

    def __init__(self, stage: Stage, folder: Path, kind: str, workers: int, address: str) -> None:
        self.folder = folder
        (folder / "config").write_bytes(b"first")
        self.stage = stage
        self.pid = stage.order(folder=str(folder), kind=kind, workers=workers, address=address)
        self.status: int | None = None

    def lines(self, name: str) -> list[list[str]]:
        """Give what the workers noted."""
        path = self.folder / name
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def born(self, least: int) -> list[list[str]]:
        """Wait for so many births; give number, pid, time and count of sockets of each."""
        eventually_sync(lambda: len(self.lines("born")) >= least, 20, f"{least} births")
        return self.lines("born")

    def connect(self) -> socket.socket:
        """Open a connection."""
        address = ast.literal_eval(self.folder.joinpath("port").read_text())
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sock.settimeout(10)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def ask(self) -> list[str]:
        """Give number, pid and configuration of whoever answers."""
        with self.connect() as sock:
            return read(sock)

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it and give its exit status."""
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        """Give its exit status."""

        def ended() -> bool:
            if self.status is None:
                self.status = self.stage.order(poll=self.pid)
            return self.status is not None

        eventually_sync(ended, 15, "the end")
        assert self.status is not None
        return self.status

    @property
    def text(self) -> str:
        """What it logged."""
        return (self.folder / "log").read_text()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture
def start(stage: Stage, tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    started: list[Supervised] = []

    def start(kind: str = "serves", workers: int = 1, address: str = "127.0.0.1:0") -> Supervised:
        started.append(Supervised(stage, tmp_path, kind, workers, address))
        return started[-1]

    yield start
    for each in started:
        if each.status is None:
            each.end()


def read(sock: socket.socket) -> list[str]:
    with sock.makefile() as file:
        return file.read().split()


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_share_a_port_and_nothing_else(start):
    """Each has its own listening socket and its end of one pipe; SIGTERM ends all, exit 0."""
    supervised = start(workers=3)
    born = supervised.born(3)
    assert sorted(line[0] for line in born) == ["0", "1", "2"]
    assert [line[3] for line in born] == ["2", "2", "2"]
    seen: Counter[str] = Counter()
    eventually_sync(lambda: seen.update([supervised.ask()[0]]) or len(seen) == 3, what="all three")
    assert supervised.end() == 0
    assert sorted(supervised.lines("ended")) == [["0", "told"], ["1", "told"], ["2", "told"]]
    with pytest.raises(ConnectionRefusedError):
        supervised.connect()


def test_a_connection_made_while_its_worker_is_dead_is_served_by_the_next(start):
    """The queue belongs to the socket, which the supervisor keeps."""
    supervised = start()
    first = supervised.born(1)[0]
    assert supervised.ask()[1] == first[1]
    supervised.send(signal.SIGSTOP)  # nobody is reborn for now
    os.kill(int(first[1]), signal.SIGKILL)
    eventually_sync(lambda: not alive(first[1]))
    with supervised.connect() as sock:
        supervised.send(signal.SIGCONT)
        answer = read(sock)
    assert answer[:2] == supervised.born(2)[1][:2]
    assert answer[1] != first[1]
    assert supervised.end() == 0


def test_a_worker_that_cannot_live_is_not_started_over_and_over(start):
    """The pause doubles with each quick death, and stopping then is a failure."""
    supervised = start("fails")
    times = [float(line[2]) for line in supervised.born(4)]
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps[0] >= 0.2
    assert gaps[1] >= 0.4
    assert gaps[2] >= 0.8
    eventually_sync(lambda: supervised.text.count('"status": 3') >= 4)
    assert supervised.end() == 1


def test_an_error_in_a_worker_is_logged_and_stays_there(start):
    """The child never returns into the supervisor's code: no second supervisor comes of it."""
    supervised = start("raises")
    supervised.born(2)
    supervised.end()
    assert "not today" in supervised.text
    assert len({line[1] for line in supervised.lines("born")}) == len(supervised.lines("born"))


def test_a_reload_reaches_all_workers_and_those_born_later(start):
    """Everyone serves by the last good configuration; a defect in reading it stops nobody."""
    supervised = start(workers=2)
    supervised.born(2)

    def all_say(text: str) -> None:
        seen: dict[str, str] = {}

        def look() -> bool:
            number, _, said = supervised.ask()
            seen[number] = said
            return seen == {"0": text, "1": text}

        eventually_sync(look, what=f"{text}: {seen}")

    all_say("first")
    (supervised.folder / "config").write_bytes(b"second")
    supervised.send(signal.SIGHUP)
    all_say("second")
    (supervised.folder / "config").write_bytes(b"broken")
    supervised.send(signal.SIGHUP)
    eventually_sync(lambda: "reload_failed" in supervised.text)
    (supervised.folder / "config").write_bytes(b"third")
    os.kill(int(supervised.lines("born")[0][1]), signal.SIGKILL)
    supervised.born(3)
    supervised.send(signal.SIGHUP)
    all_say("third")
    assert supervised.end() == 0


def test_a_busy_worker_gets_a_large_configuration_whole(start):
    """More than a pipe holds, handed over while nobody reads: nothing is lost, nobody waits."""
    supervised = start("busy", workers=2)
    supervised.born(2)
    served: set[str] = set()  # a worker reads its configuration after it is born

    def both_serve() -> bool:
        served.add(supervised.ask()[0])
        return served == {"0", "1"}

    eventually_sync(both_serve, 60)
    for letter in (b"a", b"b"):
        written = supervised.folder / "written"
        written.write_bytes(letter * 500_000)
        written.replace(supervised.folder / "config")  # whole: somebody may be reading it
        supervised.send(signal.SIGHUP)
        eventually_sync(lambda: supervised.ask()[2] == "first")
    (supervised.folder / "go").touch()
    answers: set[tuple[str, str]] = set()

    def look() -> bool:
        number, _, said = supervised.ask()
        answers.add((number, said))
        return {("0", "b" * 100), ("1", "b" * 100)} <= answers

    eventually_sync(look, 60, "the last one")
    assert supervised.end() == 0


def test_a_stop_while_workers_start_is_no_failure(start):
    """Nothing was served yet: SIGTERM ends them at once, exit 0."""
    supervised = start("starts-slowly", workers=2)
    supervised.born(2)
    assert supervised.end() == 0


def test_ctrl_c_is_no_failure_either(start):
    """A terminal sends SIGINT to everybody at once."""
    supervised = start("starts-slowly")
    (born,) = supervised.born(1)
    os.kill(int(born[1]), signal.SIGINT)
    assert supervised.end(signal.SIGINT) == 0


def test_a_worker_that_does_not_end_is_killed_after_the_grace(start):
    """Nobody hangs for ever; that it had to be killed is a failure."""
    supervised = start("stubborn")
    (born,) = supervised.born(1)
    eventually_sync(lambda: supervised.lines("deaf"))
    assert supervised.end() == 1
    assert not alive(born[1])


def test_workers_end_when_the_supervisor_is_killed(start):
    """The end of the pipe tells them."""
    supervised = start(workers=2)
    supervised.born(2)
    supervised.ask()
    assert supervised.end(signal.SIGKILL) == -signal.SIGKILL
    eventually_sync(lambda: len(supervised.lines("ended")) == 2)
    assert sorted(supervised.lines("ended")) == [["0", "alone"], ["1", "alone"]]


def test_a_unix_socket_outlives_its_workers(start, tmp_path):
    """All workers share its one queue; a dead one takes neither the queue nor the file along."""
    supervised = start(workers=2, address=f"unix:{tmp_path}/s")
    born = supervised.born(2)
    assert len(supervised.ask()) == 3
    os.kill(int(born[0][1]), signal.SIGKILL)
    supervised.born(3)
    assert len(supervised.ask()) == 3
    assert supervised.end() == 0
