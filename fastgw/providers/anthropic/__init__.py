"""Anthropic itself. Paths and headers: the public API reference."""

from __future__ import annotations

from fastgw.providers.anthropic.auth import authorize
from fastgw.providers.faults import explain
from fastgw.providers.record import ProviderType
from fastgw.providers.relay import AnthropicRelay

RECORD = ProviderType(
    name="anthropic",
    base_url="https://api.anthropic.com",
    environment="ANTHROPIC_API_KEY",
    catalogue="anthropic",
    paths={
        "messages": "/v1/messages",
        "count_tokens": "/v1/messages/count_tokens",
        "models": "/v1/models",
    },
    authorize=authorize,
    translators={"anthropic": AnthropicRelay},
    forward_headers=frozenset(
        {
            "anthropic-version",
            "anthropic-beta",
            "traceparent",
            "tracestate",
        }
    ),
    default_headers={"anthropic-version": "2023-06-01"},
    queries=frozenset({"beta=true"}),
    return_headers=("anthropic-organization-id", "retry-after", "x-should-retry"),
    explain=explain,
)
