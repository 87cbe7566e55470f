"""What is done apart gives its answer, or says why it has none, and leaves nothing in us."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from fastgw.errors import CannotStart, VaultError
from fastgw.server.apart import run_apart


def test_the_answer_comes_back():
    """A text or nothing; the work is done in another process."""
    assert run_apart(lambda: str(os.getppid())) == str(os.getpid())
    assert run_apart(lambda: None) is None
    assert run_apart(lambda: "ü" * 100_000) == "ü" * 100_000


def test_an_error_of_ours_keeps_its_message():
    """The operator reads what the child found."""

    def work():
        raise VaultError("the wrong master key")

    with pytest.raises(CannotStart, match="the wrong master key"):
        run_apart(work)


def test_a_child_that_dies_is_told():
    """Killed, or ended by a defect: no answer is an error, never a success."""

    def killed():
        os.kill(os.getpid(), signal.SIGKILL)

    def broken():
        raise KeyError("x")

    with pytest.raises(CannotStart, match="status -9"):
        run_apart(killed)
    with pytest.raises(CannotStart, match="status 1"):
        run_apart(broken)


def test_what_it_says_is_said_once(capfd):
    """Text that waits in a buffer is not written by the child as well."""
    sys.stdout.write("before ")

    def work():
        sys.stdout.write("inside ")

    run_apart(work)
    sys.stdout.write("after")
    sys.stdout.flush()
    assert capfd.readouterr().out == "before inside after"


def test_what_it_imports_is_not_ours():
    """Modules that only the work needs go with the child."""
    name = "this"
    sys.modules.pop(name, None)
    assert run_apart(lambda: __import__(name).__name__) == name
    assert name not in sys.modules


def children():
    """Give the processes that we started."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@pytest.mark.usefixtures("alarm")
def test_an_interruption_ends_the_child():
    """Who is told to stop while waiting leaves no child behind."""
    before = children()
    with pytest.raises(InterruptedError):
        run_apart(lambda: str(signal.pause()))
    assert children() == before


@pytest.fixture
def alarm():
    """Interrupt this process, not its children, in a moment."""

    def interrupt(number, frame):
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
