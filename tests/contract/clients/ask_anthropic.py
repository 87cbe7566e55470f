"""What people do with the official Anthropic client, any version."""

from __future__ import annotations

import os

import anthropic

MESSAGES = [{"role": "user", "content": "Tell me something."}]

with anthropic.Anthropic(base_url=os.environ["BASE_URL"], api_key=os.environ["KEY"]) as client:
    told = client.messages.create(model="claude", max_tokens=64, messages=MESSAGES)
    assert told.content
    with client.messages.stream(model="claude", max_tokens=64, messages=MESSAGES) as stream:
        assert stream.get_final_message().content
    assert client.beta.messages.create(model="claude", max_tokens=64, messages=MESSAGES).content
print(anthropic.__version__)
