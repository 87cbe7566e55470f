"""Which endpoint a path is and which client API it belongs to: one table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fastgw.flow.exchange import COUNT_TOKENS


class Endpoint(NamedTuple):
    """A route that reaches a model."""

    path: str
    name: str
    """As records, metrics and provider types call it."""
    client_api: str
    queries: tuple[str, ...] = ()
    """Query strings that clients send with it and providers know."""


MODEL_ENDPOINTS = (
    Endpoint("/v1/chat/completions", "chat_completions", "openai"),
    Endpoint("/v1/completions", "completions", "openai"),
    Endpoint("/v1/embeddings", "embeddings", "openai"),
    Endpoint("/v1/responses", "responses", "openai"),
    Endpoint("/v1/messages", "messages", "anthropic", ("beta=true",)),
    Endpoint("/v1/messages/count_tokens", COUNT_TOKENS, "anthropic", ("beta=true",)),
)
PREFIXES = {"openai": ("", "/openai"), "anthropic": ("", "/anthropic")}
"""Client API -> where its routes begin. Its name as first segment never pins a provider."""


def hot_targets() -> dict[str, tuple[Endpoint, str]]:
    """Give the exact request targets of model routes -> endpoint and query."""
    return {
        prefix + endpoint.path + (f"?{query}" if query else ""): (endpoint, query)
        for endpoint in MODEL_ENDPOINTS
        for prefix in PREFIXES[endpoint.client_api]
        for query in ("", *endpoint.queries)
    }


def client_api_of(target: str, headers: Mapping[str, str]) -> str:
    """Tell whose shapes answer a request, also one that no route of ours serves.

    The path decides; a path that several client APIs share, and one that none knows, is told by
    its headers.
    """
    path = target.partition("?")[0]
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    if first in PREFIXES:
        return first
    for endpoint in MODEL_ENDPOINTS:
        if path.endswith(endpoint.path) or endpoint.path + "/" in path:
            return endpoint.client_api
    return "anthropic" if "anthropic-version" in headers else "openai"
