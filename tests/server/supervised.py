"""Run as a script: the real supervisor over workers that only say who they are.

It imports once and forks a supervisor for each order, a JSON line on its standard input: `start`
answers with the supervisor's pid, `poll` with its exit status once there is one. What happens is
seen in the order's folder: `born` has a line for each worker process, `config` is what a reload
reads, `port` is where the workers answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fastgw import logs
from fastgw.config.listen import parse_address
from fastgw.config.schema import Logs
from fastgw.server import supervisor
from fastgw.server.listen import bind
from tests.waiting import eventually


class Scene:
    """One supervisor and what its workers do."""

    def __init__(self, folder: str, kind: str, workers: int, address: str) -> None:
        self.folder = Path(folder)
        self.kind = kind
        self.workers = workers
        self.address = address

    def run(self) -> int:
        """Be the supervisor."""
        log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, 64)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        logs.configure(Logs(format="json"))
        sockets = bind([parse_address(self.address)], self.workers)
        (self.folder / "port").write_text(repr(sockets[0][0].getsockname()))
        return supervisor.Supervisor(
            self.work,
            sockets,
            load=self.load,
            reload=self.reload,
            drain_delay_s=0,
            grace_s=0.2,
        ).run()

    def load(self, pipe: socket.socket) -> int:
        """Be a loader: wait for SIGTERM, or for the end of the supervisor."""
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        pipe.recv(1)
        return 0

    def reload(self, forced: bool) -> bytes | None:
        """Give the configuration again."""
        if forced and self.config() == b"broken":
            raise RuntimeError("a defect in reading")
        return self.config() if forced else None

    def work(self, number: int, listening: Sequence[socket.socket], pipe: socket.socket) -> int:
        """Be a worker."""
        self.note("born", f"{number} {os.getpid()} {time.monotonic()} {open_sockets()}")
        if self.kind == "fails":
            return 3
        if self.kind == "raises":
            raise RuntimeError("not today")
        if self.kind == "starts-slowly":
            time.sleep(60)
        if self.kind == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.note("deaf", str(number))
            time.sleep(60)
        asyncio.run(self.serve(number, listening, pipe))
        return 0

    async def serve(
        self, number: int, listening: Sequence[socket.socket], pipe: socket.socket
    ) -> None:
        """Answer each connection with number, pid and configuration until told to stop."""
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        said = self.config()

        def hear(message: bytes) -> None:
            nonlocal said
            said = message

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"%d %d " % (number, os.getpid()) + said[:100])
            writer.close()

        for sock in listening:
            await asyncio.start_server(answer, sock=sock)
        if self.kind == "busy":  # hears nothing until it may
            await eventually((self.folder / "go").exists, 60)
        orders = asyncio.ensure_future(supervisor.messages(pipe, hear))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((orders, stopping), return_when=asyncio.FIRST_COMPLETED)
        self.note("ended", f"{number} {'alone' if orders.done() else 'told'}")

    def note(self, name: str, line: str) -> None:
        """Leave a line in the folder."""
        with (self.folder / name).open("a") as file:
            file.write(line + "\n")

    def config(self) -> bytes:
        """Give the present configuration."""
        return (self.folder / "config").read_bytes()


def open_sockets() -> int:
    return sum(is_socket(int(fd.name)) for fd in Path("/proc/self/fd").iterdir())


def is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:  # what listed them
        return False


def start(scene: Scene) -> int:
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = scene.run()
        finally:
            os._exit(status)
    return pid


def poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def main() -> None:
    supervisor._LAST_WRITES_S = 0.2
    for line in sys.stdin:
        order = json.loads(line)
        answer = poll(order["poll"]) if "poll" in order else start(Scene(**order))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
