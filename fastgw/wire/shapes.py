"""Which shape an answer of ours has: chosen by client API and endpoint, everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from fastgw.domain import Model
from fastgw.errors import GatewayError
from fastgw.wire import anthropic, openai

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment (WHATWG HTML, server-sent events): clients read over it, whatever API they speak."""


class Shapes(msgspec.Struct, frozen=True):
    """How one client API writes what is ours to write."""

    error_body: Callable[[GatewayError, str], bytes]
    """An error and the request's label -> the body of an error answer."""
    error_event: Callable[[GatewayError, str, bytes], bytes]
    """The same and the last whole events -> the event that ends a stream which cannot go on."""
    model_object: Callable[[Model], dict[str, Any]]
    model_list: Callable[[Iterable[Model]], bytes]
    numbered: bool = False
    """Whether the events of a stream are numbered, so that the last ones have to be known."""
    label_headers: tuple[str, ...] = ("x-request-id",)
    """Response headers that carry the request's label."""

    def label_lines(self, label: str) -> bytes:
        """Give those headers as lines of a head."""
        return "".join(f"{name}: {label}\r\n" for name in self.label_headers).encode("ascii")


_OPENAI = Shapes(openai.error_body, openai.error_event, openai.model_object, openai.model_list)
_RESPONSES = msgspec.structs.replace(
    _OPENAI, error_event=openai.responses_error_event, numbered=True
)
_ANTHROPIC = Shapes(
    anthropic.error_body,
    anthropic.error_event,
    anthropic.model_object,
    anthropic.model_list,
    label_headers=("x-request-id", "request-id"),
)


def shapes(client_api: str, endpoint: str = "") -> Shapes:
    """Give the shapes of a client API."""
    if client_api == "anthropic":
        return _ANTHROPIC
    return _RESPONSES if endpoint == "responses" else _OPENAI
