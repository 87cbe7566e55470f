"""The same through the asynchronous client, several at once."""

from __future__ import annotations

import asyncio
import os

import openai

MESSAGES = [{"role": "user", "content": "Tell me something."}]


async def run() -> None:
    url = os.environ["BASE_URL"] + "/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=os.environ["KEY"]) as client:
        create = client.chat.completions.create
        await asyncio.gather(*(create(model="mock", messages=MESSAGES) for _ in range(4)))
        async for _ in await create(model="mock", messages=MESSAGES, stream=True):
            pass


asyncio.run(run())
print(openai.__version__)
