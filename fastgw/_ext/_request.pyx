# cython: embedsignature=True
"""HTTP/1.1 request heads, strictly (RFC 9112, RFC 9110, RFC 3986); the twin is pure/request.py.

Every verdict falls at the first byte that decides it, so it never depends on how the bytes were
cut, and a bad head is refused before it is complete. Where two servers are known to read a head
differently it is refused here, so that there is one reading: bare CR or LF, folded lines, space
before a colon, more than one framing field, lists and signs in Content-Length, codings other than
`chunked`, several or odd hosts, a target that is no URI. Knows bytes only.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from fastgw._ext._http1 cimport Dechunker

from fastgw._ext._http1 import BadChunk
from fastgw._ext.faults import faults

MAX_HEAD = HEAD_BYTES
MAX_LINE = LINE_BYTES
MAX_FIELDS = FIELDS

cdef enum Fault:
    FINE
    BARE_LF
    BARE_CR
    CONTROL
    TARGET_TOO_LONG
    LINE_TOO_LONG
    HEAD_TOO_LARGE
    TOO_MANY_FIELDS
    BAD_REQUEST_LINE
    BAD_TARGET
    BAD_VERSION
    BAD_METHOD
    FOLDED
    SPACE_BEFORE_COLON
    BAD_NAME
    BAD_LENGTH
    LENGTH_TWICE
    BOTH_FRAMINGS
    BAD_CODING
    UNKNOWN_CODING
    OLD_CODING
    BAD_HOST
    NO_HOST
    HOST_TWICE
    OTHER_HOST
    BAD_EXPECT
    TYPE_TWICE

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH")

# Bits of Request.seen.
cdef enum:
    REQUEST_LINE = 1
    HOST = 2
    TYPE = 4
    CLOSE = 8
    KEEP_ALIVE = 16
    ABSOLUTE = 32

# What a byte may be part of.
cdef enum:
    TOKEN = 1
    PATH = 2
    QUERY = 4
    REG_NAME = 8
    HEX = 16

cdef uint8_t[256] KIND


cdef void allow(bytes characters, int kind):
    cdef uint8_t c
    for c in characters:
        KIND[c] |= kind


cdef void fill_kinds():
    cdef bytes letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    allow(letters, TOKEN | PATH | QUERY | REG_NAME)
    allow(b"!#$%&'*+-.^_`|~", TOKEN)
    allow(b"-._~!$&'()*+,;=:@/", PATH | QUERY)
    # `include[]=x` is no URI, but it is what query builders and OpenAI's own examples send.
    allow(b"?[]", QUERY)
    # Without the comma: a list of hosts is what a merging proxy makes of two Host fields.
    allow(b"-._~!$&'()*+;=", REG_NAME)
    allow(b"0123456789abcdefABCDEF", HEX)


fill_kinds()


class BadRequest(ValueError):
    """The request is refused; `status` and `message` are what the client is told."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


BadRequest.__module__ = "fastgw._ext.request"


cdef class Fields:
    """The field names to find, in lower case; 64 at most. A field's index is its position."""

    def __cinit__(self, names):
        cdef bytes name
        cdef int index, slot, i
        self.names = tuple(names)
        if len(self.names) > WANTED:
            raise ValueError(f"more than {WANTED} names")
        self.count = len(self.names)
        memset(self.first, -1, sizeof(self.first))
        memset(self.texts, 0, sizeof(self.texts))
        for index, name in enumerate(self.names):
            if not 0 < len(name) <= WANTED_NAME or name != name.lower() or name.strip(
                b"abcdefghijklmnopqrstuvwxyz0123456789-"
            ):
                raise ValueError(f"not a field name to look for: {name!r}")
            if name in self.names[:index]:
                raise ValueError(f"wanted twice: {name!r}")
            for i in range(len(name)):
                self.texts[index][i] = name[i]
            self.sizes[index] = len(name)
            slot = name_slot(self.texts[index], len(name))
            self.following[index] = self.first[slot]
            self.first[slot] = index

    cdef int find(self, const unsigned char *name, Py_ssize_t size) noexcept:
        """Give the index of a field name that is a token, in whatever case, or -1."""
        cdef int index
        if size > WANTED_NAME:
            return -1
        index = self.first[name_slot(name, size)]
        while index >= 0:
            if self.sizes[index] == size and same(name, self.texts[index], size):
                return index
            index = self.following[index]
        return -1


