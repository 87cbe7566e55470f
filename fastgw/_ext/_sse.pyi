"""Types of the compiled SSE tap."""

from typing import final

TEXT: frozenset[bytes]
"""Members whose string values are delivered text."""
KEPT: int
"""Bytes of text that a tap keeps."""

class EventTooLarge(ValueError):
    """An event exceeds the limit. `passed` is what was complete before it in the same bytes."""

    passed: bytes
    def __init__(self, passed: bytes) -> None: ...

@final
class Tap:
    """A stream's tap: feed() bytes as they come, pass on what it gives, finish() at the end."""

    def __init__(self, drop_usage: bool = False, limit: int = 1048576) -> None: ...
    @property
    def usage(self) -> bytes | None:
        """The payload of the last event that held a member "usage" that is an object."""
    @property
    def first_usage(self) -> bytes | None:
        """The first such payload."""
    @property
    def error(self) -> bytes | None:
        """The payload of the first in-stream error."""
    @property
    def done(self) -> bool:
        """The stream told its own end: [DONE], or an event whose type says so."""
    @property
    def content_events(self) -> int:
        """How many events carried text or a tool call."""
    @property
    def started(self) -> bool:
        """An event with content was passed on."""
    @property
    def text_tokens(self) -> int:
        """The estimated tokens of all text that was passed on."""
    @property
    def kept_text(self) -> bytes:
        """The same text as it stands in the JSON strings, at most `KEPT` bytes of it."""
    @property
    def kept_tokens(self) -> int:
        """The estimated tokens of `kept_text`."""
    @property
    def calls(self) -> int:
        """How many tool calls the text holds."""
    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; give those that end whole events, or None."""
    def finish(self) -> bytes:
        """Give what is left of an incomplete event; one that only lacks its blank line counts."""

def read_text(payload: bytes) -> Tap:
    """Give a tap that has taken the text in one payload, or in a whole JSON answer."""

def text_tokens(payload: bytes) -> int:
    """Estimate the tokens of the text in one payload, or in a whole JSON answer."""
