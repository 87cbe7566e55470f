"""M-17: the connection is cut at COMMIT, or its answer comes late: unknown is treated as unknown.

A proxy before PostgreSQL looks for COMMIT on its way there. It cuts before it is sent, after it was
done, or holds the answer back until the gateway has given up.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from tests.adversity.verdict import Verdict, main
from tests.money.books import audit, keeping
from tests.waiting import eventually


@dataclass(frozen=True)
class Form:
    """How many commits are spoilt, and which share of all."""

    spoilt: int
    share: float
    late_s: float
    callers: int
    seed: int


LONG = Form(spoilt=300, share=0.4, late_s=8.0, callers=6, seed=17)
SHORT = Form(spoilt=3, share=0.7, late_s=0.5, callers=3, seed=17)
WAYS = ("before", "after", "late")


class Proxy:
    """Passes bytes on between a gateway and PostgreSQL; spoils commits while it may."""

    def __init__(self, host: str, port: int, form: Form) -> None:
        self._server = (host, port)
        self._form = form
        self._dice = random.Random(form.seed)
        self.spoils = False
        self.spoilt: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be one connection."""
        there, back = await asyncio.open_connection(*self._server)
        fate = Fate()
        down = asyncio.get_running_loop().create_task(self._down(there, writer, fate))
        self._tasks.add(down)
        try:
            while data := await reader.read(1 << 16):
                way = self._choose(data)
                if way == "before":
                    break
                fate.way = way
                back.write(data)
                await back.drain()
        except ConnectionError:
            pass
        finally:
            if fate.way != "after":
                writer.transport.abort()
                back.transport.abort()
            await asyncio.wait([down])
            self._tasks.discard(down)
            writer.transport.abort()
            back.transport.abort()

    def _choose(self, data: bytes) -> str:
        if not self.spoils or b"COMMIT" not in data or self._dice.random() > self._form.share:
            return ""
        way = self._dice.choice(WAYS)
        self.spoilt[way] += 1
        return way

    async def _down(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, fate: Fate
    ) -> None:
        try:
            while data := await there.read(1 << 16):
                if fate.way == "after":
                    writer.transport.abort()  # it is done, and nobody hears of it
                    return
                if fate.way == "late":
                    await asyncio.sleep(self._form.late_s)
                    fate.way = ""
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return


class Fate:
    """What is to become of the commit that is under way."""

    def __init__(self) -> None:
        self.way = ""


@asynccontextmanager
async def proxied(url: str, form: Form) -> AsyncIterator[tuple[Proxy, str]]:
    """Stand before a database; give its new address."""
    parts = urlsplit(url)
    assert parts.hostname
    proxy = Proxy(parts.hostname, parts.port or 5432, form)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = f"{parts.username}@" if parts.username else ""
    try:
        yield proxy, urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}"))
    finally:
        server.close()


async def run(form: Form) -> Verdict:
    """Call while commits are spoilt."""
    verdict = Verdict("M-17 commits spoilt")
    async with keeping(engine="postgresql") as books, proxied(books.url, form) as (proxy, url):
        books.url = books.config["database"] = url
        books.config["database"] = {"url": url}
        await books.start()
        proxy.spoils = True
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        callers = [
            loop.create_task(books.keep_calling(number, form.seed, stop))
            for number in range(form.callers)
        ]
        await eventually(
            lambda: sum(proxy.spoilt.values()) >= form.spoilt, 60 + 10 * form.spoilt, "spoilt"
        )
        proxy.spoils = False
        stop.set()
        await asyncio.gather(*callers)
        await books.stop()
        await audit(books, verdict)
        verdict.figure += f"commits spoilt: {dict(proxy.spoilt)}"
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