cdef inline int name_slot(const unsigned char *name, Py_ssize_t size) noexcept nogil:
    # Bit 0x20 is the only difference that letter case makes.
    return ((name[0] | 0x20) + 7 * (name[size - 1] | 0x20) + 5 * <int>size) & 63


cdef inline bint same(
    const unsigned char *token, const unsigned char *lower, Py_ssize_t size
) noexcept nogil:
    """Compare without case. Among token characters bit 0x20 tells apart only letters of two cases
    and `^` from `~`; `lower` holds letters, digits and `-`."""
    cdef uint64_t ours, theirs
    cdef uint64_t fold = 0x2020202020202020
    cdef Py_ssize_t i = 0
    while size - i >= 8:
        memcpy(&ours, lower + i, 8)
        memcpy(&theirs, token + i, 8)
        if (theirs | fold) != ours:
            return False
        i += 8
    while i < size:
        if (token[i] | 0x20) != lower[i]:
            return False
        i += 1
    return True


cdef int read_request(
    const unsigned char *at, Py_ssize_t size, Fields fields, Request *out
) noexcept:
    cdef const unsigned char *line
    cdef const unsigned char *stop
    cdef const unsigned char *bound
    cdef int fault
    if out.looked == 0:
        begin(fields, out)
    while True:
        line = at + out.line
        bound = at + (size if size < HEAD_BYTES else HEAD_BYTES)
        if bound - line > LINE_BYTES:
            bound = line + LINE_BYTES
        stop = text_end(at + out.looked, bound)
        out.looked = stop - at
        if stop == bound or (stop[0] == 13 and stop + 1 == bound):
            if bound - line == LINE_BYTES:
                return -LINE_TOO_LONG if out.seen & REQUEST_LINE else -TARGET_TOO_LONG
            if bound - at == HEAD_BYTES:
                return -HEAD_TOO_LARGE
            return 0
        if stop[0] != 13:
            return -BARE_LF if stop[0] == 10 else -CONTROL
        if stop[1] != 10:
            return -BARE_CR
        out.looked = out.line = stop + 2 - at
        if out.seen & REQUEST_LINE:
            if stop == line:
                out.size = out.line
                return finish(at, out)
            fault = read_field(at, line, stop, fields, out)
        elif stop == line and out.empty_lines < EMPTY_LINES:
            out.empty_lines += 1
            fault = FINE
        else:
            fault = read_request_line(at, line, stop, out)
        if fault != FINE:
            return -fault


cdef inline void begin(Fields fields, Request *out) noexcept:
    out.length = -1
    out.chunked = out.close = out.keep_alive = out.expect = out.upgrade = False
    out.fields = out.line = out.empty_lines = out.seen = 0
    out.repeated = 0
    memset(out.start, -1, fields.count * sizeof(int))


cdef int read_request_line(
    const unsigned char *at, const unsigned char *line, const unsigned char *stop, Request *out
) noexcept:
    cdef const unsigned char *p = line
    cdef const unsigned char *target
    cdef int method
    while KIND[p[0]] & TOKEN:
        p += 1
    if p == line or p[0] != 32:
        return BAD_REQUEST_LINE
    method = find_method(line, p - line)
    target = p + 1
    p = target
    while p < stop and p[0] != 32:
        p += 1
    if p == target or stop - p != 9 or memcmp(p, b" HTTP/", 6) != 0 or p[7] != 46:
        return BAD_REQUEST_LINE
    if not (48 <= p[6] <= 57 and 48 <= p[8] <= 57):
        return BAD_REQUEST_LINE
    if p[6] != 49 or p[8] > 49:
        return BAD_VERSION
    if method < 0:
        return BAD_METHOD
    out.method = method
    out.minor = p[8] - 48
    out.target_start = target - at
    out.target_end = p - at
    out.seen |= REQUEST_LINE
    return read_target(target, p, out)


