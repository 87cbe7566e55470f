"""HTTP/1.1 request heads, strictly (RFC 9112, RFC 9110, RFC 3986); the twin of `_request.pyx`.

Every verdict falls at the first byte that decides it, so it never depends on how the bytes were
cut, and a bad head is refused before it is complete. Where two servers are known to read a head
differently it is refused here, so that there is one reading. Knows bytes only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address

from fastgw._ext.faults import faults
from fastgw._ext.pure.http1 import BadChunk, Dechunker

MAX_HEAD = 65536
MAX_LINE = 8192
"""With its CR LF."""
MAX_FIELDS = 100

_WANTED = 64
_WANTED_NAME = 64
_EMPTY_LINES = 2

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH")
"""CONNECT is none: an origin has nothing to tunnel to."""

(
    _,
    _BARE_LF,
    _BARE_CR,
    _CONTROL,
    _TARGET_TOO_LONG,
    _LINE_TOO_LONG,
    _HEAD_TOO_LARGE,
    _TOO_MANY_FIELDS,
    _BAD_REQUEST_LINE,
    _BAD_TARGET,
    _BAD_VERSION,
    _BAD_METHOD,
    _FOLDED,
    _SPACE_BEFORE_COLON,
    _BAD_NAME,
    _BAD_LENGTH,
    _LENGTH_TWICE,
    _BOTH_FRAMINGS,
    _BAD_CODING,
    _UNKNOWN_CODING,
    _OLD_CODING,
    _BAD_HOST,
    _NO_HOST,
    _HOST_TWICE,
    _OTHER_HOST,
    _BAD_EXPECT,
    _TYPE_TWICE,
) = range(len(faults))

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PATH = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*"
_QUERY = rb"(?:\?(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?\[\]]|%[0-9A-Fa-f]{2})*)?"
_NOT_TEXT = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")
_REQUEST_LINE = re.compile(rb"(%b) ([^ ]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_REST = re.compile(_PATH + _QUERY)
_ABSOLUTE = re.compile(rb"(https?)://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(
    rb"(\[([0-9A-Fa-f:.]*)\]|(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,6}))?"
)
_FIELD = re.compile(rb"(%b):[ \t]*(.*?)[ \t]*" % _TOKEN, re.DOTALL)
_SPACED = re.compile(rb"%b[ \t]+:" % _TOKEN)
_CODINGS = re.compile(rb"%b(?:[ \t]*,[ \t]*%b)*" % (_TOKEN, _TOKEN))
_WANTED_FIELD = re.compile(rb"[a-z0-9-]{1,%d}" % _WANTED_NAME)


class BadRequest(ValueError):
    """The request is refused; `status` and `message` are what the client is told."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


BadRequest.__module__ = "fastgw._ext.request"


def _refuse(fault: int) -> BadRequest:
    return BadRequest(*faults[fault])


class Fields:
    """The field names to find, in lower case; 64 at most. A field's index is its position."""

    def __init__(self, names: Sequence[bytes]) -> None:
        self.names = tuple(names)
        if len(self.names) > _WANTED:
            raise ValueError(f"more than {_WANTED} names")
        self.index: dict[bytes, int] = {}
        for index, name in enumerate(self.names):
            if not _WANTED_FIELD.fullmatch(name):
                raise ValueError(f"not a field name to look for: {name!r}")
            if name in self.index:
                raise ValueError(f"wanted twice: {name!r}")
            self.index[name] = index


class Head:
    """A request head that was read whole.

    `length` is Content-Length or -1; `close`: this is the connection's last request;
    `keep_alive`: an HTTP/1.0 client asks for more; bit i of `repeated`: the wanted field i occurs
    more than once.
    """

    def __init__(self) -> None:
        self.size = 0
        self.method = b""
        self.target = b""
        self.minor = 1
        self.length = -1
        self.chunked = False
        self.close = False
        self.keep_alive = False
        self.expect = False
        self.upgrade = False
        self.fields = 0
        self.repeated = 0
        self._values: dict[int, bytes] = {}

    def __repr__(self) -> str:
        return f"<Head {self.method.decode()} {self.fields} fields, {self.size} bytes>"

    def value(self, index: int) -> bytes | None:
        """Give the value of a wanted field, its first one; None without."""
        if not 0 <= index < _WANTED:
            raise IndexError(index)
        return self._values.get(index)

    def keep(self, index: int, value: bytes) -> None:
        """Keep the value of a wanted field."""
        if index in self._values:
            self.repeated |= 1 << index
        else:
            self._values[index] = value


