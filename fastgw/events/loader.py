"""From the journals of a host into its store: in batches, each line once, whoever dies meanwhile.

The loader reads what workers write while they write it, and what dead workers have left. A segment
goes when nothing more will be written into it, every closing line is in the store, and nothing in
it is open. What a dead worker had open is stored as `held`, at what was reserved for it.

Nothing depends on there being one loader: the store knows each record by (created_at, id). The lock
only saves work. Touches files of the journal folder, and the store through `insert`.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import chain
from operator import itemgetter
from pathlib import Path

import structlog

from fastgw._ext import journal, lines
from fastgw._ext.killpoints import reach
from fastgw._ext.lines import Damaged, Row
from fastgw.errors import InvalidRequest, StoreUnavailable
from fastgw.events.journal import LOADED_AT, LOCK, SEG, is_dead
from fastgw.wire import json

log = structlog.get_logger(__name__)

BATCH = 8_000
"""Records of one transaction; fewer after a failure, which may have been a statement's time-out."""
_LEAST = 250
TOGETHER = 2
"""Transactions under way: while the store works on one the next is made."""
PAUSE_S = 0.25
"""Lines gather this long, so that a busy second is a few transactions."""
MOST_LEFT = 64
"""Segments of one living worker that wait for open exchanges; the oldest are stored as `held`."""
_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_LOCK_PATIENCE_S = 10.0
_BEGAN = slice(lines.HEADER, lines.HEADER + 4)
_NOTHING = bytes(4)

Insert = Callable[[list[Row]], Awaitable[int]]
"""Writes rows of records: those that are new, and settled ones in the place of held ones."""

_ID: Callable[[Row], str] = itemgetter(0)


