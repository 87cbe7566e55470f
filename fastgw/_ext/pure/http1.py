"""HTTP/1.1 response heads and chunked bodies, strictly (RFC 9112); the twin of `_http1.pyx`.

Knows bytes only. What is refused here would otherwise be read differently by the next hop: bare LF,
folded or repeated framing fields, both framings at once, sizes that overflow, trailers.
Both functions judge every complete piece as it comes, so that a verdict never depends on how the
bytes were cut, and a bad answer fails at once instead of at a time-out.
"""

from __future__ import annotations

import re
from enum import IntEnum, auto

from fastgw._ext.trailers import MAX_TRAILERS, accepts

MAX_HEAD = 65536
MAX_FIELDS = 100
MAX_EXTENSION = 256
MAX_EXTENSIONS = 16384
MAX_SIZE_DIGITS = 15
"""A chunk size of 15 hexadecimal digits fits a signed 64-bit integer with room to spare."""
MAX_LENGTH_DIGITS = 18

_START = b"HTTP/1."
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t -~\x80-\xff]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}):[\t ]*+([\t -~\x80-\xff]*)")
_DIGITS = re.compile(rb"[0-9]+")
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[,\t ])timeout=([0-9]{1,6})(?:$|[,\t ])", re.IGNORECASE)

_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class BadHead(ValueError):
    """The response head is not one we accept."""


class BadChunk(ValueError):
    """The chunked framing is broken."""


