"""A running mock and clients for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import openai
import pytest

from fastgw.mock import Options, Running, start

KEY = "sk-mock-credential"


def ask(model: str = "mock", text: str = "how are you today", **more: Any) -> dict[str, Any]:
    """Give a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def open_client(base_url: str, api_key: str = KEY, **more: Any) -> openai.AsyncOpenAI:
    """Give the official client without retries, and without reading the trust store each time."""
    plain = openai.DefaultAsyncHttpxClient(verify=False)
    return openai.AsyncOpenAI(
        base_url=base_url, api_key=api_key, max_retries=0, http_client=plain, **more
    )


@pytest.fixture
async def start_mock() -> AsyncIterator[Callable[..., Awaitable[Running]]]:
    running: list[Running] = []

    async def begin(**options: Any) -> Running:
        running.append(await start(Options(**options)))
        return running[-1]

    yield begin
    for mock in running:
        await mock.stop()


@pytest.fixture
async def mock(start_mock) -> Running:
    return await start_mock(chunks=8)


@pytest.fixture
async def client(mock) -> AsyncIterator[openai.AsyncOpenAI]:
    async with open_client(mock.base_url) as client:
        yield client


@pytest.fixture
async def session(mock) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(mock.url) as session:
        yield session
