"""The parent process: keeps the listening sockets and N workers on them. It serves nothing itself.

A worker that dies is started again on the same sockets, so its queue of connections is inherited.
The supervisor alone reads configuration; workers are handed each new version over a pipe, and a
worker that sees its pipe end knows that the supervisor is gone, and drains. The loader, which
brings what workers write down into the store, is one more child: the first to start and the last
to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence

import structlog

from fastgw.errors import GatewayError

log = structlog.get_logger(__name__)

_STOP = (signal.SIGTERM, signal.SIGINT)
_HANDLED = (*_STOP, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
_TICK_S = 0.5
_SHORT_TICK_S = 0.05
"""While something is under way: a hand-over, or the end."""
_QUICK_DEATH_S = 1.0
_LONGEST_PAUSE_S = 5.0
_LAST_WRITES_S = 10.0
"""Past the grace time: for error events, records and logs; as much again for the loader."""
_LENGTH = struct.Struct("!I")

Work = Callable[[int, Sequence[socket.socket], socket.socket], int]
"""What a worker does with its number, its listening sockets and its end of the pipe; gives the exit
status. Until it sets handlers of its own SIGTERM and SIGINT end it at once, which is no failure."""
Load = Callable[[socket.socket], int]
"""What the loader does with its end of the pipe. SIGTERM waits until it unblocks it."""
_LOADER = -1


class Supervisor:
    """Runs `work` in one child process for each set of sockets until it is told to stop."""

    def __init__(
        self,
        work: Work,
        sockets: Sequence[Sequence[socket.socket]],
        *,
        load: Load,
        reload: Callable[[bool], bytes | None],
        drain_delay_s: float,
        grace_s: float,
    ) -> None:
        """`reload(forced)` gives a new configuration as bytes, or None when nothing changed."""
        self._work = work
        self._load = load
        self._loader = _Worker(_LOADER)
        self._workers = [_Worker(number) for number in range(len(sockets))]
        self._sockets = sockets
        self._reload = reload
        self._drain_delay_s = drain_delay_s
        self._grace_s = grace_s

    def run(self) -> int:
        """Keep the workers alive until SIGTERM or SIGINT; give the exit status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        while True:
            self._start_due()
            waiting = any(worker.unsent for worker in self._workers)
            received = signal.sigtimedwait(_HANDLED, _SHORT_TICK_S if waiting else _TICK_S)
            number = received.si_signo if received is not None else None
            if number in _STOP:
                return self._stop()
            self._reap(log.error)
            if number == signal.SIGUSR1:
                self._ask_for_reports()
            self._hand_over(forced=number == signal.SIGHUP)

    def _start_due(self) -> None:
        now = time.monotonic()
        for worker in self._children():
            if not worker.pid and now >= worker.start_at:
                self._start(worker)

    def _children(self) -> list[_Worker]:
        return [self._loader, *self._workers]

    def _start(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair()
        _flush()
        try:
            pid = os.fork()
        except OSError as exc:
            ours.close()
            theirs.close()
            worker.start_at = time.monotonic() + _LONGEST_PAUSE_S
            log.error("worker_not_started", worker=worker.number, reason=str(exc))  # noqa: TRY400
            return
        if pid == 0:
            self._become(worker.number, ours, theirs)
        theirs.close()
        worker.started(pid, ours)

    def _become(self, number: int, ours: socket.socket, theirs: socket.socket) -> None:
        """Run the worker or the loader in the child process; never returns."""
        status = 1
        try:
            ours.close()
            for other in self._children():
                other.close_pipe()
            if number == _LOADER:
                self._close_sockets(but=None)
                status = self._load(theirs)
                return
            self._close_sockets(but=number)
            for each in _STOP:
                signal.signal(each, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor's business
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is something to report
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            status = self._work(number, self._sockets[number], theirs)
        except GatewayError as exc:
            log.error("worker_failed", worker=number, reason=exc.message)  # noqa: TRY400 - ours
        except Exception:
            log.exception("worker_failed", worker=number)
        finally:
            _flush()
            os._exit(status)

    def _reap(self, tell: Callable[..., object]) -> None:
        for worker in self._children():
            if worker.pid and worker.ended():
                if worker is self._loader:
                    tell("loader_ended", status=worker.status)
                else:
                    tell("worker_ended", worker=worker.number, status=worker.status)

    def _hand_over(self, *, forced: bool) -> None:
        try:
            new = self._reload(forced)
        except Exception:
            log.exception("reload_failed")  # the workers go on by what they have
            new = None
        for worker in self._workers:
            worker.send(new)

    def _ask_for_reports(self) -> None:
        for worker in self._workers:
            worker.signal(signal.SIGUSR1)

    def _close_sockets(self, but: int | None) -> None:
        kept = {id(sock) for sock in self._sockets[but]} if but is not None else set()
        for sockets in self._sockets:
            for sock in sockets:
                if id(sock) not in kept:
                    sock.close()

    def _stop(self) -> int:
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
        refuse_at = time.monotonic() + self._drain_delay_s
        kill_at = refuse_at + self._grace_s + _LAST_WRITES_S
        while any(worker.pid for worker in self._workers):
            signal.sigtimedwait(_HANDLED, _SHORT_TICK_S)
            self._reap(log.info)
            now = time.monotonic()
            if now >= refuse_at:
                # A connection in a queue that nobody accepts from would hang: refuse it instead.
                self._close_sockets(but=None)
            if now > kill_at:
                for worker in self._workers:
                    worker.signal(signal.SIGKILL)
        self._close_sockets(but=None)
        clean = {0, *(-number for number in _STOP)}
        loaded = self._stop_loader()
        return 0 if loaded and all(worker.status in clean for worker in self._workers) else 1

    def _stop_loader(self) -> bool:
        """Have the loader bring everything into the store; tell whether it says that it did."""
        loader = self._loader
        kill_at = time.monotonic() + _LAST_WRITES_S
        if not loader.pid:
            self._start(loader)
        loader.signal(signal.SIGTERM)
        while loader.pid:
            signal.sigtimedwait(_HANDLED, _SHORT_TICK_S)
            self._reap(log.info)
            if time.monotonic() > kill_at:
                loader.signal(signal.SIGKILL)
        return loader.status == 0


class _Worker:
    """One child process and our end of its pipe."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.status = 0
        """Exit status of the last process, a signal's number negative."""
        self.start_at = 0.0
        self._pipe: socket.socket | None = None
        self.unsent = bytearray()
        """Messages that the pipe did not take yet."""
        self._born = 0.0
        self._quick_deaths = 0

    def started(self, pid: int, pipe: socket.socket) -> None:
        """Note that the process runs; it was born with the present configuration."""
        self.pid = pid
        pipe.setblocking(False)
        self._pipe = pipe
        self.unsent.clear()
        self._born = time.monotonic()

    def ended(self) -> bool:
        """Tell whether the process is gone, and when it may be started again."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        self.pid = 0
        self.status = os.waitstatus_to_exitcode(status)
        self.close_pipe()
        now = time.monotonic()
        quick = now - self._born < _QUICK_DEATH_S
        self._quick_deaths = self._quick_deaths + 1 if quick else 0
        self.start_at = now + min(0.1 * 2**self._quick_deaths, _LONGEST_PAUSE_S) * quick
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process runs."""
        if self.pid:
            os.kill(self.pid, number)

    def send(self, message: bytes | None) -> None:
        """Send a message, after what could not be sent yet; None: only that. Never waits.

        A worker that is dead or dying needs none: its successor begins with what is current.
        """
        if self._pipe is None:
            return
        if message is not None:
            self.unsent += _LENGTH.pack(len(message)) + message
        try:
            while self.unsent:
                del self.unsent[: self._pipe.send(self.unsent)]
        except BlockingIOError:
            return  # a busy worker: the rest at the next tick
        except ConnectionError:
            self.close_pipe()

    def close_pipe(self) -> None:
        """Close our end."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


async def messages(pipe: socket.socket, handle: Callable[[bytes], None]) -> None:
    """Give each message of the supervisor to `handle`; return when the supervisor is gone."""
    reader, writer = await asyncio.open_connection(sock=pipe)
    try:
        while True:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            handle(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


def _flush() -> None:
    """Empty the buffers, which a fork would double and `_exit` forget."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