class Head:
    """One response head.

    `headers` are (name in lower case, value without surrounding white space), in order.
    `size` counts its bytes. `length` is Content-Length or -1. `idle_s` is the time-out of a
    `Keep-Alive` field in seconds, or -1.
    """

    __slots__ = (
        "chunked", "headers", "idle_s", "keep_alive", "length", "minor", "size", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self.status = 0
        self.minor = 1
        self.headers: list[tuple[bytes, bytes]] = []
        self.size = 0
        self.length = -1
        self.chunked = False
        self.keep_alive = True
        self.idle_s = -1

    def __repr__(self) -> str:
        return f"<Head {self.status}, {len(self.headers)} fields, {self.size} bytes>"

    @property
    def content_type(self) -> bytes:
        """Give the last Content-Type, b"" without one."""
        return next((v for name, v in reversed(self.headers) if name == b"content-type"), b"")

    def rest(self, data: bytes) -> bytes:
        """Give what follows the head in the bytes it was read from."""
        return data[self.size :]

    def relabel(self, labels: dict[bytes, bytes]) -> bytes:
        """Give the fields as lines that begin with `labels[name]`, without those that map to b"".

        Content-Type is left out: it is for the caller to decide.
        """
        return b"".join(
            b"%b%b\r\n" % (label, value)
            for name, value in self.headers
            if name != b"content-type" and (label := labels[name])
        )


def parse_head(buf: bytes) -> Head | None:
    """Read the response head that `buf` begins with; None while it is incomplete.

    Every complete line is judged, so a bad head raises `BadHead` before it is complete.
    """
    head = Head()
    close = keep = False
    start = 0
    while True:
        end = buf.find(b"\n", start, MAX_HEAD)
        if end < 0:
            if len(buf) >= MAX_HEAD:
                raise BadHead("the head is larger than 64 KiB")
            if start == 0 and buf[:7] != _START[: len(buf)]:
                raise BadHead("not an HTTP/1 status line")
            return None
        if end == start or buf[end - 1] != 13:
            raise BadHead("a line does not end with CR LF")
        line = buf[start : end - 1]
        if start == 0:
            _read_status_line(head, line)
        elif not line:
            break
        else:
            name, value = _read_field(head, line)
            if name == b"connection":
                tokens = [token.strip(b"\t ") for token in value.lower().split(b",")]
                close = close or b"close" in tokens
                keep = keep or b"keep-alive" in tokens
        start = end + 1
    if head.chunked and head.length >= 0:
        raise BadHead("both Content-Length and Transfer-Encoding")
    if head.chunked and head.minor == 0:
        raise BadHead("Transfer-Encoding in HTTP/1.0")
    head.size = end + 1
    head.keep_alive = not close and (head.minor == 1 or keep)
    return head


def _read_status_line(head: Head, line: bytes) -> None:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise BadHead("not an HTTP/1 status line")
    head.minor = int(match[1])
    head.status = int(match[2])


def _read_field(head: Head, line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise BadHead("a header field is not a token, a colon and a field value")
    if len(head.headers) == MAX_FIELDS:
        raise BadHead("more than 100 header fields")
    field = (match[1].lower(), match[2].rstrip(b"\t "))
    head.headers.append(field)
    name, value = field
    if name == b"content-length":
        if head.length >= 0:
            raise BadHead("Content-Length twice")
        if len(value) > MAX_LENGTH_DIGITS or not _DIGITS.fullmatch(value):
            raise BadHead("Content-Length is not a number")
        head.length = int(value)
    elif name == b"transfer-encoding":
        if head.chunked or value.lower() != b"chunked":
            raise BadHead("a Transfer-Encoding other than chunked")
        head.chunked = True
    elif name == b"keep-alive" and (hint := _KEEP_ALIVE_TIMEOUT.search(value)):
        head.idle_s = int(hint[1])
    return field


class _State(IntEnum):
    """What the next byte of a chunked body must be; the compiled twin has the same."""

    SIZE = auto()
    SIZE_LF = auto()
    EXTENSION = auto()  # first character of an extension's name
    EXTENSION_NAME = auto()
    EXTENSION_EQUALS = auto()  # first character of an extension's value
    EXTENSION_VALUE = auto()
    QUOTED = auto()
    QUOTED_ESCAPE = auto()
    QUOTED_END = auto()
    DATA = auto()
    DATA_CR = auto()
    DATA_LF = auto()
    END_CR = auto()
    END_LF = auto()
    TRAILER = auto()
    DONE = auto()
    BROKEN = auto()


class Dechunker:
    """Takes the chunked framing off a body, or only checks it, however the bytes are cut.

    One object serves one body, through `feed` or through `check`. `done` is true once the last
    chunk was seen; `excess` holds what came after it in `feed`. In the body of a
    `request` trailers are passed over, else refused, and all extensions together are bounded.
    """

    __slots__ = (
        *("_digits", "_extended", "_extension", "_extensions", "_left", "_line", "_request"),
        *("_state", "_trailed", "done", "excess"),
    )

    def __init__(self, request: bool = False) -> None:
        self._state: int = _State.SIZE
        self._left = 0
        self._digits = 0
        self._extension = 0
        self._extended = False
        self._extensions = 0
        self._request = request
        self._trailed = 0
        self._line = bytearray()
        self.done = False
        self.excess = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Give the payload in `data`; raises `BadChunk` when the framing is broken."""
        pieces: list[bytes] = []
        self._extended = not self._is_between()
        used = self._run(data, pieces)
        if used < len(data):
            self.excess += data[used:]
        return pieces

    def was_whole(self) -> bool:
        """Tell whether what was fed last was whole chunks without extensions, and not the last."""
        return not self._extended and self._is_between()

    def _is_between(self) -> bool:
        return self._state == _State.SIZE and not self._digits

    def check(self, data: bytes) -> int:
        """Give how many bytes of `data` belong to this body, framing included."""
        return self._run(data, None)

    def _run(self, data: bytes, pieces: list[bytes] | None) -> int:
        at, end = 0, len(data)
        while at < end and self._state != _State.DONE:
            if self._state != _State.DATA:
                self._step(data[at])
                at += 1
                continue
            stop = min(end, at + self._left)
            if pieces is not None:
                pieces.append(data[at:stop])
            self._left -= stop - at
            at = stop
            if not self._left:
                self._state = _State.DATA_CR
        return at

    def _step(self, byte: int) -> None:
        """Take one byte of framing."""
        state = self._state
        if state == _State.SIZE:
            self._step_size(byte)
        elif _State.EXTENSION <= state <= _State.QUOTED_END:
            self._extension += 1
            if self._extension > MAX_EXTENSION:
                self._refuse("a chunk extension is longer than 256 bytes")
            self._extensions += self._request
            if self._extensions > MAX_EXTENSIONS:
                self._refuse("the chunk extensions are longer than 16 KiB")
            self._step_extension(byte)
        elif state == _State.TRAILER or (self._request and state == _State.END_CR and byte != 13):
            self._step_trailer(byte)
        elif state == _State.SIZE_LF and byte == 10:
            self._digits = self._extension = 0
            self._state = _State.DATA if self._left else _State.END_CR
        elif state == _State.DATA_CR and byte == 13:
            self._state = _State.DATA_LF
        elif state == _State.DATA_LF and byte == 10:
            self._state = _State.SIZE
        elif state == _State.END_CR and byte == 13:
            self._state = _State.END_LF
        elif state == _State.END_LF and byte == 10:
            self._state = _State.DONE
            self.done = True
        elif state == _State.END_CR:
            self._refuse("trailers are not accepted")
        else:
            self._refuse("a chunk or its size line does not end with CR LF")

    def _step_size(self, byte: int) -> None:
        if 48 <= byte <= 57:
            digit = byte - 48
        elif 97 <= byte <= 102 or 65 <= byte <= 70:
            digit = (byte | 32) - 87
        elif self._digits and byte == 13:
            self._state = _State.SIZE_LF
            return
        elif self._digits and byte == 59:
            self._state = _State.EXTENSION
            self._extended = True
            return
        else:
            self._refuse("a chunk size is not a hexadecimal number")
        self._digits += 1
        if self._digits > MAX_SIZE_DIGITS:
            self._refuse("a chunk size overflows")
        self._left = self._left * 16 + digit

    def _step_extension(self, byte: int) -> None:
        """Follow `;name`, `;name=token` and `;name="quoted"` (RFC 9112 section 7.1.1)."""
        state = self._state
        if state in (_State.QUOTED, _State.QUOTED_ESCAPE):
            self._step_quoted(byte)
        elif state == _State.EXTENSION_EQUALS and byte == 34:
            self._state = _State.QUOTED
        elif byte in _TOKEN and state != _State.QUOTED_END:
            if state == _State.EXTENSION:
                self._state = _State.EXTENSION_NAME
            elif state == _State.EXTENSION_EQUALS:
                self._state = _State.EXTENSION_VALUE
        elif state in (_State.EXTENSION, _State.EXTENSION_EQUALS):
            self._refuse("an empty chunk extension")
        elif byte == 13:
            self._state = _State.SIZE_LF
        elif byte == 59:
            self._state = _State.EXTENSION
        elif byte == 61 and state == _State.EXTENSION_NAME:
            self._state = _State.EXTENSION_EQUALS
        else:
            self._refuse("a chunk extension is malformed")

    def _step_quoted(self, byte: int) -> None:
        if (byte < 32 and byte != 9) or byte == 127:
            self._refuse("a control character in a chunk extension")
        if self._state == _State.QUOTED_ESCAPE:
            self._state = _State.QUOTED
        elif byte == 34:
            self._state = _State.QUOTED_END
        elif byte == 92:
            self._state = _State.QUOTED_ESCAPE

    def _step_trailer(self, byte: int) -> None:
        if self._state == _State.END_CR:
            self._state = _State.TRAILER
            self._line = bytearray()
        self._line.append(byte)
        self._trailed += 1
        if self._trailed > MAX_TRAILERS:
            self._refuse("the trailers are longer than 8 KiB")
        if byte == 10:
            if not accepts(bytes(self._line)):
                self._refuse("a trailer that is malformed or not allowed")
            self._state = _State.END_CR

    def _refuse(self, why: str) -> None:
        self._state = _State.BROKEN
        raise BadChunk(why)
