"""The files behind a worker's journal: where they are, made ahead, and safe from power loss.

    FOLDER/RUN-WORKER-xxxxxx.lock          locked (flock) by the worker as long as it lives
    FOLDER/RUN-WORKER-xxxxxx.000001.seg    its segments; the last one is in reserve

What nobody holds the lock of belongs to nobody any more: loader.py takes it into the store.
Segments are allocated as a whole in a thread, so a disk that is full is noticed before there is
something to write. A line is safe from kill -9 once it is written; from power loss after `_SYNC_S`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from fastgw._ext import journal, lines

log = structlog.get_logger(__name__)

LOCK = ".lock"
SEG = ".seg"
LOADED_AT = 16
"""Place in a segment's header where the loader notes how far it came; bit 0: that was all."""

_LOOK_S = 0.05
_SYNC_S = 1.0
_OLD_S = 600.0
"""A segment with something in it is left after so long: no line is older than this and retention
when its segment is read once more."""
_PATIENCE_S = 5.0


class Place(msgspec.Struct, frozen=True):
    """Where the journals of one running server are."""

    folder: Path
    run: str
    """Begins the names of everything that this server makes there."""

    @classmethod
    def make(cls, folder: Path) -> Place:
        """Give a place in a folder, which is made if it is not there."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(folder, secrets.token_hex(4))


class Segments:
    """Keeps one journal supplied with segments: `start`, then `run` and `sync`; `close` at last."""

    def __init__(self, place: Place, number: int, *, full_at: float, size: int) -> None:
        self.journal = journal.Journal()
        self.fault: str | None = None
        """Why no further segment can be made."""
        self._folder = place.folder
        self._name = f"{place.run}-{number}-{secrets.token_hex(3)}"
        self._full_at = full_at
        self._size = size
        self._lock = -1
        # Threads outlive who waited for them. A slow disk must not keep segments from being made.
        self._making, self._syncing = threading.Lock(), threading.Lock()
        self._files: dict[int, int] = {}
        """Descriptors by serial, until what was written there is synced for the last time."""
        self._serial = 0
        self._turned_at = time.monotonic()
        self._synced = 0

    def start(self) -> None:
        """Take the lock and make the first segment and the reserve; OSError: no such folder."""
        # Locked before it has its name: who finds it unlocked may take what is there.
        new = self._folder / f"{self._name}.new"
        self._lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(self._folder / f"{self._name}{LOCK}")
        for _ in range(2):
            made = self._make()
            if made is not None:
                self._provide(*made)

    async def run(self) -> None:
        """Make segments ahead and leave old ones, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Do what is due."""
        written = self.journal
        if written.wants_segment:
            made = await asyncio.to_thread(self._make)
            if made is not None:
                self._provide(*made)
        elif time.monotonic() - self._turned_at > _OLD_S:
            self._turned_at = time.monotonic()
            if written.end > lines.HEADER:
                written.turn_over()

    async def sync(self) -> None:
        """Bring what was written to the disk itself now and then, until cancelled."""
        while True:
            await asyncio.sleep(_SYNC_S)
            if self.journal.lines != self._synced:
                self._synced = self.journal.lines
                left = self.journal.take_left()
                await asyncio.to_thread(self._sync, left)

    async def flush(self) -> None:
        """Wait until the loader has taken in everything written so far."""
        serial, end = self.journal.serial, self.journal.end
        while any(self._unread(serial, end)):  # noqa: ASYNC110 - files tell nobody
            await asyncio.sleep(_LOOK_S / 2)

    def _unread(self, last: int, end: int) -> Iterator[bool]:
        """Tell of each segment whether the loader has something to read before this place."""
        for path in self._folder.glob(f"{self._name}.*{SEG}"):
            serial = int(path.name.rpartition(".")[0].rpartition(".")[2])
            with suppress(FileNotFoundError):
                loaded = read_loaded(path)
                if serial == last:
                    yield max(loaded & ~1, lines.HEADER) < end
                elif serial < last:
                    yield not loaded & 1

    def close(self) -> None:
        """Sync and let go; what is written belongs to the loader."""
        if self._lock >= 0:
            with self._making:
                os.close(self._lock)
                self._lock = -1
            self._sync([*self._files])

    def describe(self) -> dict[str, object]:
        """Give what an operator wants to know; `waiting` is bytes that the loader has not read."""
        return {
            "lines": self.journal.lines,
            "waiting": sum(self._waiting()),
            "fault": self.fault,
        }

    def _waiting(self) -> Iterator[int]:
        current = self.journal.serial
        for path in self._folder.glob(f"{self._name}.*{SEG}"):
            serial = int(path.name.rpartition(".")[0].rpartition(".")[2])
            with suppress(FileNotFoundError):
                loaded = read_loaded(path)
                if serial == current:
                    yield self.journal.end - max(loaded & ~1, lines.HEADER)
                elif serial < current and not loaded & 1:
                    yield self._size - loaded

    def _provide(self, file: int, size: int, serial: int) -> None:
        try:
            self.journal.provide(file, size, serial)
        except OSError as exc:  # it cannot be mapped; another one, maybe
            self._tell(exc.strerror or str(exc))
        self._turned_at = time.monotonic()

    def _make(self) -> tuple[int, int, int] | None:
        """Allocate a segment; None when there is no room for one, and `fault` says why."""
        with self._making:
            if self._lock < 0:
                return None
            try:
                file = self._allocate(self._serial + 1)
            except OSError as exc:
                self._tell(exc.strerror or str(exc))
                return None
            self._tell(None)
            self._serial += 1
            self._files[self._serial] = file
            return file, self._size, self._serial

    def _allocate(self, serial: int) -> int:
        self._check_room()
        path = self._folder / f"{self._name}.{serial:06d}{SEG}"
        new = path.with_suffix(".new")
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(file, 0, self._size)
            new.rename(path)
        except OSError:
            os.close(file)
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise
        return file

    def _check_room(self) -> None:
        disk = os.statvfs(self._folder)
        share = 1 - disk.f_bavail / max(disk.f_blocks, 1)
        if share >= self._full_at:
            raise OSError(0, f"the disk is {share:.0%} full")

    def _tell(self, fault: str | None) -> None:
        if fault == self.fault:
            return
        if fault is not None and self.fault is None:
            log.error("journal_cannot_grow", folder=str(self._folder), reason=fault)
        elif fault is None:
            log.info("journal_grows_again", folder=str(self._folder))
        self.fault = fault

    def _sync(self, left: list[int]) -> None:
        for serial, file in [*self._files.items()]:
            with self._syncing:
                self._sync_one(serial, file, last=serial in left)

    def _sync_one(self, serial: int, file: int, *, last: bool) -> None:
        if serial not in self._files:
            return  # another thread was here
        try:
            os.fdatasync(file)
        except OSError as exc:
            log.error("journal_not_synced", reason=str(exc))  # noqa: TRY400 - says it all
        if last:
            del self._files[serial]
            os.close(file)


def read_loaded(path: Path) -> int:
    """Give what the loader has noted in a segment."""
    with path.open("rb") as file:
        return int.from_bytes(os.pread(file.fileno(), 8, LOADED_AT), "little")


def is_dead(lock: Path) -> bool | None:
    """Tell whether the owner of a set of segments is gone; None: the set is gone."""
    try:
        file = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        # Shared: two who ask at once must not take each other for the owner.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def find_leftovers(folder: Path) -> list[Path]:
    """Give the locks of workers that are gone and have left something."""
    return [path for path in folder.glob(f"*{LOCK}") if is_dead(path)]


async def wait_for_leftovers(folder: Path) -> None:
    """Wait until what dead workers have left is in the store, or set aside.

    Before that nobody may read from the store what was spent.
    """
    leftovers = find_leftovers(folder)
    began = time.monotonic()
    told = False
    while leftovers := [path for path in leftovers if path.exists()]:
        if not told and time.monotonic() - began > _PATIENCE_S:
            told = True
            log.warning("waiting_for_the_journal", leftovers=len(leftovers))
        await asyncio.sleep(_LOOK_S / 2)
