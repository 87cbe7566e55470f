"""relay: what the client sees of a provider's answer, and when.

A stream goes on event by event. Anything else up to 256 KiB is held until it is complete, so that
cost and usage precede it and an answer that turns out broken is still a plain error.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cache

from fastgw._ext import http1, limits, scan
from fastgw.domain import Deployment
from fastgw.errors import UpstreamFault, UpstreamProtocolError
from fastgw.flow.account import count
from fastgw.flow.exchange import Exchange
from fastgw.providers.relay import wants_usage
from fastgw.wire import json
from fastgw.wire.cut import Passed
from fastgw.wire.shapes import shapes

SERVER = "fastgw"
HELD = 256 * 1024
"""Bytes of an answer that is held until complete."""
_KEPT = 32 * 1024 * 1024
"""Bytes of a longer answer that are kept to find its usage in."""
_NOTHING: frozenset[bytes] = frozenset()
_EVENTS = b"text/event-stream"
_JSON = b"application/json"

_RENAMED = (b"x-ratelimit-", b"anthropic-ratelimit-", b"x-request-id", b"request-id")
"""The provider's own labels move to `x-fastgw-upstream-…`: ours stand in their place."""
_DROPPED = b""


def visible(text: str) -> str:
    """Give a text that can stand in a header field: what is not visible ASCII becomes `?`.

    Clients choose model names; a line end in one must not end our line.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def signature(deployment: Deployment, attempts: int) -> bytes:
    """Give the header lines that say who answered."""
    return (
        f"server: {SERVER}\r\nx-fastgw-provider: {deployment.provider.name}\r\n"
        f"x-fastgw-model: {visible(deployment.model)}\r\nx-fastgw-attempts: {attempts}\r\n"
    ).encode("ascii")


class Labels(dict[bytes, bytes]):
    """A provider's header name -> how its line begins for the client; b"" when it stays here."""

    _MOST = 1_000

    def __init__(self, returned: tuple[str, ...]) -> None:
        super().__init__()
        self._exact = {name.encode() for name in returned if not name.endswith("*")}
        self._prefixes = tuple(name[:-1].encode() for name in returned if name.endswith("*"))

    def __missing__(self, name: bytes) -> bytes:
        if name.startswith(_RENAMED):
            label = b"x-fastgw-upstream-%b: " % name.removeprefix(b"x-")
        elif name in self._exact or (self._prefixes and name.startswith(self._prefixes)):
            label = b"%b: " % name
        else:
            label = _DROPPED
        if len(self) < self._MOST:
            self[name] = label
        return label


@cache
def labels_of(returned: tuple[str, ...]) -> Labels:
    """Give the labels of a provider type; there are few and they never change."""
    return Labels(returned)