cdef int find_method(const unsigned char *name, Py_ssize_t size) noexcept:
    """Give the Method, or -1. CONNECT is not one: an origin has nothing to tunnel to."""
    if size == 3:
        if memcmp(name, b"GET", 3) == 0:
            return GET
        if memcmp(name, b"PUT", 3) == 0:
            return PUT
    elif size == 4:
        if memcmp(name, b"POST", 4) == 0:
            return POST
        if memcmp(name, b"HEAD", 4) == 0:
            return HEAD
    elif size == 5:
        if memcmp(name, b"PATCH", 5) == 0:
            return PATCH
        if memcmp(name, b"TRACE", 5) == 0:
            return TRACE
    elif size == 6 and memcmp(name, b"DELETE", 6) == 0:
        return DELETE
    elif size == 7 and memcmp(name, b"OPTIONS", 7) == 0:
        return OPTIONS
    return -1


cdef int read_target(const unsigned char *p, const unsigned char *end, Request *out) noexcept:
    """Take origin-form, absolute-form of http and https, and asterisk-form of OPTIONS."""
    cdef int allowed = PATH
    cdef const unsigned char *authority
    cdef const unsigned char *host_end
    cdef int port
    if p[0] == 42:
        return FINE if end - p == 1 and out.method == OPTIONS else BAD_TARGET
    if p[0] != 47:
        authority = after_scheme(p, end)
        if authority == NULL:
            return BAD_TARGET
        p = authority
        while p < end and p[0] != 47 and p[0] != 63:
            p += 1
        if not read_authority(authority, p, &host_end, &port):
            return BAD_TARGET
        out.seen |= ABSOLUTE
    while p < end:
        if KIND[p[0]] & allowed:
            p += 1
        elif p[0] == 63:
            allowed = QUERY
            p += 1
        elif p[0] == 37 and is_escape(p, end):
            p += 3
        else:
            return BAD_TARGET
    return FINE


cdef const unsigned char *after_scheme(
    const unsigned char *p, const unsigned char *end
) noexcept:
    if end - p > 7 and same(p, b"http", 4) and memcmp(p + 4, b"://", 3) == 0:
        return p + 7
    if end - p > 8 and same(p, b"https", 5) and memcmp(p + 5, b"://", 3) == 0:
        return p + 8
    return NULL


cdef inline bint is_escape(const unsigned char *p, const unsigned char *end) noexcept nogil:
    return end - p > 2 and (KIND[p[1]] & HEX) != 0 and (KIND[p[2]] & HEX) != 0


cdef bint read_authority(
    const unsigned char *p, const unsigned char *end, const unsigned char **host_end, int *port
) noexcept:
    """Tell whether it is host [":" port] (RFC 3986 section 3.2); the port is -1 without.

    No user information, no empty host, no port above 65535.
    """
    cdef const unsigned char *start = p
    cdef int digits = 0
    if p < end and p[0] == 91:
        while p < end and p[0] != 93:
            p += 1
        if p == end or not is_ipv6(start + 1, p):
            return False
        p += 1
    else:
        while p < end:
            if KIND[p[0]] & REG_NAME:
                p += 1
            elif p[0] == 37 and is_escape(p, end):
                p += 3
            else:
                break
    host_end[0] = p
    port[0] = -1
    if p == start:
        return False
    if p == end:
        return True
    if p[0] != 58:
        return False
    p += 1
    while p < end and 48 <= p[0] <= 57 and digits < 6:
        port[0] = (port[0] if digits else 0) * 10 + (p[0] - 48)
        digits += 1
        p += 1
    return p == end and port[0] <= 65535


cdef bint is_ipv6(const unsigned char *p, const unsigned char *end) noexcept:
    cdef const unsigned char *group
    cdef int groups = 0
    cdef bint gap = False
    if end - p >= 2 and p[0] == 58 and p[1] == 58:
        gap = True
        p += 2
        if p == end:
            return True
    while True:
        group = p
        while p < end and KIND[p[0]] & HEX:
            p += 1
        if p < end and p[0] == 46:
            groups += 2
            return is_ipv4(group, end) and (groups < 8 if gap else groups == 8)
        if not 0 < p - group <= 4:
            return False
        groups += 1
        if p == end:
            break
        if p[0] != 58 or p + 1 == end:
            return False
        p += 1
        if p[0] == 58:
            if gap:
                return False
            gap = True
            p += 1
            if p == end:
                break
    return groups < 8 if gap else groups == 8


cdef bint is_ipv4(const unsigned char *p, const unsigned char *end) noexcept:
    cdef const unsigned char *part
    cdef int value
    cdef int parts = 0
    while True:
        part = p
        value = 0
        while p < end and 48 <= p[0] <= 57 and p - part < 4:
            value = value * 10 + (p[0] - 48)
            p += 1
        if p == part or value > 255 or (p - part > 1 and part[0] == 48):
            return False
        parts += 1
        if p == end:
            return parts == 4
        if p[0] != 46:
            return False
        p += 1