class Reader:
    """Reads one head from a buffer that grows."""

    def __init__(self, fields: Fields) -> None:
        self._wanted = fields.index
        self._head = Head()
        self._looked = 0
        self._line = 0
        self._empty_lines = 0
        self._host: tuple[bytes, int] | None = None
        self._absolute: tuple[bytes, int] | None = None
        self._default_port = 80
        self._typed = False
        self._options: set[bytes] = set()

    @property
    def target(self) -> bytes:
        """Give the target once the request line was read, b"" before."""
        return self._head.target

    @property
    def method(self) -> bytes:
        """Give the method that stands before it."""
        return self._head.method

    def read(self, buf: bytes) -> Head | None:
        """Give the head that `buf` begins with; None while it is incomplete.

        `buf` begins with what it held before. Raises `BadRequest`.
        """
        while True:
            bound = min(len(buf), MAX_HEAD, self._line + MAX_LINE)
            found = _NOT_TEXT.search(buf, self._looked, bound)
            stop = self._looked = found.start() if found else bound
            if stop == bound or (buf[stop] == 13 and stop + 1 == bound):
                self._check_sizes(bound)
                return None
            if buf[stop] != 13:
                raise _refuse(_BARE_LF if buf[stop] == 10 else _CONTROL)
            if buf[stop + 1] != 10:
                raise _refuse(_BARE_CR)
            line = buf[self._line : stop]
            self._looked = self._line = stop + 2
            if self._head.method:
                if not line:
                    self._head.size = self._line
                    return self._finish()
                self._read_field(line)
            elif not line and self._empty_lines < _EMPTY_LINES:
                self._empty_lines += 1
            else:
                self._read_request_line(line)

    def _check_sizes(self, bound: int) -> None:
        if bound - self._line == MAX_LINE:
            raise _refuse(_LINE_TOO_LONG if self._head.method else _TARGET_TOO_LONG)
        if bound == MAX_HEAD:
            raise _refuse(_HEAD_TOO_LARGE)

    def _read_request_line(self, line: bytes) -> None:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise _refuse(_BAD_REQUEST_LINE)
        method, target, major, minor = match.groups()
        if major != b"1" or minor not in b"01":
            raise _refuse(_BAD_VERSION)
        if method not in METHODS:
            raise _refuse(_BAD_METHOD)
        self._head.method = method
        self._head.target = target
        self._head.minor = int(minor)
        if not self._read_target(target):
            raise _refuse(_BAD_TARGET)

    def _read_target(self, target: bytes) -> bool:
        """Take origin-form, absolute-form of http and https, and asterisk-form of OPTIONS."""
        if target.startswith(b"*"):
            return target == b"*" and self._head.method == b"OPTIONS"
        if not target.startswith(b"/"):
            match = _ABSOLUTE.fullmatch(target)
            if match is None:
                return False
            scheme, authority, target = match.groups()
            self._absolute = _read_authority(authority)
            self._default_port = 443 if len(scheme) == len("https") else 80
            if self._absolute is None:
                return False
        return _REST.fullmatch(target) is not None

    def _read_field(self, line: bytes) -> None:
        match = _FIELD.fullmatch(line)
        if match is None:
            if line[0] in b" \t":
                raise _refuse(_FOLDED)
            raise _refuse(_SPACE_BEFORE_COLON if _SPACED.match(line) else _BAD_NAME)
        head = self._head
        if head.fields == MAX_FIELDS:
            raise _refuse(_TOO_MANY_FIELDS)
        head.fields += 1
        self._understand(match[1].lower(), match[2])

    def _understand(self, name: bytes, value: bytes) -> None:
        head = self._head
        index = self._wanted.get(name)
        if index is not None:
            head.keep(index, value)
        if name == b"host":
            self._read_host(value)
        elif name == b"expect" and head.minor == 1:  # else ignored: RFC 9110 section 10.1.1
            if value.lower() != b"100-continue":
                raise _refuse(_BAD_EXPECT)
            head.expect = True
        elif name == b"upgrade":
            head.upgrade = True
        elif name == b"connection":
            self._options.update(each.strip(b" \t").lower() for each in value.split(b","))
        elif name == b"content-type":
            if self._typed:
                raise _refuse(_TYPE_TWICE)
            self._typed = True
        elif name == b"content-length":
            self._read_length(value)
        elif name == b"transfer-encoding":
            self._read_coding(value)

    def _read_host(self, value: bytes) -> None:
        if self._host is not None:
            raise _refuse(_HOST_TWICE)
        self._host = _read_authority(value)
        if self._host is None:
            raise _refuse(_BAD_HOST)

    def _read_length(self, value: bytes) -> None:
        if self._head.length >= 0:
            raise _refuse(_LENGTH_TWICE)
        if self._head.chunked:
            raise _refuse(_BOTH_FRAMINGS)
        if not re.fullmatch(rb"[0-9]{1,18}", value):
            raise _refuse(_BAD_LENGTH)
        self._head.length = int(value)

    def _read_coding(self, value: bytes) -> None:
        """Take `chunked`. Other well-formed lists that end the body (RFC 9112 6.3) are 501."""
        head = self._head
        if head.length >= 0:
            raise _refuse(_BOTH_FRAMINGS)
        if head.minor == 0:
            raise _refuse(_OLD_CODING)
        if head.chunked or not _CODINGS.fullmatch(value):
            raise _refuse(_BAD_CODING)
        codings = [each.strip(b" \t").lower() for each in value.split(b",")]
        if b"chunked" in codings[:-1]:
            raise _refuse(_BAD_CODING)
        if codings != [b"chunked"]:
            raise _refuse(_UNKNOWN_CODING)
        head.chunked = True

    def _finish(self) -> Head:
        head = self._head
        if self._host is None:
            if head.minor == 1:
                raise _refuse(_NO_HOST)
        elif self._absolute is not None:
            theirs, their_port = self._absolute
            ours, our_port = self._host
            port = self._default_port
            if ours.lower() != theirs.lower() or (our_port if our_port >= 0 else port) != (
                their_port if their_port >= 0 else port
            ):
                raise _refuse(_OTHER_HOST)
        head.keep_alive = (
            head.minor == 0 and b"keep-alive" in self._options and b"close" not in self._options
        )
        head.close = b"close" in self._options or (head.minor == 0 and not head.keep_alive)
        return head


