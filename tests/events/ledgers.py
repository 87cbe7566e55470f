"""Journals as workers leave them, for tests of who reads them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from fastgw._ext import journal
from fastgw.events.journal import Place, Segments

SIZE = 1 << 16
NOON = 1_763_726_400_000
WHO = ("key_1", None, "team_1", None, '{"job":"x"}', "chat", "smart", "openai", "gpt-5")


class Worker:
    """Writes lines as a worker does; dies when told."""

    def __init__(self, place: Place, number: int = 0, *, size: int = SIZE) -> None:
        self.segments = Segments(place, number, full_at=1, size=size)
        self.segments.start()
        self.journal = self.segments.journal
        self.who = journal.Who(WHO)
        self.kept: dict[str, int] = {}

    async def open(self, name: str, nano: int = 900) -> None:
        """Write an opening line."""
        await self.segments.look()
        kept = self.journal.open(self.who, name, None, at(name), False, nano, 30, 10)
        assert kept
        self.kept[name] = kept

    async def close(self, name: str, nano: int = 7) -> None:
        """Write a closing line."""
        await self.segments.look()
        assert self.journal.close(
            self.kept.pop(name, 0), self.who, name, None, at(name), False,
            *(200, 1, 10, 5, 2, 1, 3, nano, "reported", 400, -1, 90, None),
        )  # fmt: skip

    async def serve(self, *names: str) -> None:
        """Write both lines of exchanges."""
        for name in names:
            await self.open(name)
            await self.close(name)

    def die(self) -> None:
        """Let go of the lock, as the kernel does for a dead process."""
        self.segments.close()


def at(name: str) -> int:
    """Give the time of an exchange, which is its number's."""
    return NOON + int(name.rpartition("_")[2])


def names(count: int, first: int = 0) -> list[str]:
    """Give ids of exchanges."""
    return [f"fgx_{number:06d}" for number in range(first, first + count)]


def killed(work: Callable[[], None]) -> None:
    """Do something in a child process that ends by kill -9 whatever it does."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def left(place: Place, suffix: str = "") -> list[Path]:
    """Give the files of the folder, but the loader's lock."""
    return sorted(p for p in place.folder.iterdir() if p.name != "loader" and p.suffix != suffix)
