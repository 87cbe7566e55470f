"""A worker's side door: what the operator on this machine may ask of a process that serves.

Each worker listens on a Unix socket of its own in the data folder, for its owner alone. A question
is one line of JSON, the answer is one line of JSON; then the connection ends. Requests never pass
here, and a worker that cannot open its door serves all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from fastgw.server.sampler import Sampler
from fastgw.wire import json

log = structlog.get_logger(__name__)

LONGEST_S = 300.0
_FOLDER = "control"
_NAME = re.compile(r"worker-(\d+)-(\d+)\.sock")
_LONGEST_ANSWER = 64 << 20
_PATIENCE_S = 10.0
"""Past the time that an answer takes by its nature: for a worker that is busy."""


class Door(msgspec.Struct, frozen=True):
    """A worker that can be asked."""

    worker: int
    path: Path


class _Control:
    """Answers the questions put to one worker, one profile at a time."""

    def __init__(self) -> None:
        self._sampling = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        try:
            writer.write(json.dumps(await self._answer(reader)) + b"\n")
            await writer.drain()
        except (ConnectionError, ValueError):  # left, or sent a line without an end
            log.debug("question_given_up")
        except asyncio.CancelledError:
            return  # the worker ends; Python 3.11's streams take a cancelled task for a defect
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> dict[str, object]:
        try:
            seconds = float(json.loads(await reader.readline())["profile"])
        except (ValueError, KeyError, TypeError):
            return {"error": "this version does not know the question"}
        if not 0 < seconds <= LONGEST_S:
            return {"error": f"a profile takes up to {LONGEST_S:.0f} seconds"}
        if self._sampling:
            return {"error": "a profile is being taken already"}
        self._sampling = True
        sampler = Sampler()
        sampler.start()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await reader.read(1)  # returns when who asked has left
        finally:
            self._sampling = False
            stacks = sampler.stop()
        return {"stacks": stacks}


@contextlib.asynccontextmanager
async def open_door(folder: Path, number: int) -> AsyncIterator[None]:
    """Be there to be asked, as worker `number` with this data folder."""
    name = f"worker-{number}-{os.getpid()}.sock"
    try:
        sock = _bind(folder / _FOLDER, name)
    except OSError as exc:
        log.warning("control_closed", reason=exc.strerror, file=str(folder / _FOLDER / name))
        yield
        return
    server = await asyncio.start_unix_server(_Control().serve, sock=sock)
    try:
        yield
    finally:
        server.close()
        (folder / _FOLDER / name).unlink(missing_ok=True)


def doors(folder: Path) -> Sequence[Door]:
    """Give the workers that serve with this data folder."""
    found = []
    for path in (folder / _FOLDER).glob("*"):
        name = _NAME.fullmatch(path.name)
        if name is not None and _is_alive(name[2]):
            found.append(Door(int(name[1]), path))
    return sorted(found, key=lambda door: door.worker)


async def ask(door: Door, question: dict[str, object], seconds: float) -> Any:
    """Put a question whose answer takes so many seconds. Raises OSError when there is none."""
    async with asyncio.timeout(seconds + _PATIENCE_S):
        with short_name(door.path.parent) as parent:
            reader, writer = await asyncio.open_unix_connection(
                f"{parent}/{door.path.name}", limit=_LONGEST_ANSWER
            )
        try:
            writer.write(json.dumps(question) + b"\n")
            line = await reader.readline()
        finally:
            writer.close()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the worker ended before it answered")
    return json.loads(line)


def _bind(folder: Path, name: str) -> socket.socket:
    folder.mkdir(mode=0o700, exist_ok=True)
    for old in folder.glob("worker-*.sock"):
        known = _NAME.fullmatch(old.name)
        if known is not None and not _is_alive(known[2]):  # killed: nobody will take it away
            old.unlink(missing_ok=True)
    path = folder / name
    path.unlink(missing_ok=True)  # process numbers repeat, in containers always
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_name(folder) as parent:
            sock.bind(f"{parent}/{name}")
        path.chmod(0o600)  # before anybody can connect: nothing listens yet
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def short_name(folder: Path) -> Iterator[str]:
    """Give another name of a folder: the address of a socket holds 107 bytes (unix(7))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _is_alive(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()
