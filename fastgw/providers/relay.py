"""Same to same: every byte goes through but for those that the contract names.

The spliced `model`, the credential (not here), and with OpenAI's API the `include_usage` bargain:
the gateway asks for usage where the provider's record says so, and drops the extra event again when
the client did not ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from fastgw._ext import scan, sse
from fastgw.domain import Usage
from fastgw.providers.record import Asked, Delivered
from fastgw.wire import json, usage

_USAGE = frozenset({b"usage"})
LARGEST_EVENT = 32 << 20
"""Bytes; pictures travel as one event."""
_HAVE_USAGE_OPTION = frozenset({"chat_completions", "completions"})
"""Endpoints with `stream_options.include_usage`; Responses always report."""


def wants_usage(asked: Asked) -> bool:
    """Tell whether the client itself asked for the usage event."""
    span = asked.spans.get(b"stream_options")
    if span is None:
        return False
    options = json.loads(asked.body[span[0] : span[1]])
    return isinstance(options, dict) and options.get("include_usage") is True


class Relay:
    """Relay of one exchange between a client and a provider that both speak the same API."""

    def __init__(self, *, drop_usage: bool = False) -> None:
        self._tap = sse.Tap(drop_usage=drop_usage, limit=LARGEST_EVENT)
        self._whole: bytes | None = None
        self._reported: tuple[int, int] | None = None

    def request(self, asked: Asked) -> Sequence[bytes]:
        """Splice the model; leave all else as it is."""
        return splice(asked.body, _model_edit(asked))

    def data(self, data: bytes) -> bytes | None:
        """Pass whole events on, untouched."""
        return self._tap.feed(data)

    def resume(self, tap: sse.Tap) -> None:
        """Take over a stream that has come through `tap` so far."""
        self._tap = tap

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
        """Whether the stream told its own end."""
        return self._tap.done

    @property
    def started(self) -> bool:
        """Whether content went to the client."""
        return self._tap.started

    def delivered(self) -> Delivered:
        """Give the text that went to the client."""
        tap = self._tap if self._whole is None else sse.read_text(self._whole)
        return Delivered(tap.text_tokens, tap.kept_tokens, tap.kept_text, tap.calls)

    def usage(self) -> Usage | None:
        """Read the last usage object the provider reported."""
        if self._whole is not None:
            return self._usage_of(self._whole)
        return self._usage_told()

    def prompt_usage(self) -> Usage | None:
        """Give nothing: prompt and answer are reported together."""
        return None

    def _usage_told(self) -> Usage | None:
        if self._tap.usage is None:
            return None
        return usage.read_event(self._tap.usage)

    def _usage_of(self, body: bytes) -> Usage | None:
        if self._reported is None:
            return None
        start, end = self._reported
        return usage.read(body[start:end])


class OpenAIRelay(Relay):
    """The same with OpenAI's API."""

    def __init__(self, asked: Asked, *, asks_usage: bool) -> None:
        self._ask = (
            asks_usage
            and asked.stream
            and asked.endpoint in _HAVE_USAGE_OPTION
            and not wants_usage(asked)
        )
        super().__init__(drop_usage=self._ask)

    def request(self, asked: Asked) -> Sequence[bytes]:
        """Splice the model and, where it must be asked for, usage; leave all else as it is."""
        edits = _model_edit(asked)
        if self._ask:
            edits.append(_usage_edit(asked))
        return splice(asked.body, edits)


class AnthropicRelay(Relay):
    """The same with Anthropic's API."""

    def __init__(self, _: Asked) -> None:
        super().__init__()

    def prompt_usage(self) -> Usage | None:
        """Read what `message_start` told, while nothing told more."""
        first = self._tap.first_usage
        if first is None or first is not self._tap.usage:
            return None
        return usage.read_event(first)

    def _usage_told(self) -> Usage | None:
        # The event that starts a message tells the input, the one before its end the output.
        first, last = self._tap.first_usage, self._tap.usage
        if last is None or last is first:
            return None
        return usage.read_event(last, first)


class Facts(NamedTuple):
    """What the fast lane must know to do what a relay does."""

    asks_usage: bool = False
    """Whether a stream's usage is asked for where the client did not."""
    tells_twice: bool = False
    """Whether the first event with usage tells the input and the last the output."""


def relay_facts(make: Any, endpoint: str) -> Facts | None:
    """Tell what a maker of translators makes for an endpoint, if it makes relays."""
    if make is AnthropicRelay:
        return Facts(tells_twice=True)
    if not isinstance(make, partial) or make.func is not OpenAIRelay:
        return None
    return Facts(asks_usage=make.keywords["asks_usage"] and endpoint in _HAVE_USAGE_OPTION)


def splice(body: bytes, edits: list[tuple[int, int, bytes]]) -> Sequence[bytes]:
    """Replace the spans (start, end) of `body` by other bytes, without joining the rest."""
    parts = []
    position = 0
    for start, end, new in sorted(edits):
        parts += [body[position:start], new]
        position = end
    parts.append(body[position:] if position else body)
    return parts


def _model_edit(asked: Asked) -> list[tuple[int, int, bytes]]:
    if asked.upstream_model == asked.requested_model:
        return []
    return [(*asked.spans[b"model"], json.dumps(asked.upstream_model))]


def _usage_edit(asked: Asked) -> tuple[int, int, bytes]:
    span = asked.spans.get(b"stream_options")
    if span is not None:
        options = json.loads(asked.body[span[0] : span[1]]) or {}
        options["include_usage"] = True
        return (*span, json.dumps(options))
    # `model` is always there, so a comma after the opening brace is right.
    after_brace = asked.body.index(b"{") + 1
    return after_brace, after_brace, b'"stream_options":{"include_usage":true},'
