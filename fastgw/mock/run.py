"""Runs the mock: as a command with a loop of its own, or inside a running loop."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from dataclasses import dataclass

import uvloop
from aiohttp import web

from fastgw.mock.app import create_app
from fastgw.mock.log import Log
from fastgw.mock.options import Options

BACKLOG = 4096
"""Connections the kernel may hold before they are accepted: load tests open them all at once."""
ACCEPTORS = 16
"""Handles on the one listening socket. uvloop (libuv >= 1.46) accepts one connection a handle and
turn of the loop; a busy turn takes milliseconds, so a thousand clients would wait for seconds."""
GRACE = 0.05
"""Seconds handlers get to see that their connections were cut."""


@dataclass(slots=True)
class Running:
    """A server that runs. `url` has no path; `log` holds what it was asked and answered."""

    url: str
    log: Log
    _runner: web.AppRunner

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its base URL."""
        return f"{self.url}/v1"

    async def stop(self) -> None:
        """Cut what is still served and close the port; the log stays readable."""
        await self._runner.cleanup()


async def start(options: Options | None = None) -> Running:
    """Serve in the running loop. OSError when the port is taken or the log cannot be written."""
    options = options or Options()
    listener = _listen(options)
    try:
        log = Log(options.log)
    except OSError:
        listener.close()
        raise
    runner = web.AppRunner(
        create_app(options, log=log),
        handler_cancellation=True,
        # A body is logged as it was received.
        auto_decompress=False,
        access_log=None,
        shutdown_timeout=GRACE,
    )
    await runner.setup()
    host, port = listener.getsockname()[:2]
    with listener:
        for _ in range(ACCEPTORS):
            await web.SockSite(runner, listener.dup(), backlog=BACKLOG).start()
    shown = f"[{host}]" if ":" in host else host
    return Running(f"http://{shown}:{port}", log, runner)


def _listen(options: Options) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    return socket.create_server((options.host, options.port), family=family, backlog=BACKLOG)


def serve(options: Options | None = None) -> None:
    """Serve until SIGINT or SIGTERM; prints the base URL once the port is open."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options or Options()))


async def _serve(options: Options) -> None:
    running = await start(options)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    sys.stdout.write(f"mock provider on {running.base_url}\n")
    sys.stdout.flush()
    await stop.wait()
    await running.stop()