class Segment:
    """One file, read from its beginning to where its writer is."""

    def __init__(self, path: Path) -> None:
        """OSError or ValueError: it cannot be read at all."""
        self.path = path
        self._file = os.open(path, os.O_RDWR)
        try:
            self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            os.close(self._file)
            raise
        self.at = 0
        """Up to here everything is in the store."""
        self.ahead = 0
        """Up to here it is read."""
        self.names: dict[int, tuple[str | None, ...]] = {}
        self.waiting: dict[str, Row] = {}
        """What is open, as held rows by id."""
        self.damage: int | None = None
        """Where the bytes begin that nobody can read."""
        self.left = False
        """Whether its writer will write nothing more here."""
        self._noted = 0

    @property
    def began(self) -> bool:
        """Whether there is a line."""
        return self._map[_BEGAN] != _NOTHING and len(self._map) > lines.HEADER

    @property
    def done(self) -> bool:
        """Whether there is nothing more to read."""
        return self.left or self.damage is not None

    def loaded_before(self) -> int:
        """Give how far an earlier loader came."""
        return int.from_bytes(self._map[LOADED_AT : LOADED_AT + 8], "little") & ~7

    def read(self, most: int, until: int | None = None) -> Reading:
        """Read on, so many closed rows; what is behind damage is left alone."""
        if not self.began or (self.damage is not None and self.ahead >= self.damage):
            return Reading(self, [], [], self.ahead)
        end = self.damage if until is None else until
        with memoryview(self._map) as whole, whole[:end] as view:
            try:
                return Reading(self, *journal.read(view, self.ahead, self.names, most))
            except Damaged as exc:
                if until is not None:
                    raise
                self.damage = exc.offset
        log.error("journal_damaged", file=self.path.name, offset=self.damage)
        return self.read(most)

    def note(self) -> None:
        """Write down how far we came, for another loader and for `/health`."""
        mark = self.at | 1 if self.done else self.at
        if mark != self._noted:
            os.pwrite(self._file, mark.to_bytes(8, "little"), LOADED_AT)
            self._noted = mark

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
        os.close(self._file)

    def remove(self) -> None:
        """Remove the file: everything in it is in the store."""
        self.close()
        self.path.unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Leave the file for a person to look at; nothing reads it again."""
        self.close()
        with suppress(FileNotFoundError):
            self.path.rename(self.path.with_suffix(".damaged"))


class Reading:
    """What was read of a segment and is not in the store yet."""

    def __init__(
        self, segment: Segment, closed: list[Row], opened: list[tuple[Row, int, int]], end: int
    ) -> None:
        self.segment = segment
        self.closed = closed
        self.opened = opened
        self.end = end


class Journals:
    """The segments of one worker, in the order it writes them."""

    def __init__(self, lock: Path) -> None:
        self.lock = lock
        self.dead = False
        self.segments: dict[Path, Segment] = {}
        self.carried: dict[str, Row] = {}
        """What was open in segments that are gone."""

    def look(self) -> None:
        """Find new segments, and out which are written no more."""
        self.dead = is_dead(self.lock) is not False  # before the files: nothing is added after
        for path in sorted(self.lock.parent.glob(f"{self.lock.stem}.*{SEG}")):
            if path not in self.segments:
                self._add(path)
        left = self.dead
        for segment in reversed(self.segments.values()):
            segment.left = left
            left = left or segment.began

    def _add(self, path: Path) -> None:
        try:
            segment = Segment(path)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as exc:
            log.error("journal_unreadable", file=path.name, reason=str(exc))  # noqa: TRY400
            with suppress(OSError):
                path.rename(path.with_suffix(".damaged"))
            return
        self.segments[path] = segment
        before = segment.loaded_before()
        if before > lines.HEADER:
            try:
                self.apply(segment.read(1 << 62, before))
            except Damaged:
                segment.names.clear()  # the note is wrong: all of it once more

    def apply(self, reading: Reading) -> None:
        """Take note of what is in the store now."""
        segment = reading.segment
        waiting = segment.waiting
        others = [each.waiting for each in self.segments.values() if each is not segment]
        others = [self.carried, *filter(None, others)]
        for row, _, _ in reading.opened:
            for other in others:
                other.pop(_ID(row), None)  # opened once more: it holds more by now
            waiting[_ID(row)] = row
        for id_ in map(_ID, reading.closed):
            if waiting.pop(id_, None) is None:
                for other in others:
                    other.pop(id_, None)
        segment.at = reading.end
        segment.ahead = max(segment.ahead, segment.at)

    def open_rows(self) -> list[Row]:
        """Give the held rows of everything that is open."""
        parts = (self.carried, *(each.waiting for each in self.segments.values()))
        return [*chain.from_iterable(part.values() for part in parts)]

    def drop(self, segment: Segment) -> None:
        """Forget a segment; what is open in it may still be closed in another."""
        self.carried |= segment.waiting
        del self.segments[segment.path]


class Loader:
    """Moves lines of a folder's journals into the store."""

    def __init__(self, folder: Path, insert: Insert) -> None:
        self._folder = folder
        self._insert = insert
        self._journals: dict[str, Journals] = {}
        self.loaded = 0
        """Closed records that went to the store."""
        self.held = 0
        self._batch = BATCH
        self._lock = -1

    async def run(self, stop: asyncio.Event, run: str, last_s: float) -> bool:
        """Load until told to stop and all workers of this server are gone, with what they left.

        False: that did not come about within `last_s` of the end of the last worker.
        """
        await self._lock_folder()
        failures = 0
        alone_since: float | None = None
        while True:
            stopping = stop.is_set()
            failures = 0 if await self._try() else failures + 1
            if stopping and not self._serves(run):
                return True
            if stopping and not self._serves(run, alive=True):
                alone_since = alone_since or time.monotonic()
                if time.monotonic() - alone_since > last_s:
                    return False
            pause = _RETRY_S[min(failures, len(_RETRY_S)) - 1] if failures else PAUSE_S
            if stopping:
                await asyncio.sleep(min(pause, 2 * PAUSE_S))
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stop.wait()

    def close(self) -> None:
        """Let go of all files."""
        for journals in self._journals.values():
            for segment in journals.segments.values():
                segment.close()
        self._journals.clear()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def turn(self) -> int:
        """Load all there is; give how many records that was. StoreUnavailable: later, maybe."""
        self._find()
        moved = 0
        loop = asyncio.get_running_loop()
        writing: deque[tuple[asyncio.Task[None], list[tuple[Journals, Reading]]]] = deque()
        try:
            while True:
                readings = self._read_batch()
                if readings:
                    rows = [*chain.from_iterable(reading.closed for _, reading in readings)]
                    writing.append((loop.create_task(self._write(rows)), readings))
                if not writing:
                    break
                if len(writing) == TOGETHER or not readings:
                    moved += await self._take_in(*writing.popleft())
        finally:
            # One that failed leaves those behind it in the store: they are offered once more.
            await asyncio.gather(*(task for task, _ in writing), return_exceptions=True)
            for journals in self._journals.values():
                for segment in journals.segments.values():
                    segment.ahead = segment.at
        for name, journals in tuple(self._journals.items()):
            await self._retire(name, journals)
        return moved

    async def _take_in(
        self, written: asyncio.Task[None], readings: list[tuple[Journals, Reading]]
    ) -> int:
        """Wait until a batch is in the store, and take note of it."""
        await written
        if reach is not None:
            reach("during_load")
        for journals, reading in readings:
            journals.apply(reading)
            reading.segment.note()
        moved = sum(len(reading.closed) for _, reading in readings)
        self.loaded += moved
        return moved

    async def _try(self) -> bool:
        try:
            await self.turn()
        except StoreUnavailable as exc:
            log.warning("usage_waits", reason=exc.message)
        except Exception:
            log.exception("usage_not_loaded")  # it is in the journal, and tried again
        else:
            self._batch = min(2 * self._batch, BATCH)
            return True
        self._batch = max(self._batch // 2, _LEAST)
        return False

    async def _lock_folder(self) -> None:
        self._lock = os.open(self._folder / "loader", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            await asyncio.sleep(PAUSE_S)
        log.warning("another_loader_works", folder=str(self._folder))

    def _find(self) -> None:
        for path in self._folder.iterdir():
            name = path.name.partition(".")[0]
            if path.suffix in {LOCK, SEG} and name not in self._journals:
                self._journals[name] = Journals(self._folder / f"{name}{LOCK}")
        for journals in self._journals.values():
            journals.look()

    def _serves(self, run: str, *, alive: bool = False) -> bool:
        """Tell whether a worker of this server is alive, or has left something."""
        return any(
            name.startswith(f"{run}-") and not (alive and journals.dead)
            for name, journals in self._journals.items()
        )

    def _read_batch(self) -> list[tuple[Journals, Reading]]:
        found, room = [], self._batch
        for journals in self._journals.values():
            for segment in journals.segments.values():
                reading = segment.read(room)
                if reading.end > segment.ahead:
                    segment.ahead = reading.end
                    found.append((journals, reading))
                    room -= len(reading.closed)
                    if room <= 0:
                        return found
        return found

    async def _write(self, rows: list[Row]) -> None:
        """Write rows; what the store refuses for good is set aside and holds up nobody."""
        if not rows:
            return
        try:
            await self._insert(rows)
        except InvalidRequest as exc:
            if len(rows) == 1:
                log.error("usage_refused", id=rows[0][0], reason=exc.message)  # noqa: TRY400
                self._set_aside(rows[0])
                return
            half = len(rows) // 2
            first, second = rows[:half], rows[half:]
            await self._write(first)
            await self._write(second)

    def _set_aside(self, row: Row) -> None:
        path = self._folder / "refused.jsonl"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.write(json.dumps(row) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    async def _retire(self, name: str, journals: Journals) -> None:
        """Let go of segments that hold nothing that is not in the store."""
        if journals.dead:
            if rows := journals.open_rows():
                await self._hold(rows)
            for segment in tuple(journals.segments.values()):
                self._let_go(journals, segment)
            for path in self._folder.glob(f"{name}.*new"):
                path.unlink(missing_ok=True)
            journals.lock.unlink(missing_ok=True)
            del self._journals[name]
            return
        left = [each for each in journals.segments.values() if each.done]
        for segment in left:
            if not segment.waiting or segment.damage is not None:
                self._let_go(journals, segment)
        for segment in [each for each in left if each.waiting][:-MOST_LEFT]:
            await self._hold([*segment.waiting.values()])
            self._let_go(journals, segment)

    async def _hold(self, rows: list[Row]) -> None:
        for start in range(0, len(rows), self._batch):
            await self._write(rows[start : start + self._batch])
        self.held += len(rows)

    def _let_go(self, journals: Journals, segment: Segment) -> None:
        journals.drop(segment)
        if segment.damage is not None:
            segment.set_aside()
        else:
            segment.remove()
