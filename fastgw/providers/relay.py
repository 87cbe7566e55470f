"""OpenAI to OpenAI: every byte goes through but for the three that the contract names.

The spliced `model`, the credential (not here), and the `include_usage` bargain: the gateway asks
for usage where the provider's record says so, and drops the extra event again when the client did
not ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from fastgw._ext import scan, sse
from fastgw.domain import Usage
from fastgw.providers.record import Asked
from fastgw.wire import json, usage

_USAGE = frozenset({b"usage"})
LARGEST_EVENT = 32 << 20
"""Bytes; pictures travel as one event."""


def wants_usage(asked: Asked) -> bool:
    """Tell whether the client itself asked for the usage event."""
    span = asked.spans.get(b"stream_options")
    if span is None:
        return False
    options = json.loads(asked.body[span[0] : span[1]])
    return isinstance(options, dict) and options.get("include_usage") is True


class OpenAIRelay:
    """Relay of one exchange between a client and a provider that both speak OpenAI's API."""

    def __init__(self, asked: Asked, *, asks_usage: bool) -> None:
        self._ask = asks_usage and asked.stream and not wants_usage(asked)
        self._tap = sse.Tap(drop_usage=self._ask, limit=LARGEST_EVENT)
        self._whole: bytes | None = None
        self._reported: tuple[int, int] | None = None

    def request(self, asked: Asked) -> Sequence[bytes]:
        """Splice the model and, where it must be asked for, usage; leave all else as it is."""
        edits = []
        if asked.upstream_model != asked.requested_model:
            edits.append((*asked.spans[b"model"], json.dumps(asked.upstream_model)))
        if self._ask:
            edits.append(_usage_edit(asked))
        return splice(asked.body, edits)

    def data(self, data: bytes) -> bytes | None:
        """Pass whole events on, untouched."""
        return self._tap.feed(data)

    def resume(self, tap: sse.Tap | None, whole: bytes | None) -> None:
        """Take over an exchange whose answer has come already, through `tap` or whole."""
        if tap is not None:
            self._tap = tap
        if whole is not None:
            self.whole(whole)

    def finish(self) -> bytes:
        """Give the tail that never became an event."""
        return self._tap.finish()

    def whole(self, body: bytes) -> bytes:
        """Pass a whole answer on, untouched; remember where its usage stands."""
        self._reported = scan.top_level(body, _USAGE).get(b"usage")
        self._whole = body
        return body

    @property
    def fault(self) -> bytes | None:
        """The provider's own error event."""
        return self._tap.error

    @property
    def complete(self) -> bool:
        """Whether `[DONE]` was seen."""
        return self._tap.done

    @property
    def started(self) -> bool:
        """Whether content went to the client."""
        return self._tap.started

    @property
    def delivered_tokens(self) -> int:
        """Estimated tokens of the text that went to the client."""
        return self._tap.text_tokens if self._whole is None else sse.text_tokens(self._whole)

    def usage(self) -> Usage | None:
        """Read the last usage object the provider reported."""
        if self._whole is not None:
            return self._usage_of(self._whole)
        if self._tap.usage is None:
            return None
        return usage.read_event(self._tap.usage)

    def _usage_of(self, body: bytes) -> Usage | None:
        if self._reported is None:
            return None
        start, end = self._reported
        return usage.read(body[start:end])


class Facts(NamedTuple):
    """What the fast lane must know to do what a relay does."""

    asks_usage: bool


def relay_facts(make: Any) -> Facts | None:
    """Tell what a maker of translators makes, if it makes relays."""
    if not isinstance(make, partial) or make.func is not OpenAIRelay:
        return None
    return Facts(**make.keywords)


def splice(body: bytes, edits: list[tuple[int, int, bytes]]) -> Sequence[bytes]:
    """Replace the spans (start, end) of `body` by other bytes, without joining the rest."""
    parts = []
    position = 0
    for start, end, new in sorted(edits):
        parts += [body[position:start], new]
        position = end
    parts.append(body[position:] if position else body)
    return parts


def _usage_edit(asked: Asked) -> tuple[int, int, bytes]:
    span = asked.spans.get(b"stream_options")
    if span is not None:
        options = json.loads(asked.body[span[0] : span[1]]) or {}
        options["include_usage"] = True
        return (*span, json.dumps(options))
    # `model` is always there, so a comma after the opening brace is right.
    after_brace = asked.body.index(b"{") + 1
    return after_brace, after_brace, b'"stream_options":{"include_usage":true},'
