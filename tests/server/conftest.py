"""Gateways inside the test's own loop, on real stores and real sockets, and a scripted provider."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fastgw import catalog
from fastgw._ext import counters
from fastgw.config import Settings
from fastgw.config.listen import parse_address
from fastgw.events.journal import Place
from fastgw.events.loader import Loader
from fastgw.server.gateway import Gateway
from fastgw.server.listen import bind
from fastgw.storage import open_store
from fastgw.storage.sql import keys, usage
from tests.scripted import Hold, Request, Scripted

ANSWER = (
    b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
)
REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
    + ANSWER
)
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
CHAT = "/v1/chat/completions"


class Served:
    """A gateway and a client for it."""

    def __init__(
        self, gateway: Gateway, loader: Loader, urls: list[str], client: aiohttp.ClientSession
    ) -> None:
        self.gateway = gateway
        self.loader = loader
        self.journal = Path(gateway.settings.journal.dir)
        self.url = urls[0]
        self.urls = urls
        self.client = client

    @property
    def waiting(self) -> Any:
        """Bytes of the journal that are not in the store."""
        return self.gateway.health()["journal"]["waiting"]

    async def create_key(self, name: str = "test", **fields: Any) -> str:
        """Create a key and give its text."""
        _, plaintext = await keys.create(self.gateway.store, name=name, **fields)
        return plaintext.reveal()

    async def chat(
        self, key: str | None, headers: dict[str, str] | None = None, **body: Any
    ) -> tuple[int, Any]:
        """Ask the model `m`; give status and body."""
        sent = dict(headers or {})
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        async with self.client.post(self.url + CHAT, json=BODY | body, headers=sent) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, Any]:
        """Ask for a path."""
        async with self.client.get(self.url + path) as answer:
            return answer.status, await answer.json()


@pytest.fixture
def small_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed ten models instead of thousands."""
    few = catalog.Catalog(dict(islice(catalog.load().models.items(), 10)))
    monkeypatch.setattr(catalog, "load", lambda: few)


@pytest.fixture
async def provider() -> AsyncIterator[Scripted]:
    """A provider that always gives the same answer."""
    async with Scripted([*(Request(), REPLY) * 500, Hold()]) as scripted:
        yield scripted


@contextlib.asynccontextmanager
async def loading(url: str, place: Place) -> AsyncIterator[Loader]:
    """Move what is written down into the store, until all of it is there."""
    store = await open_store(url, migrate=False)
    loader = Loader(place.folder, lambda rows: usage.insert_rows(store, rows))
    stop = asyncio.Event()
    running = asyncio.get_running_loop().create_task(loader.run(stop, place.run, 5))
    try:
        yield loader
    finally:
        stop.set()
        await running
        loader.close()
        await store.close()


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(provider: Scripted, tmp_path: Path) -> AsyncIterator[Serve]:
    """Start a gateway on a store's URL with these settings; ended with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def serve(url: str, **sections: Any) -> Served:
            settings = Settings.model_validate(
                {
                    "database": {"url": url},
                    "journal": {"dir": str(tmp_path / "data" / "journal")},
                    "providers": [
                        {
                            "name": "p",
                            "type": "openai_compatible",
                            "base_url": provider.url + "/v1",
                            "models": ["m"],
                        }
                    ],
                    **sections,
                    "server": {"port": 0, "shutdown_grace_s": 2, **sections.get("server", {})},
                }
            )
            place = Place.make(Path(settings.journal.dir))
            gateway = Gateway(settings, counters.Board(4 << 20, 1), 0, place)
            await gateway.start()
            loader = await stack.enter_async_context(loading(url, place))
            addresses = [*settings.server.addresses()]
            if settings.admin.listen is not None:
                addresses.append(parse_address(settings.admin.listen))
            (sockets,) = bind(addresses, 1)
            scheme = "https" if settings.server.tls else "http"
            urls = [f"{scheme}://127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]
            await gateway.listen(sockets)
            client = await stack.enter_async_context(aiohttp.ClientSession())
            stack.push_async_callback(gateway.drain)
            return Served(gateway, loader, urls, client)

        yield serve
