"""From a configuration to a running server: prepare once, bind, workers under the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import structlog
import uvloop

from fastgw import __version__, _ext, logs
from fastgw._ext import counters
from fastgw.config import ConfigError, Loaded, Settings
from fastgw.config.changes import carry_over
from fastgw.config.listen import parse_address
from fastgw.config.watch import Watcher
from fastgw.domain import Secret
from fastgw.events.journal import Place
from fastgw.server.apart import run_apart
from fastgw.server.checks import check
from fastgw.server.control import open_door
from fastgw.server.demo import try_this
from fastgw.server.gateway import Gateway
from fastgw.server.listen import bind
from fastgw.server.load import load
from fastgw.server.protocol import check_parser
from fastgw.server.supervisor import Supervisor, messages
from fastgw.server.tasks import cancel, spawn

log = structlog.get_logger(__name__)

_METRICS_BYTES = 4 << 20
"""Shared memory for the metrics of one worker; pages are taken only as series appear."""


def serve(loaded: Loaded, say: Callable[[str], None], *, demo: bool = False) -> int:
    """Serve until told to stop; `say` prints to the user. Gives the exit status."""
    settings = loaded.settings
    logs.configure(settings.logs)
    for warning in loaded.warnings:
        log.warning("config", message=warning)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump holds every secret
    _raise_file_limit()
    check(loaded)
    check_parser()
    demo_key = run_apart(lambda: _prepare(settings, say, demo=demo))
    addresses = [*settings.server.addresses()]
    if settings.admin.listen is not None:
        addresses.append(parse_address(settings.admin.listen))
    sockets = bind(addresses, settings.server.workers)
    board = counters.Board(_METRICS_BYTES, settings.server.workers)
    current = Current(loaded)
    with make_place(settings) as place:
        return _supervise(current, sockets, board, place, say, demo_key)


@contextlib.contextmanager
def make_place(settings: Settings) -> Iterator[Place]:
    """Give where the journals go: the configured folder, or one that goes with this process."""
    if settings.journal.mode == "file":
        yield Place.make(Path(settings.journal.dir))
        return
    with tempfile.TemporaryDirectory(prefix="fastgw-journal-") as folder:
        yield Place.make(Path(folder))


def _supervise(
    current: Current,
    sockets: Sequence[Sequence[socket.socket]],
    board: counters.Board,
    place: Place,
    say: Callable[[str], None],
    demo_key: str | None,
) -> int:
    settings = current.settings
    supervisor = Supervisor(
        lambda number, listening, pipe: work(
            Gateway(current.settings, board, number, place), number, listening, pipe
        ),
        sockets,
        load=lambda pipe: load(current.settings, place, pipe),
        reload=current.reload,
        drain_delay_s=settings.server.drain_delay_s,
        grace_s=settings.server.shutdown_grace_s,
    )
    say(_greeting(settings, sockets[0]))
    if demo_key is not None:
        say("A throw-away demo: its data is gone when it stops (Ctrl-C). In another terminal:\n")
        say(try_this(_url("http", sockets[0][0]), Secret(demo_key)) + "\n")
    gc.collect()
    gc.freeze()  # a worker's collector would write into every page that it shares with us
    return supervisor.run()


def _prepare(settings: Settings, say: Callable[[str], None], *, demo: bool) -> str | None:
    # Only in the child: neither the supervisor nor a worker needs any of it again.
    from fastgw.server.prepare import prepare  # noqa: PLC0415

    key = asyncio.run(prepare(settings, say, demo=demo))
    return None if key is None else key.reveal()


class Current:
    """The configuration in force; knows when its files have changed."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._watcher = Watcher(loaded.stamps)
        self.settings = loaded.settings
        """What workers serve by."""

    def reload(self, forced: bool) -> bytes | None:
        """Read the files again if they changed or if asked to; a bad file changes nothing."""
        if not self._watcher.changed() and not forced:
            return None
        try:
            new = self._loaded.again()
            check(new)
        except ConfigError as exc:
            self._watcher.follow(exc.stamps)
            log.error("reload_refused", reason=str(exc))  # noqa: TRY400 - the reason says it all
            return None
        self._loaded = new
        self._watcher.follow(new.stamps)
        change = carry_over(self.settings, new.settings)
        logs.configure(change.settings.logs)
        if change.restart:
            log.warning("restart_needed", settings=change.restart)
        self.settings = change.settings
        log.info("reloading", settings=change.reloaded)
        return change.settings.to_json()


def work(
    gateway: Gateway, number: int, listening: Sequence[socket.socket], pipe: socket.socket
) -> int:
    """Be one worker until SIGTERM or until the supervisor is gone."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_work(gateway, number, listening, pipe))
    return 0


async def _work(
    gateway: Gateway, number: int, listening: Sequence[socket.socket], pipe: socket.socket
) -> None:
    # No handler before there is something to drain: a signal ends a start at once.
    await gateway.start()
    _calm_collector()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, gateway.report)
    await gateway.listen(listening)
    inbox: asyncio.Queue[bytes] = asyncio.Queue()
    reloads = spawn(_reconfigure(gateway, inbox), "reloads")
    orders = spawn(messages(pipe, inbox.put_nowait), "orders")
    orders.add_done_callback(lambda _: stop.set())
    async with open_door(gateway.folder, number):
        await stop.wait()
    await cancel(reloads, orders)
    await gateway.drain()


async def _reconfigure(gateway: Gateway, inbox: asyncio.Queue[bytes]) -> None:
    while True:
        gateway.reconfigure(Settings.from_json(await inbox.get()))


def _calm_collector() -> None:
    """Look for cycles seldom: requests leave none, and each look costs all of them time."""
    gc.collect()
    gc.freeze()  # what the start made stays for good
    gc.set_threshold(20_000, 20, 100)


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):  # a container may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _greeting(settings: Settings, sockets: Sequence[socket.socket]) -> str:
    scheme = "https" if settings.server.tls is not None else "http"
    urls = [_url(scheme, sock) for sock in sockets]
    admin = f", /admin on {urls.pop()}" if settings.admin.listen is not None else ""
    workers = settings.server.workers
    count = f"{workers} worker{'s' if workers > 1 else ''}"
    return (
        f"fastgw {__version__} serves on {', '.join(urls)}{admin}"
        f" ({_ext.BUILD} build, {count}, pid {os.getpid()})"
    )


def _url(scheme: str, sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
