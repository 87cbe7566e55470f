"""Usage records on their way to the store: in batches, off the request path, none lost on the way.

A batch that the store refuses for now stays in memory and is offered again. What cannot be written
by the end of the process, or no longer fits, goes to a spill file beside the database, which the
next start loads. Writing is idempotent by (created_at, id), so offering a record twice is harmless.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from fastgw.domain import UsageRecord, to_builtins
from fastgw.errors import StoreUnavailable
from fastgw.wire import json

log = structlog.get_logger(__name__)

_BATCH = 4_000
"""Records of one transaction: each step of writing them keeps the loop for 2 to 3 ms."""
_PAUSE_S = 0.25
"""Records gather this long, so that a busy second is a few transactions."""
_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)

Insert = Callable[[Sequence[UsageRecord]], Awaitable[object]]


class UsageWriter:
    """Takes records with `put`, writes them from `run`, hands over what is left in `close`."""

    def __init__(self, insert: Insert, folder: Path, *, most: int = 100_000) -> None:
        self._insert = insert
        self._folder = folder
        self._most = most
        self._waiting: list[UsageRecord] = []
        self._batch: list[UsageRecord] = []
        """Records that are being written; no longer among those that wait."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._spill = folder / f"usage-{secrets.token_hex(8)}.jsonl"
        self._refused = self._spill.with_suffix(".refused")
        """For a person to look at: nothing loads it."""
        self.written = 0
        self.spilled = 0

    def __len__(self) -> int:
        return len(self._batch) + len(self._waiting)

    def put(self, record: UsageRecord) -> None:
        """Take a record. Past `most` waiting records the oldest half goes to the spill file."""
        waiting = self._waiting
        waiting.append(record)
        count = len(waiting)
        if count == 1:
            self._wake.set()
        elif count > self._most:
            half = count // 2
            oldest, self._waiting = waiting[:half], waiting[half:]
            self._write_spill(oldest)

    def start(self) -> None:
        """Begin writing in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="usage-writer")

    async def close(self) -> None:
        """Write what is left, once; what the store does not take goes to the spill file."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        try:
            while self._waiting:
                await self._write()
        except StoreUnavailable as exc:
            log.warning("usage_spilled", records=len(self._waiting), reason=exc.message)
            self._write_spill(self._waiting)
            self._waiting = []

    async def flush(self) -> None:
        """Wait until everything put so far is in the store."""
        while self._waiting or self._batch:  # noqa: ASYNC110 - asked for once in a while
            await asyncio.sleep(_PAUSE_S)

    async def load_spilled(self) -> int:
        """Write the records an earlier process could not; give how many there were."""
        loaded = 0
        for path in _claim_spilled(self._folder, self._spill):
            records = _read_spilled(path)
            try:
                for start in range(0, len(records), _BATCH):
                    await self._insert(records[start : start + _BATCH])
            except StoreUnavailable:
                raise
            except Exception:
                log.exception("usage_refused", records=len(records), file=self._refused.name)
                _append(self._refused, records)
            else:
                loaded += len(records)
            path.unlink()
        return loaded

    async def _run(self) -> None:
        failures = 0
        while True:
            await self._wake.wait()
            await asyncio.sleep(_PAUSE_S)
            self._wake.clear()
            try:
                while self._waiting:
                    await self._write()
                failures = 0
            except StoreUnavailable as exc:
                delay = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
                failures += 1
                log.warning("usage_waits", records=len(self._waiting), reason=exc.message)
                self._wake.set()
                await asyncio.sleep(delay)

    async def _write(self) -> None:
        """Write the first waiting records; if that fails they wait again, before all others."""
        self._batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        self._writing = asyncio.get_running_loop().create_task(self._commit())
        await asyncio.shield(self._writing)

    async def _commit(self) -> None:
        try:
            await self._insert(self._batch)
        except (StoreUnavailable, asyncio.CancelledError):
            self._waiting[:0] = self._batch
            raise
        except Exception:
            # A batch that can never be written must not hold up all others, nor be lost.
            log.exception("usage_refused", records=len(self._batch), file=self._refused.name)
            _append(self._refused, self._batch)
        else:
            self.written += len(self._batch)
        finally:
            self._batch = []

    def _write_spill(self, records: Sequence[UsageRecord]) -> None:
        _append(self._spill, records)
        self.spilled += len(records)


def _append(path: Path, records: Sequence[UsageRecord]) -> None:
    lines = b"".join(json.dumps(to_builtins(record)) + b"\n" for record in records)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _claim_spilled(folder: Path, own: Path) -> list[Path]:
    """Give the spill files that are ours to load now; of several processes only one gets each.

    A file whose loader died keeps its claimed name, which ends in that process's id.
    """
    claimed = []
    for path in sorted([*folder.glob("usage-*.jsonl"), *folder.glob("usage-*.loading-*")]):
        loader = path.name.rpartition(".loading-")[2]
        # Our own number on it is an earlier process's: numbers repeat, in containers always.
        alive = loader.isdigit() and int(loader) != os.getpid() and Path(f"/proc/{loader}").exists()
        if path == own or alive:
            continue
        mine = path.with_name(f"{path.name}.loading-{os.getpid()}")
        try:
            path.rename(mine)
        except FileNotFoundError:
            continue
        claimed.append(mine)
    return claimed


def _read_spilled(path: Path) -> list[UsageRecord]:
    records = []
    for line in path.read_bytes().splitlines():
        try:
            records.append(msgspec.convert(json.loads(line), UsageRecord))
        except (ValueError, msgspec.ValidationError) as exc:  # cut by a kill or a full disk
            log.warning("usage_spill_line_unreadable", file=path.name, reason=str(exc))
    return records