cdef int read_field(
    const unsigned char *at,
    const unsigned char *line,
    const unsigned char *stop,
    Fields fields,
    Request *out,
) noexcept:
    cdef const unsigned char *p = name_end(line, stop)
    cdef const unsigned char *end = stop
    cdef Py_ssize_t size
    cdef int index
    while KIND[p[0]] & TOKEN:  # the line's CR is none
        p += 1
    size = p - line
    if p[0] != 58 or size == 0:
        return bad_name(line, p, stop)
    if out.fields == FIELDS:
        return TOO_MANY_FIELDS
    out.fields += 1
    p += 1
    while p < end and (p[0] == 32 or p[0] == 9):
        p += 1
    while p < end and ((end - 1)[0] == 32 or (end - 1)[0] == 9):
        end -= 1
    index = fields.find(line, size)
    if index >= 0:
        if out.start[index] >= 0:
            out.repeated |= <unsigned long long>1 << index
        else:
            out.start[index] = p - at
            out.end[index] = end - at
    if size == 4:
        if same(line, b"host", 4):
            return read_host(at, p, end, out)
    elif size == 6:
        if same(line, b"expect", 6):
            return read_expect(p, end, out)
    elif size == 7:
        if same(line, b"upgrade", 7):
            out.upgrade = True
    elif size == 10:
        if same(line, b"connection", 10):
            read_connection(p, end, out)
    elif size == 12:
        if same(line, b"content-type", 12):
            if out.seen & TYPE:
                return TYPE_TWICE
            out.seen |= TYPE
    elif size == 14:
        if same(line, b"content-length", 14):
            return read_length(p, end, out)
    elif size == 17:
        if same(line, b"transfer-encoding", 17):
            return read_coding(p, end, out)
    return FINE


cdef int bad_name(
    const unsigned char *line, const unsigned char *p, const unsigned char *stop
) noexcept:
    if line[0] == 32 or line[0] == 9:
        return FOLDED
    while p < stop and (p[0] == 32 or p[0] == 9):
        p += 1
    return SPACE_BEFORE_COLON if p > line and p < stop and p[0] == 58 else BAD_NAME


cdef int read_host(
    const unsigned char *at, const unsigned char *p, const unsigned char *end, Request *out
) noexcept:
    cdef const unsigned char *host_end
    cdef int port
    if out.seen & HOST:
        return HOST_TWICE
    if not read_authority(p, end, &host_end, &port):
        return BAD_HOST
    out.seen |= HOST
    out.host_start = p - at
    out.host_end = end - at
    return FINE


cdef int read_expect(const unsigned char *p, const unsigned char *end, Request *out) noexcept:
    if out.minor == 0:
        return FINE  # RFC 9110 section 10.1.1
    if end - p != 12 or not is_word(p, b"100-continue", 12):
        return BAD_EXPECT
    out.expect = True
    return FINE


cdef void read_connection(
    const unsigned char *p, const unsigned char *end, Request *out
) noexcept:
    cdef const unsigned char *stop
    cdef const unsigned char *next_one
    while p < end:
        stop = <const unsigned char *>memchr(p, 44, end - p)
        if stop == NULL:
            stop = end
        next_one = stop + 1
        while p < stop and (p[0] == 32 or p[0] == 9):
            p += 1
        while p < stop and ((stop - 1)[0] == 32 or (stop - 1)[0] == 9):
            stop -= 1
        if stop - p == 5 and is_word(p, b"close", 5):
            out.seen |= CLOSE
        elif stop - p == 10 and is_word(p, b"keep-alive", 10):
            out.seen |= KEEP_ALIVE
        p = next_one


cdef int read_length(const unsigned char *p, const unsigned char *end, Request *out) noexcept:
    cdef long long length = 0
    if out.length >= 0:
        return LENGTH_TWICE
    if out.chunked:
        return BOTH_FRAMINGS
    if not 0 < end - p <= LENGTH_DIGITS:
        return BAD_LENGTH
    while p < end:
        if not 48 <= p[0] <= 57:
            return BAD_LENGTH
        length = length * 10 + (p[0] - 48)
        p += 1
    out.length = length
    return FINE


