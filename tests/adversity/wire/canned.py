"""A provider that answers with prepared bytes, chosen by the model's name in the request."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from dataclasses import dataclass, field
from typing import Self

from tests.replay import take_request


@dataclass
class Plan:
    """What to write, piece by piece, and whether to stay connected afterwards."""

    pieces: list[bytes] = field(default_factory=list)
    hold: bool = False
    pause_s: float = 0.0


class Canned:
    """The server, in a thread of its own; `plans` by model name, `calls` in order."""

    def __init__(self) -> None:
        self.plans: dict[str, Plan] = {}
        self.calls: list[str] = []
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._done = asyncio.Event()
        server = await asyncio.start_server(self._play, "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._done.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plug = writer.get_extra_info("socket")
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray()
        try:
            while data := await reader.read(65536):
                buffer += data
                while (request := take_request(buffer)) is not None:
                    model = json.loads(request.body)["model"]
                    self.calls.append(model)
                    plan = self.plans[model]
                    for piece in plan.pieces:
                        writer.write(piece)
                        await writer.drain()
                        if plan.pause_s:
                            await asyncio.sleep(plan.pause_s)
                    if not plan.hold:
                        return
        except ConnectionError:
            return
        finally:
            writer.close()
