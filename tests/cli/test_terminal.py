"""At a real terminal: secrets are asked for and not shown, Ctrl-C ends, escapes do nothing."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import eventually_sync

ROOT = os.fspath(Path(__file__).parents[2])
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.executable, [sys.executable, '-m', 'fastgw', *sys.argv[1:]])"
)


class Terminal:
    """A command that runs at a terminal of its own."""

    def __init__(self, folder: Path, *args: str) -> None:
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": ROOT},
        )
        os.close(theirs)
        self.shown = ""

    def see(self, text: str) -> bool:
        """Tell whether `text` was shown by now."""
        with contextlib.suppress(OSError):  # nothing new, or the other end is closed
            self.shown += os.read(self._ours, 65536).decode()
        return text in self.shown

    def type(self, text: str) -> None:
        """Type something, once it is asked for."""
        eventually_sync(lambda: self.see("credential: "), timeout=30)
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Wait for the end and give the exit code."""
        eventually_sync(lambda: self.see("\0") or self.process.poll() is not None, timeout=30)
        self.see("")
        return self.process.wait()

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(tmp_path):
    """Start commands at a terminal."""
    started = []

    def start(*args):
        started.append(Terminal(tmp_path, *args))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_credential_is_asked_for_and_not_shown(terminal):
    """What is typed is stored and does not appear."""
    adding = terminal("providers", "add", "p", "--type", "openai")
    adding.type("sk-typed-0123456789abcdef\r")
    assert adding.end() == 0, adding.shown
    assert "sk-…cdef" in adding.shown
    assert "0123456789" not in adding.shown


def test_the_first_ctrl_c_ends_it(terminal, tmp_path):
    """A question is left at once, with exit code 130 and nothing stored."""
    adding = terminal("providers", "add", "p", "--type", "openai")
    adding.type("\x03")
    assert adding.end() == 130
    assert "interrupted" in adding.shown
    assert not (tmp_path / "fastgw-data").exists()


def test_names_cannot_draw_on_the_terminal(terminal, tmp_path):
    """An error that repeats hostile bytes shows them instead of obeying them."""
    (tmp_path / "fastgw.yaml").write_text("")
    showing = terminal("keys", "show", "a\x1b]0;title\x07\x1b[2J")
    assert showing.end() == 1
    assert "\x1b" not in showing.shown
    assert r"\x1b[2J" in showing.shown
