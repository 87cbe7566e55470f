"""Any server with OpenAI's surface: vLLM, llama.cpp, a vendor's `/v1`, another gateway.

Nothing is assumed beyond the public shape: a stream is asked for usage, as every server seen either
reports it then or ignores `stream_options`.
"""

from __future__ import annotations

from functools import partial

from fastgw.providers.bearer import bearer
from fastgw.providers.faults import explain
from fastgw.providers.record import ProviderType
from fastgw.providers.relay import OpenAIRelay

RECORD = ProviderType(
    name="openai_compatible",
    paths={
        "chat_completions": "/chat/completions",
        "completions": "/completions",
        "embeddings": "/embeddings",
        "responses": "/responses",
    },
    authorize=bearer,
    translators={"openai": partial(OpenAIRelay, asks_usage=True)},
    forward_headers=frozenset({"traceparent", "tracestate"}),
    return_headers=("openai-*", "retry-after", "retry-after-ms", "x-should-retry"),
    asks_usage=True,
    explain=explain,
)
