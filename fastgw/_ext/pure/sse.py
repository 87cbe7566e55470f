"""Pass a provider's event stream on, whole events at a time.

Twin of _sse.pyx, which says how events are read and what counts as text.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import final

from fastgw._ext import weights
from fastgw._ext.payload import ENDS, ERRORS, judge
from fastgw._ext.pure.estimate import Meter
from fastgw._ext.pure.scan import ScanError, close_quote, skip_container, skip_space

TEXT = frozenset(
    b"content reasoning_content reasoning text arguments refusal partial_json thinking".split()
)
"""Members whose string values are delivered text."""
KEPT = 32 * 1024
"""Bytes of text that a tap keeps."""

_PASSED_OVER = {b"reasoning_details", b"annotations", b"executed_tools", b"tools"}
_MEMBERS = TEXT | _PASSED_OVER | {b"delta", b"name", b"type", b"usage", b"error"}
_LAST_TYPES = {kind.encode() for kind in ENDS | ERRORS}
_JOINED = 64
_LINE_END = re.compile(rb"\r\n|\n|\r")
_DONE = re.compile(rb"[ \t\n\r]*+\[DONE\][ \t\n\r]*+")


class EventTooLarge(ValueError):
    """An event exceeds the limit. `passed` is what was complete before it in the same bytes."""

    def __init__(self, passed: bytes) -> None:
        super().__init__("event too large")
        self.passed = passed


class _Mode(Enum):
    """Which strings of a payload are text."""

    ANY_TEXT = auto()
    DELTA_ONLY = auto()
    BINARY_DELTA = auto()


def _text_mode(kind: bytes) -> _Mode:
    if kind.startswith(b"response."):
        return _Mode.BINARY_DELTA if kind[9:].endswith(b"audio.delta") else _Mode.DELTA_ONLY
    return _Mode.DELTA_ONLY if kind.startswith(b"transcript.") else _Mode.ANY_TEXT


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.removeprefix(b" ")


class _Kept:
    """What is kept of the text, and what is known of it."""

    def __init__(self) -> None:
        self.texts: tuple[bytes, ...] = ()
        self.size = 0
        self.calls = 0
        """In all of the text."""
        self.tokens = -1
        """Estimated, once there was no room for more."""

    def copy(self) -> _Kept:
        """Give another one in the same state."""
        other = _Kept()
        other.texts, other.size = self.texts, self.size
        other.calls, other.tokens = self.calls, self.tokens
        return other

    def take(self, text: bytes, meter: Meter) -> None:
        """Keep more; what is too much is left to the estimate."""
        if self.tokens >= 0:
            return
        if self.size + len(text) > KEPT:
            self.tokens = meter.tokens()
            return
        self.texts = (*self.texts, text) if len(self.texts) < _JOINED else (self.joined() + text,)
        self.size += len(text)

    def joined(self) -> bytes:
        """Give all of it."""
        return b"".join(self.texts)


class _Found:
    """What the members of one payload seem to hold."""

    def __init__(self, meter: Meter, kept: _Kept, mode: _Mode) -> None:
        self.meter = meter.copy()
        self.kept = kept.copy()
        self.mode = mode
        self.content = False
        self.marked = False

    def read(self, payload: bytes) -> bool:
        """Pass over the strings; false when the type came behind text: read again, knowing it."""
        at = 0
        while (start := payload.find(b'"', at)) >= 0:
            quote = close_quote(payload, start + 1)
            if quote < 0:
                break
            at = skip_space(payload, quote + 1)
            if payload[at : at + 1] != b":":
                continue
            at += 1
            key = payload[start + 1 : quote]
            if key not in _MEMBERS:
                continue
            at = skip_space(payload, at)
            if key in _PASSED_OVER:
                at = _skip_array(payload, at)
                continue
            if key in (b"usage", b"error") and payload[at : at + 1] == b"{":
                self.marked = True
            if key == b"usage" or payload[at : at + 1] != b'"':
                continue
            quote = close_quote(payload, at + 1)
            if quote < 0:
                break
            value = payload[at + 1 : quote]
            at = quote + 1
            if not value:
                continue
            if key != b"type":
                self._take(key, value)
                continue
            self.marked |= value in _LAST_TYPES
            if self.mode is _Mode.ANY_TEXT:
                self.mode = _text_mode(value)
                if self.content and self.mode is not _Mode.ANY_TEXT:
                    return False
        return True

    def _take(self, key: bytes, value: bytes) -> None:
        if key == b"error":
            self.marked = True
        elif key == b"delta" or self.mode is _Mode.ANY_TEXT:
            self.content = True
            if key == b"name":
                self.meter.units += weights.PER_ANSWER_CALL
                self.kept.calls += 1
            if self.mode is not _Mode.BINARY_DELTA:
                self.kept.take(value, self.meter)
                self.meter.json(value)


def _find(payload: bytes, meter: Meter, kept: _Kept) -> _Found:
    found = _Found(meter, kept, _Mode.ANY_TEXT)
    if not found.read(payload):
        found = _Found(meter, kept, found.mode)
        found.read(payload)
    return found


def _skip_array(payload: bytes, at: int) -> int:
    if payload[at : at + 1] != b"[":
        return at
    try:
        return skip_container(payload, at, 1)
    except ScanError:
        return at


@final
class Tap:
    """A stream's tap: feed() bytes as they come, pass on what it gives, finish() at the end.

    `usage` and `first_usage` are the payloads of the last and the first event that held a member
    "usage" that is an object, `error` the first that is an in-stream error; `done` says that the
    stream told its own end. With `drop_usage` the event whose "choices" is empty and whose "usage"
    is an object is noted but not passed on.
    """

    def __init__(self, drop_usage: bool = False, limit: int = 1 << 20) -> None:
        if limit < 1:
            raise ValueError("an event needs a byte at least")
        self.usage: bytes | None = None
        self.first_usage: bytes | None = None
        self.error: bytes | None = None
        self.done = False
        self.content_events = 0
        self._drop_usage = drop_usage
        self._limit = limit
        self._meter = Meter()
        self._kept = _Kept()
        self._tail = bytearray()
        self._line = 0
        self._seen = 0
        self._fresh = True
        self._after_cr = False
        self._dropped = False
        self._closing = False
        self._overflowed = False

    @property
    def started(self) -> bool:
        """An event with content was passed on."""
        return self.content_events > 0

    @property
    def text_tokens(self) -> int:
        """The estimated tokens of all text that was passed on."""
        return self._meter.tokens()

    @property
    def kept_text(self) -> bytes:
        """The same text as it stands in the JSON strings, at most `KEPT` bytes of it."""
        return self._kept.joined()

    @property
    def kept_tokens(self) -> int:
        """The estimated tokens of `kept_text`."""
        return self.text_tokens if self._kept.tokens < 0 else self._kept.tokens

    @property
    def calls(self) -> int:
        """How many tool calls the text holds."""
        return self._kept.calls

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; give those that end whole events, or None. EventTooLarge once and for all."""
        if not isinstance(data, bytes):
            raise TypeError(f"bytes, not {type(data).__name__}")
        if self._overflowed:
            raise EventTooLarge(b"")
        if not data:
            return None
        whole = not self._tail
        kept = event = 0
        if self._after_cr:
            self._after_cr = False
            if data[0] == 0x0A:
                kept = 1 if self._dropped else 0
                event = self._line = self._seen = 1
        self._tail += data
        pieces: list[bytes] = []
        while (boundary := self._next_boundary(event)) is not None:
            line, after = boundary
            if line - event > self._limit:
                self._overflow(pieces, kept, event)
            self._dropped = line > event and self._take_event(bytes(self._tail[event:line]))
            if self._dropped:
                pieces.append(bytes(self._tail[kept:event]))
                kept = after
            self._fresh = False
            event = self._line = self._seen = after
        if len(self._tail) - event > self._limit:
            self._overflow(pieces, kept, event)
        if whole and event == len(data) and kept == 0:
            passed = data
        else:
            pieces.append(bytes(self._tail[kept:event]))
            passed = b"".join(pieces)
        del self._tail[:event]
        self._line -= event
        self._seen -= event
        return passed or None

    def finish(self) -> bytes:
        """Give what is left of an incomplete event; one that only lacks its blank line counts."""
        rest = bytes(self._tail)
        self._tail.clear()
        self._closing = True
        return b"" if self._take_event(rest) else rest

    def _next_boundary(self, event: int) -> tuple[int, int] | None:
        # Where the next blank line begins and what follows it, looking at no byte twice.
        tail = self._tail
        while True:
            if (
                self._seen == self._line
                and event < self._line < len(tail)
                and tail[self._line - 1 : self._line + 1] == b"\r\n"
            ):
                # The LF of a CRLF whose CR has ended the line before.
                self._line += 1
                self._seen += 1
            match = _LINE_END.search(tail, self._seen)
            if match is None:
                self._seen = len(tail)
                return None
            if match.start() > self._line:
                self._line = self._seen = match.start() + 1
                continue
            self._after_cr = match.end() == len(tail) and match[0] == b"\r"
            return self._line, match.end()

    def _overflow(self, pieces: list[bytes], kept: int, event: int) -> None:
        passed = b"".join(pieces) + bytes(self._tail[kept:event])
        self._overflowed = True
        self._tail.clear()
        raise EventTooLarge(passed)

    def _take_event(self, event: bytes) -> bool:
        """Read the lines of one event; true when it is to be dropped."""
        if self._fresh:
            event = event.removeprefix(b"\xef\xbb\xbf")
        values: list[bytes] = []
        error_event = False
        for line in _LINE_END.split(event):
            name, value = _field(line)
            if name == b"data":
                values.append(value)
            elif name == b"event":
                error_event = value == b"error"
        return bool(values) and self._take_payload(b"\n".join(values), error_event=error_event)

    def _take_payload(self, payload: bytes, *, error_event: bool) -> bool:
        """Note what a payload reports; true when its event is to be dropped."""
        if _DONE.fullmatch(payload):
            self.done = True
            return False
        if self._closing and not judge(payload).whole:
            return False
        found = _find(payload, self._meter, self._kept)
        if found.marked or error_event:
            verdict = judge(payload)
            if found.marked and verdict.usage:
                self.usage = payload
                self.first_usage = self.first_usage or payload
            if self.error is None and (error_event or (found.marked and verdict.error)):
                self.error = payload
            if found.marked and verdict.end:
                self.done = True
            if found.marked and verdict.extra and self._drop_usage:
                return True
        self._meter, self._kept = found.meter, found.kept
        self.content_events += found.content
        return False


def read_text(payload: bytes) -> Tap:
    """Give a tap that has taken the text in one payload, or in a whole JSON answer."""
    tap = Tap()
    found = _find(payload, tap._meter, tap._kept)  # noqa: SLF001 - of its own module
    tap._meter, tap._kept = found.meter, found.kept  # noqa: SLF001
    return tap


def text_tokens(payload: bytes) -> int:
    """Estimate the tokens of the text in one payload, or in a whole JSON answer."""
    return read_text(payload).text_tokens