cdef int read_coding(const unsigned char *p, const unsigned char *end, Request *out) noexcept:
    """Take `chunked`. Other well-formed lists that end the body (RFC 9112 section 6.3) are 501."""
    cdef const unsigned char *word
    cdef bint last = False
    cdef int words = 0
    if out.length >= 0:
        return BOTH_FRAMINGS
    if out.minor == 0:
        return OLD_CODING
    if out.chunked:
        return BAD_CODING
    while True:
        while p < end and (p[0] == 32 or p[0] == 9):
            p += 1
        word = p
        while p < end and KIND[p[0]] & TOKEN:
            p += 1
        if p == word or last:
            return BAD_CODING
        last = p - word == 7 and is_word(word, b"chunked", 7)
        words += 1
        while p < end and (p[0] == 32 or p[0] == 9):
            p += 1
        if p == end:
            break
        if p[0] != 44:
            return BAD_CODING
        p += 1
    if words > 1 or not last:
        return UNKNOWN_CODING
    out.chunked = True
    return FINE


cdef bint is_word(const unsigned char *p, const char *lower, Py_ssize_t size) noexcept:
    """Compare any text without case."""
    cdef Py_ssize_t i
    for i in range(size):
        if (p[i] | 32 if 65 <= p[i] <= 90 else p[i]) != <unsigned char>lower[i]:
            return False
    return True


cdef int finish(const unsigned char *at, Request *out) noexcept:
    if not out.seen & HOST:
        if out.minor == 1:
            return -NO_HOST
    elif out.seen & ABSOLUTE and not names_host(at, out):
        return -OTHER_HOST
    out.keep_alive = out.minor == 0 and out.seen & (KEEP_ALIVE | CLOSE) == KEEP_ALIVE
    out.close = (out.seen & CLOSE) != 0 or (out.minor == 0 and not out.keep_alive)
    return 1


cdef bint names_host(const unsigned char *at, Request *out) noexcept:
    """Tell whether the absolute-form target and the Host field name the same host and port."""
    cdef const unsigned char *theirs = at + out.target_start
    cdef const unsigned char *theirs_end
    cdef const unsigned char *ours = at + out.host_start
    cdef const unsigned char *ours_end
    cdef int their_port, our_port
    cdef int port = 443 if same(theirs, b"https", 5) else 80
    cdef const unsigned char *stop
    cdef Py_ssize_t i
    theirs = after_scheme(theirs, at + out.target_end)
    stop = theirs
    while stop < at + out.target_end and stop[0] != 47 and stop[0] != 63:
        stop += 1
    read_authority(theirs, stop, &theirs_end, &their_port)
    read_authority(ours, at + out.host_end, &ours_end, &our_port)
    if (port if their_port < 0 else their_port) != (port if our_port < 0 else our_port):
        return False
    if theirs_end - theirs != ours_end - ours:
        return False
    for i in range(ours_end - ours):
        if folded(theirs[i]) != folded(ours[i]):
            return False
    return True


cdef inline int folded(int byte) noexcept:
    return byte | 32 if 65 <= byte <= 90 else byte


cdef class Head:
    """A request head that was read whole."""

    cdef Request request
    cdef int known
    cdef bytes source

    def __repr__(self):
        return f"<Head {self.method.decode()} {self.fields} fields, {self.size} bytes>"

    @property
    def size(self):
        """Give how many bytes it has, the empty line included."""
        return self.request.size

    @property
    def method(self):
        """Give the method."""
        return METHODS[self.request.method]

    @property
    def target(self):
        """Give the request target as it came."""
        return self.source[self.request.target_start:self.request.target_end]

    @property
    def minor(self):
        """Give the minor version, 0 or 1."""
        return self.request.minor

    @property
    def length(self):
        """Give the Content-Length, or -1."""
        return self.request.length

    @property
    def chunked(self):
        """Tell whether the body is chunked."""
        return self.request.chunked != 0

    @property
    def close(self):
        """Tell whether this is the connection's last request."""
        return self.request.close != 0

    @property
    def keep_alive(self):
        """Tell whether an HTTP/1.0 client asks to keep the connection."""
        return self.request.keep_alive != 0

    @property
    def expect(self):
        """Tell whether the client waits for 100 Continue."""
        return self.request.expect != 0

    @property
    def upgrade(self):
        """Tell whether there is an Upgrade field."""
        return self.request.upgrade != 0

    @property
    def fields(self):
        """Give the number of fields."""
        return self.request.fields

    @property
    def repeated(self):
        """Give the wanted fields that occur more than once, as bits."""
        return self.request.repeated

    def value(self, int index):
        """Give the value of a wanted field, its first one; None without."""
        if not 0 <= index < WANTED:
            raise IndexError(index)
        if index >= self.known or self.request.start[index] < 0:
            return None
        return self.source[self.request.start[index]:self.request.end[index]]


