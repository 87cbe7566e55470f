"""The loader's process: one a host, from the workers' journals into the store.

It starts before the workers and ends after them, when everything they wrote is in the store.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from pathlib import Path

import structlog
import uvloop

from fastgw.config import Settings
from fastgw.events.journal import Place
from fastgw.events.loader import Loader
from fastgw.server.supervisor import messages
from fastgw.server.tasks import cancel, spawn
from fastgw.storage import open_store
from fastgw.storage.sql import usage

log = structlog.get_logger(__name__)

NAME = "fastgw-loader"
"""What the process is called; at most 15 characters."""
_LAST_S = 8.0
"""For what is left when the last worker is gone."""


def load(settings: Settings, place: Place, pipe: socket.socket) -> int:
    """Be the loader until SIGTERM or until the supervisor is gone; 0: nothing is left."""
    Path("/proc/self/comm").write_text(NAME)
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)  # records are many, and hold nothing of each other
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return 0 if runner.run(_load(settings, place, pipe)) else 1


async def _load(settings: Settings, place: Place, pipe: socket.socket) -> bool:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    # Ctrl-C is for the workers: when they are gone the supervisor says so.
    for each in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    orders = spawn(messages(pipe, lambda _: None), "orders")
    orders.add_done_callback(lambda _: stop.set())
    store = await open_store(settings.database.url.reveal(), migrate=False)
    loader = Loader(place.folder, lambda rows: usage.insert_rows(store, rows))
    try:
        emptied = await loader.run(stop, place.run, _LAST_S)
        if not emptied:
            log.error("usage_left_in_journal", folder=str(place.folder))
        return emptied
    finally:
        loader.close()
        await store.close()
        await cancel(orders)
