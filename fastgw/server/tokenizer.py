"""A worker's way to the tokenizer process: starts it on first need, and does without when it must.

Counting is never waited for by a client of a model. What cannot be counted in time is left to the
estimator; then nobody asks for a while, so that a tokenizer that hangs holds nobody up twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path

import msgspec
import structlog

from fastgw.catalog import families
from fastgw.server.control import short_name
from fastgw.server.tokenizing import LENGTH, MOST_BYTES, SOCKET, Question

log = structlog.get_logger(__name__)

_START_S = 10.0
_ANSWER_S = 5.0
_REST_S = 15.0
_LOOK_S = 0.05
_TRIES = 5
_AGAIN_S = 1.0
"""One that ended at once was not needed, or cannot be had."""
_TTL_S = 300.0
_MOST_COUNTS = 10_000
_FOLDER = "control"


class Counts:
    """Counts that were asked for lately, for a while: agents ask again for what they asked."""

    def __init__(self, size: int = _MOST_COUNTS, ttl_s: float = _TTL_S) -> None:
        self._kept: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._size = size
        self._ttl_s = ttl_s

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: bytes) -> int | None:
        """Give a count that is not too old."""
        found = self._kept.get(key)
        if found is None or found[1] < time.monotonic():
            return None
        return found[0]

    def keep(self, key: bytes, count: int) -> None:
        """Remember one; of too many the oldest is forgotten."""
        self._kept[key] = count, time.monotonic() + self._ttl_s
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)


class Tokenizer:
    """Asks the tokenizer of a data folder, one question at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _FOLDER
        self.counts = Counts()
        self._line = asyncio.Lock()
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._rest_until = 0.0
        self._start_at = 0.0

    async def count(self, question: Question) -> int | None:
        """Give the count; None when there is none to be had now."""
        if len(question.payload) > MOST_BYTES:
            return None
        key = _key(question)
        found = self.counts.find(key)
        if found is None:
            async with self._line:
                found = await self._ask(question)
            if found is not None and found >= 0:
                self.counts.keep(key, found)
        return found if found is None or found >= 0 else None

    async def close(self) -> None:
        """Let go of the tokenizer; the one that was started here ends."""
        self._hang_up()
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()
            self._process = None

    async def _ask(self, question: Question) -> int | None:
        if time.monotonic() < self._rest_until:
            return None
        try:
            async with asyncio.timeout(_ANSWER_S if self._open else _START_S) as patience:
                return await self._insist(question, patience)
        except (OSError, TimeoutError) as exc:
            self._hang_up()
            self._rest_until = time.monotonic() + _REST_S
            log.warning("tokenizer_silent", reason=str(exc) or type(exc).__name__)
            return None

    async def _insist(self, question: Question, patience: asyncio.Timeout) -> int:
        """Ask again when it has ended, or is just ending: that is no failure."""
        for _ in range(_TRIES):
            try:
                return await self._exchange(question)
            except (ConnectionError, asyncio.IncompleteReadError):
                self._hang_up()
                patience.reschedule(asyncio.get_running_loop().time() + _START_S)
                await asyncio.sleep(_LOOK_S)
        raise ConnectionResetError("it ends whenever it is asked")

    async def _exchange(self, question: Question) -> int:
        if self._open is None:
            self._open = await self._connect()
        reader, writer = self._open
        packed = msgspec.msgpack.encode(question)
        writer.write(LENGTH.pack(len(packed)) + packed)
        await writer.drain()
        (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        return msgspec.msgpack.decode(await reader.readexactly(size), type=int)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        while True:
            with short_name(self._folder) as folder:
                try:
                    return await asyncio.open_unix_connection(f"{folder}/{SOCKET}")
                except (FileNotFoundError, ConnectionRefusedError):
                    await self._start()
            await asyncio.sleep(_LOOK_S)

    async def _start(self) -> None:
        """Start a tokenizer; when another worker does so too, one of the two ends at once."""
        running = self._process is not None and self._process.returncode is None
        if running or time.monotonic() < self._start_at:
            return
        self._start_at = time.monotonic() + _AGAIN_S
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "fastgw.server.tokenizing",
            str(self._folder),
            stdin=asyncio.subprocess.PIPE,  # it ends when we do
            stdout=asyncio.subprocess.DEVNULL,
        )

    def _hang_up(self) -> None:
        if self._open is not None:
            with contextlib.suppress(OSError):
                self._open[1].close()
            self._open = None


def _key(question: Question) -> bytes:
    family = families.find(question.model).name
    told = f"{question.kind} {family} {question.calls} ".encode()
    return sha256(told + question.payload).digest()
