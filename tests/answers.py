"""Reads HTTP/1.1 answers off a connection, strictly: what a wary client accepts, and nothing else.

    reader = Answers(["POST", "HEAD"])     # the methods asked, in order; the last serves the rest
    reader.feed(data); reader.end(); reader.answers, reader.fault

Interim answers (1xx) are kept beside the others in `interim`. A body of unknown length ends with
the connection. `fault` says what made no sense; nothing is read after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_MOST_HEAD = 256 * 1024


@dataclass
class Answer:
    """One answer; header names are in lower case, in the order they came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False
    """The framing said that it is complete."""

    def header(self, name: str) -> str | None:
        """Give the value of a header that must not occur twice."""
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, f"{name} occurs {len(found)} times"
        return found[0] if found else None

    @property
    def closes(self) -> bool:
        """Whether it announces that the connection ends with it."""
        return "close" in (self.header("connection") or "").lower()


class Answers:
    """An incremental reader of all answers of one connection."""

    def __init__(self, methods: Sequence[str] = ("POST",)) -> None:
        self.answers: list[Answer] = []
        self.interim: list[int] = []
        self.fault = ""
        self._methods = methods
        self._buffer = bytearray()
        self._open: Answer | None = None
        self._left = 0
        self._chunked = False
        self._in_chunk = False

    @property
    def busy(self) -> bool:
        """Whether an answer has begun and is not complete."""
        return self._open is not None or bool(self._buffer)

    @property
    def count(self) -> int:
        """How many answers have begun."""
        return len(self.answers)

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        self._buffer += data
        while not self.fault and self._buffer and self._step():
            pass

    def end(self) -> None:
        """Take the end of the connection: it completes a body that nothing else ends."""
        if self._open is not None and not self._chunked and self._left < 0:
            self._open.whole = True
            self._open = None
        elif self._open is None and self._buffer and not self.fault:
            self.fault = f"{bytes(self._buffer[:60])!r} is no answer"

    def _step(self) -> bool:
        """Take one head or one piece of a body; False when more bytes are needed."""
        if self._open is None:
            return self._take_head()
        if self._chunked:
            return self._take_chunk(self._open)
        return self._take_plain(self._open)

    def _fail(self, why: str) -> bool:
        self.fault = why
        return False

    def _take_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return len(self._buffer) > _MOST_HEAD and self._fail("the head does not end")
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        status = _STATUS.fullmatch(first)
        if status is None:
            return self._fail(f"{first[:60]!r} is no status line")
        headers = []
        for line in lines:
            pair = _FIELD.fullmatch(line)
            if pair is None:
                return self._fail(f"{line[:60]!r} is no header field")
            headers.append((pair[1].decode().lower(), pair[2].decode("latin-1")))
        del self._buffer[: end + 4]
        answer = Answer(int(status[1]), headers)
        if answer.status < 200:
            self.interim.append(answer.status)
            return True
        method = self._methods[min(len(self.answers), len(self._methods) - 1)]
        self.answers.append(answer)
        return self._frame(answer, bodiless=method == "HEAD" or answer.status in {204, 304})

    def _frame(self, answer: Answer, *, bodiless: bool) -> bool:
        lengths = [value for name, value in answer.headers if name == "content-length"]
        codings = [value for name, value in answer.headers if name == "transfer-encoding"]
        if len(lengths) + len(codings) > 1:
            return self._fail(f"framed twice: {lengths} {codings}")
        if lengths and not lengths[0].isdigit():
            return self._fail(f"content-length {lengths[0]!r}")
        if codings and codings[0] != "chunked":
            return self._fail(f"transfer-encoding {codings[0]!r}")
        self._chunked = bool(codings)
        self._in_chunk = False
        self._left = int(lengths[0]) if lengths else 0 if codings else -1
        self._open = answer
        if bodiless or (lengths and not self._left):
            self._complete(answer)
        return True

    def _complete(self, answer: Answer) -> None:
        answer.whole = True
        self._open = None

    def _take_plain(self, answer: Answer) -> bool:
        piece = self._buffer if self._left < 0 else self._buffer[: self._left]
        answer.body += piece
        if self._left > 0:
            self._left -= len(piece)
        del self._buffer[: len(piece)]
        if self._left == 0:
            self._complete(answer)
        return True

    def _take_chunk(self, answer: Answer) -> bool:
        if self._in_chunk:
            piece = self._buffer[: self._left]
            answer.body += piece
            del self._buffer[: len(piece)]
            self._left -= len(piece)
            if self._left or len(self._buffer) < 2:
                return False
            if self._buffer[:2] != b"\r\n":
                return self._fail("no line end after a chunk")
            del self._buffer[:2]
            self._in_chunk = False
            return True
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return len(self._buffer) > 100 and self._fail("a chunk size does not end")
        size = bytes(self._buffer[:end])
        if _SIZE.fullmatch(size) is None:
            return self._fail(f"{size[:60]!r} is no chunk size")
        if int(size, 16):
            self._left = int(size, 16)
            self._in_chunk = True
        elif len(self._buffer) < end + 4:
            return False
        elif self._buffer[end + 2 : end + 4] != b"\r\n":
            return self._fail("trailers")
        else:
            self._complete(answer)
            end += 2
        del self._buffer[: end + 2]
        return True
