"""Plays recorded exchanges: a client, a gateway process, and the provider that replays answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from fastgw.domain import UsageRecord
from tests.processes import Gateway
from tests.recordings.recorded import Recorded
from tests.replay import Received, Replay, Segments

IN_FLIGHT = 16
PATHS = {
    "chat_completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
CREDENTIAL = "sk-replayed-0123456789"


@dataclass
class Played:
    """One exchange as client, provider and ledger saw it."""

    recorded: Recorded
    asked: dict[str, Any]
    sent: bytes
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    broken: str | None = None
    """How the answer ended when it did not end whole."""
    received: Received | None = None
    record: UsageRecord | None = None


def play(
    exchanges: Sequence[Recorded],
    folder: Path,
    store_url: str,
    *,
    segments: Segments = "random",
    ask_usage: bool = True,
) -> list[Played]:
    """Play each exchange once through a gateway of its own; give what was seen, in order."""
    return asyncio.run(_play(exchanges, folder, store_url, segments, ask_usage))


async def _play(
    exchanges: Sequence[Recorded],
    folder: Path,
    store_url: str,
    segments: Segments,
    ask_usage: bool,
) -> list[Played]:
    played = []
    for recorded in exchanges:
        asked = recorded.request(f"{provider_name(recorded)}/{recorded.id}", ask_usage=ask_usage)
        played.append(Played(recorded, asked, json.dumps(asked).encode()))
    async with Replay([one.exchange for one in exchanges], segments=segments) as provider:
        config = {"providers": list(_providers(exchanges, provider.base_url()))}
        gateway = await asyncio.to_thread(Gateway, folder, store_url, config)
        try:
            await asyncio.to_thread(gateway.ready)
            key = await asyncio.to_thread(gateway.create_key)
            await _ask_all(gateway.url, key, played)
            records = await asyncio.to_thread(gateway.records, len(played))
        finally:
            status = await asyncio.to_thread(gateway.stop)
    assert status == 0, gateway.text
    assert "Traceback" not in gateway.text
    received = {request.exchange: request for request in provider.received}
    by_id = {record.id: record for record in records}
    assert (len(provider.received), len(records)) == (len(played), len(played))
    for one in played:
        one.received = received[one.recorded.id]
        one.record = by_id[one.headers["x-fastgw-id"]]
    return played


def provider_name(recorded: Recorded) -> str:
    """Give the configured name of the provider of a file."""
    native = "-native" if recorded.endpoint == "messages" else ""
    return f"rec-{recorded.provider}{native}"


def _providers(exchanges: Iterable[Recorded], base_url: str) -> Iterable[dict[str, Any]]:
    for file, name in {(one.provider, provider_name(one)) for one in exchanges}:
        kind, url = "openai" if file == "openai" else "openai_compatible", base_url
        if name.endswith("-native"):
            kind, url = "anthropic", base_url.removesuffix("/v1")
        yield {"name": name, "type": kind, "base_url": url, "api_key": CREDENTIAL}


async def _ask_all(url: str, key: str, played: Iterable[Played]) -> None:
    waiting = iter(played)
    async with aiohttp.ClientSession(
        auto_decompress=False,
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        timeout=aiohttp.ClientTimeout(30),
    ) as session:

        async def client() -> None:
            for one in waiting:
                await _ask(session, url + PATHS[one.recorded.endpoint], one)

        await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))


async def _ask(session: aiohttp.ClientSession, url: str, one: Played) -> None:
    body = bytearray()
    try:
        async with session.post(url, data=one.sent) as answer:
            one.status = answer.status
            one.headers = {name.lower(): value for name, value in answer.headers.items()}
            async for piece in answer.content.iter_any():
                body += piece
    except aiohttp.ClientError as exc:
        one.broken = repr(exc)
    one.body = bytes(body)