cdef class Reader:
    """Reads one head from a buffer that grows."""

    cdef Fields wanted
    cdef Request request

    def __cinit__(self, Fields fields not None):
        self.wanted = fields
        self.request.looked = 0

    def read(self, bytes buf not None):
        """Give the head that `buf` begins with; None while it is incomplete.

        `buf` begins with what it held before. Raises `BadRequest`.
        """
        cdef Head head
        cdef int verdict = read_request(
            <const unsigned char *>PyBytes_AS_STRING(buf),
            PyBytes_GET_SIZE(buf),
            self.wanted,
            &self.request,
        )
        if verdict == 0:
            return None
        if verdict < 0:
            raise BadRequest(*faults[-verdict])
        head = Head.__new__(Head)
        head.request = self.request
        head.known = self.wanted.count
        head.source = buf
        return head


def read(bytes buf not None, Fields fields not None):
    """Give the head that `buf` begins with; None while it is incomplete. Raises `BadRequest`."""
    return Reader(fields).read(buf)


cdef class Framing:
    """Follows the requests of one connection, so that only what is well framed goes on.

    An incomplete head is kept back. `requests` counts the heads that went on, `fault` is the
    `BadRequest` after which nothing goes on any more, `last` says that the newest request is the
    connection's last, after which nothing goes on either, `asks_head` that the newest request, be
    it wrong in all else, begins with the method HEAD.
    """

    cdef Request request
    cdef bytes held
    cdef bytes newest
    cdef readonly bint asks_head
    cdef long long left
    cdef Dechunker chunks
    cdef readonly int requests
    cdef readonly object fault
    cdef readonly bint last

    def __cinit__(self):
        self.held = b""
        self.newest = b""
        self.request.looked = 0

    @property
    def target(self):
        """Give the target of the newest request line that was read, b"" without."""
        return self.newest

    @property
    def remaining(self):
        """Give how much of the newest body is to come: 0 none, -1 unknown."""
        return self.left if self.chunks is None else -1

    @property
    def midway(self):
        """Tell whether a part of a head has come."""
        return len(self.held.strip(b"\r\n")) > 0

    def take(self, bytes data not None):
        """Give what of `data` and of what was kept back can go on."""
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t size
        if self.held:
            data = self.held + data
            self.held = b""
        size = PyBytes_GET_SIZE(data)
        while at < size and self.fault is None:
            if self.left:
                if self.left >= size - at:
                    self.left -= size - at
                    return data
                at += <Py_ssize_t>self.left
                self.left = 0
            elif self.chunks is not None:
                try:
                    at += self.chunks.check(data[at:])
                except BadChunk as error:
                    self.fault = BadRequest(400, str(error))
                    break
                if self.chunks.done:
                    self.chunks = None
            elif self.last:
                break
            else:
                at = self.take_head(data, at, size)
                if self.held:
                    break
        return data if at == size else data[:at]

    cdef Py_ssize_t take_head(self, bytes data, Py_ssize_t at, Py_ssize_t size):
        cdef const unsigned char *start = <const unsigned char *>PyBytes_AS_STRING(data) + at
        cdef int verdict = read_request(start, size - at, NO_FIELDS, &self.request)
        self.asks_head = size - at >= 5 and memcmp(start, b"HEAD ", 5) == 0
        if self.request.seen & REQUEST_LINE:
            self.newest = data[at + self.request.target_start:at + self.request.target_end]
        if verdict == 0:
            self.held = data[at:]
            return at
        if verdict < 0:
            self.fault = BadRequest(*faults[-verdict])
            return at
        self.requests += 1
        self.last = self.request.close
        self.left = self.request.length if self.request.length > 0 else 0
        if self.request.chunked:
            self.chunks = Dechunker(True)
        self.request.looked = 0
        return at + self.request.size


cdef Fields NO_FIELDS = Fields(())
