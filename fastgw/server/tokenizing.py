"""The tokenizer process: counts tokens for all workers that share a data folder.

A worker starts it on first need (`fastgw.server.tokenizer`). Whoever holds the lock in the folder
is the one; others that were started at the same moment end at once. It ends when the worker that
started it does, or after a while without questions, and takes its memory along.

A question and an answer are each a MessagePack value behind its length in four bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
import sys

import msgspec

from fastgw.catalog import tokens

LENGTH = struct.Struct("!I")
SOCKET, LOCK = "tokenizer.sock", "tokenizer.lock"
MOST_BYTES = 8 << 20
"""Of one question; what is longer is estimated."""
_LONGEST_COUNT_S = 20
"""A count that takes longer ends the process: the next question starts another."""
_IDLE_S = 600.0


class Question(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is to be counted for which upstream model.

    `kind` is prompt (a JSON request body), answer (text as it stands in JSON strings, with so many
    tool calls) or text.
    """

    kind: str
    model: str
    payload: bytes
    calls: int = 0


def count(asked: Question) -> int:
    """Answer a question; -1 when it cannot be counted."""
    try:
        if asked.kind == "prompt":
            return tokens.prompt(asked.payload, asked.model)
        if asked.kind == "answer":
            text = msgspec.json.decode(b'"%b"' % asked.payload, type=str)
            return tokens.answer(text, asked.calls, asked.model)
        return tokens.text(asked.payload.decode("utf-8", "replace"), asked.model)
    except ValueError:  # not JSON, not UTF-8, half of a surrogate pair
        return -1


class _Desk:
    """Answers questions, one after the other, and notices that nobody asks any more."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the questions of one worker."""
        decode = msgspec.msgpack.Decoder(Question).decode
        # Cancelled: this process ends, and asyncio would write a traceback about it.
        ends = (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError)
        with contextlib.suppress(*ends):
            while True:
                (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                question = decode(await reader.readexactly(size))
                self._asked.set()
                signal.alarm(_LONGEST_COUNT_S)
                answer = msgspec.msgpack.encode(count(question))
                signal.alarm(0)
                writer.write(LENGTH.pack(len(answer)) + answer)
                await writer.drain()
        writer.close()

    async def idle(self) -> None:
        """Return when nobody has asked for a while."""
        while True:
            self._asked.clear()
            try:
                await asyncio.wait_for(self._asked.wait(), _IDLE_S)
            except TimeoutError:
                return


async def serve(listening: socket.socket, parent: int) -> None:
    """Answer until the worker at the other end of `parent` is gone, or nobody asks."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(parent, gone.set)  # nothing is ever written: it can only end
    desk = _Desk()
    server = await asyncio.start_unix_server(desk.serve, sock=listening)
    idle, orphaned = asyncio.ensure_future(desk.idle()), asyncio.ensure_future(gone.wait())  # noqa: TID251 - this process has no supervisor of tasks
    await asyncio.wait((idle, orphaned), return_when=asyncio.FIRST_COMPLETED)
    server.close()
    idle.cancel()


def main(folder: str) -> int:
    """Be the tokenizer of a folder, unless it has one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's business
    os.chdir(folder)  # the address of a socket holds 107 bytes (unix(7))
    with open(LOCK, "wb") as lock:  # noqa: PTH123 - relative on purpose
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET)  # noqa: PTH108
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(SOCKET)
        os.chmod(SOCKET, 0o600)  # noqa: PTH101 - before anybody can connect: nothing listens yet
        asyncio.run(serve(listening, sys.stdin.fileno()))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET)  # noqa: PTH108
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