class Answer:
    """One attempt's answer as it arrives. Feed it head, data and end; it says what to pass on."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._parts: list[bytes] = []
        self._size = 0
        self.status = 0
        self.fields = b""
        """Header lines for the client, content type included."""
        self.retry_after: float | None = None
        self.streams = False
        """Whether the client's head can be sent before the answer is complete."""
        self.raw = False
        """A long answer that goes through as it comes, not event by event."""
        self.cut = False
        """Whether a stream has come to the end of what it could reserve, and was ended."""
        self._closes = False

    def head(self, head: http1.Head) -> None:
        """Take the provider's head."""
        exchange = self._exchange
        record = exchange.provider_type
        assert record is not None
        self.status = head.status
        succeeded = 200 <= head.status < 300
        content_type = head.content_type
        if not content_type:
            # RFC 9110 §8.3 leaves an unlabelled body to the recipient: it is what was asked for.
            content_type = _EVENTS if exchange.stream and succeeded else _JSON
        lines = head.relabel(labels_of(record.return_headers))
        self.fields = b"%bcontent-type: %b\r\n" % (lines, content_type)
        if not succeeded:
            self.retry_after = _retry_after(head)
        self.streams = succeeded and content_type.lower().startswith(_EVENTS)
        # Only the end of the connection would end this stream: it says nothing about completeness.
        self._closes = self.streams and head.length < 0 and not head.chunked

    def data(self, data: bytes) -> bytes | None:
        """Take body bytes; give what can go to the client now."""
        if self.streams and not self.raw:
            translator = self._exchange.translator
            assert translator is not None
            out = translator.data(data)
            if out is not None:
                self._pass(out)
            slices = self._exchange.slices
            if slices is None or slices.go_on(limits.now_us(), translator.delivered_tokens):
                return out
            self.cut = True
            return (out or b"") + end_short(self._exchange, out or b"")
        self._size += len(data)
        if self._size <= _KEPT:
            self._parts.append(data)
        if self.raw:
            return data
        if self._size > HELD and 200 <= self.status < 300:
            self.streams = self.raw = True
            self._exchange.first_content = time.monotonic_ns()
            return b"".join(self._parts)
        if self._size > HELD:
            raise UpstreamProtocolError("the provider's error answer is too large")
        return None

    def _pass(self, out: bytes) -> None:
        exchange = self._exchange
        if not exchange.first_content:
            exchange.first_content = time.monotonic_ns()
            if exchange.slices is not None and exchange.endpoint == "responses":
                exchange.first_events = out

    def end(self) -> bytes:
        """Take the answer's clean end; give what is left to pass on.

        Raises when what came is not an answer: another status, not JSON, a stream without its end.
        """
        exchange = self._exchange
        translator = exchange.translator
        assert translator is not None
        if self.raw:
            if self._size <= _KEPT:
                with suppress(ValueError):  # it went through as it came; usage is estimated
                    translator.whole(b"".join(self._parts))
            return b""
        if self.streams:
            tail = translator.finish()
            if self._closes and not translator.complete and translator.fault is None:
                raise UpstreamProtocolError("the provider's stream ended early", billed=True)
            if translator.fault is not None:
                exchange.error = UpstreamFault("the provider reported an error inside the stream")
            return tail
        body = b"".join(self._parts) if len(self._parts) != 1 else self._parts[0]
        return self._whole(body)

    def _whole(self, body: bytes) -> bytes:
        exchange = self._exchange
        assert exchange.deployment is not None
        assert exchange.provider_type is not None
        assert exchange.translator is not None
        provider = exchange.deployment.provider.name
        if not 200 <= self.status < 300:
            error = exchange.provider_type.explain(provider, self.status, body)
            error.retry_after = self.retry_after
            if not _relays(self.status, body):
                raise error
            exchange.error = error
            return body
        try:
            out = exchange.translator.whole(body)
        except ValueError as exc:
            raise UpstreamProtocolError(
                f"provider {provider} did not answer with JSON", billed=True
            ) from exc
        exchange.first_content = time.monotonic_ns()
        return out


def end_short(exchange: Exchange, last: bytes) -> bytes:
    """Settle a stream that ends for want of room; give the events that end it for the client.

    `last` are the events that went to the client last.
    """
    count(exchange)
    assert exchange.usage is not None
    shape = shapes(exchange.client_api, exchange.endpoint)
    passed = Passed(
        first=exchange.first_events,
        last=last,
        usage=exchange.usage,
        choices=exchange.choices,
        wants_usage=wants_usage(exchange.body, exchange.spans),
    )
    return shape.length_events(passed)


def _retry_after(head: http1.Head) -> float | None:
    for name, value in head.headers:
        if name == b"retry-after" and value.isdigit():
            return float(value)
    return None


def _relays(status: int, body: bytes) -> bool:
    """Tell whether the client gets the provider's own bytes: a 4xx that is about the request.

    401 and 403 are about our credential, not the client's key. Google's errors are arrays.
    """
    return 400 <= status < 500 and status not in {401, 403} and _is_container(body)


def _is_object(body: bytes) -> bool:
    try:
        scan.top_level(body, _NOTHING)
    except scan.ScanError:
        return False
    return True


def _is_container(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict | list)
    except ValueError:
        return False
