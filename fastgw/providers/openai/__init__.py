"""OpenAI itself. Paths and headers: the public API reference."""

from __future__ import annotations

from functools import partial

from fastgw.providers.bearer import bearer
from fastgw.providers.faults import explain
from fastgw.providers.record import ProviderType
from fastgw.providers.relay import OpenAIRelay

RECORD = ProviderType(
    name="openai",
    base_url="https://api.openai.com/v1",
    environment="OPENAI_API_KEY",
    catalogue="openai",
    paths={
        "chat_completions": "/chat/completions",
        "completions": "/completions",
        "embeddings": "/embeddings",
        "responses": "/responses",
    },
    authorize=bearer,
    translators={"openai": partial(OpenAIRelay, asks_usage=True)},
    forward_headers=frozenset(
        {
            "openai-beta",
            "openai-organization",
            "openai-project",
            "traceparent",
            "tracestate",
        }
    ),
    return_headers=("openai-*", "retry-after", "retry-after-ms", "x-should-retry"),
    asks_usage=True,
    explain=explain,
)