def _read_authority(text: bytes) -> tuple[bytes, int] | None:
    """Give host and port, -1 without; None if it is not one of each (RFC 3986 section 3.2).

    No user information, no empty host, no port above 65535, and no comma: a list of hosts is what
    a merging proxy makes of two Host fields.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    host, literal, digits = match.groups()
    port = int(digits) if digits else -1
    if port > 65535:
        return None
    if literal is not None:
        try:
            IPv6Address(literal.decode())
        except ValueError:
            return None
    return host, port


def read(buf: bytes, fields: Fields) -> Head | None:
    """Give the head that `buf` begins with; None while it is incomplete. Raises `BadRequest`."""
    return Reader(fields).read(buf)


class Framing:
    """Follows the requests of one connection, so that only what is well framed goes on.

    An incomplete head is kept back. `requests` counts the heads that went on, `target` is the
    newest request line's, `fault` is the `BadRequest` after which nothing goes on any more, `last`
    says that the newest request is the connection's last, after which nothing goes on either,
    `asks_head` that the newest request, be it wrong in all else, begins with the method HEAD.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.target = b""
        self.asks_head = False
        self.fault: BadRequest | None = None
        self.last = False
        self._reader = Reader(_NO_FIELDS)
        self._held = b""
        self._left = 0
        self._chunks: Dechunker | None = None

    @property
    def remaining(self) -> int:
        """Give how much of the newest body is to come: 0 none, -1 unknown."""
        return self._left if self._chunks is None else -1

    @property
    def midway(self) -> bool:
        """Tell whether a part of a head has come."""
        return self._held.strip(b"\r\n") != b""

    def take(self, data: bytes) -> bytes:
        """Give what of `data` and of what was kept back can go on."""
        data, self._held = self._held + data, b""
        at = 0
        while at < len(data) and self.fault is None and not self._held:
            if self._left:
                some = min(self._left, len(data) - at)
                self._left -= some
                at += some
            elif self._chunks is not None:
                try:
                    at += self._chunks.check(data[at:])
                except BadChunk as error:
                    self.fault = BadRequest(400, str(error))
                else:
                    if self._chunks.done:
                        self._chunks = None
            elif self.last:
                break
            else:
                at += self._take_head(data[at:])
        return data[:at]

    def _take_head(self, data: bytes) -> int:
        head: Head | None = None
        self.asks_head = data.startswith(b"HEAD ")
        try:
            head = self._reader.read(data)
        except BadRequest as error:
            self.fault = error
        if self._reader.target:
            self.target = self._reader.target
        if head is None:
            if self.fault is None:
                self._held = data
            return 0
        self.requests += 1
        self.last = head.close
        self._left = max(0, head.length)
        if head.chunked:
            self._chunks = Dechunker(request=True)
        self._reader = Reader(_NO_FIELDS)
        return head.size


_NO_FIELDS = Fields(())
