"""What people do with the official OpenAI client, any version: run by its own Python path."""

from __future__ import annotations

import os

import openai

MESSAGES = [{"role": "user", "content": "Tell me something."}]
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}

with openai.OpenAI(base_url=os.environ["BASE_URL"] + "/v1", api_key=os.environ["KEY"]) as client:
    chat = client.chat.completions
    assert chat.create(model="mock", messages=MESSAGES).choices[0].message.content
    assert chat.create(model="mock", messages=MESSAGES, max_tokens=20, temperature=0.3, user="u")
    assert chat.create(model="mock", messages=MESSAGES, tools=[TOOL]).choices
    for options in ({}, {"stream_options": {"include_usage": True}}):
        with chat.create(model="mock", messages=MESSAGES, stream=True, **options) as stream:
            assert [chunk.choices for chunk in stream]
    raw = chat.with_raw_response.create(
        model="mock", messages=MESSAGES, extra_headers={"x-request-id": "mine"}
    )
    assert raw.status_code == 200
print(openai.__version__)
