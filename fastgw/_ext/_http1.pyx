# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""HTTP/1.1 response heads and chunked bodies, strictly (RFC 9112); the twin of `pure/http1.py`.

Knows bytes only. What is refused here would otherwise be read differently by the next hop: bare LF,
folded or repeated framing fields, both framings at once, sizes that overflow, trailers.
Both judge every complete piece as it comes, so that a verdict never depends on how the bytes were
cut, and a bad answer fails at once instead of at a time-out.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from fastgw._ext.trailers import accepts

MAX_HEAD = 65536
MAX_FIELDS = 100
MAX_EXTENSION = 256
MAX_EXTENSIONS = 16384
MAX_SIZE_DIGITS = 15
MAX_LENGTH_DIGITS = 18

cdef enum:
    HEAD_BYTES = 65536
    FIELDS = 100
    EXTENSION_BYTES = 256
    EXTENSIONS_BYTES = 16384
    TRAILER_BYTES = 8192
    SIZE_DIGITS = 15
    LENGTH_DIGITS = 18
    NAME_BYTES = 256
    NAMES = 256

# What the next byte of a chunked body must be; the pure twin has the same.
cdef enum:
    SIZE
    SIZE_LF
    EXTENSION          # first character of an extension's name
    EXTENSION_NAME
    EXTENSION_EQUALS   # first character of an extension's value
    EXTENSION_VALUE
    QUOTED
    QUOTED_ESCAPE
    QUOTED_END
    DATA
    DATA_CR
    DATA_LF
    END_CR
    END_LF
    TRAILER
    DONE
    BROKEN

# A token character in lower case (RFC 9110 section 5.6.2), or 0.
cdef uint8_t[256] LOWER

# Field names met before, by hash: providers repeat the same twenty names in every answer.
cdef list KNOWN_NAMES = [b""] * NAMES


cdef void fill_tables() noexcept:
    cdef int c
    for c in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz":
        LOWER[c] = <uint8_t>c
    for c in range(65, 91):
        LOWER[c] = <uint8_t>(c | 32)


fill_tables()


class BadHead(ValueError):
    """The response head is not one we accept."""


class BadChunk(ValueError):
    """The chunked framing is broken."""


BadHead.__module__ = BadChunk.__module__ = "fastgw._ext.http1"


@cython.freelist(64)
cdef class Head:
    """One response head.

    `headers` are (name in lower case, value without surrounding white space), in order; they are
    made when first asked for, since objects cost four times what the checks cost.
    `size` counts its bytes. `length` is Content-Length or -1. `idle_s` is the time-out of a
    `Keep-Alive` field in seconds, or -1.
    """

    def __cinit__(self):
        self.minor = 1
        self.length = -1
        self.keep_alive = True
        self.idle_s = -1

    def __repr__(self):
        return f"<Head {self.status}, {self.fields} fields, {self.size} bytes>"

    @property
    def headers(self):
        """Give the fields as (name, value) in order."""
        if self.pairs is None:
            self.pairs = list_fields(self.source)
        return self.pairs

    @property
    def content_type(self):
        """Give the last Content-Type, b"" without one."""
        if self.type_end == 0:
            return b""
        return self.source[self.type_start : self.type_end]

    cdef bint is_of(self, const char *kind, Py_ssize_t size) noexcept:
        """Tell whether Content-Type begins with a media type."""
        return (
            self.type_end - self.type_start >= size
            and memcmp(PyBytes_AS_STRING(self.source) + self.type_start, kind, size) == 0
        )

    cpdef bytes rest(self, bytes data):
        """Give what follows the head in the bytes it was read from."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data) - self.size
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + self.size, size)

    cpdef bytes relabel(self, object labels):
        """Give the fields as lines that begin with `labels[name]`, without those that map to b"".

        Content-Type is left out: it is for the caller to decide.
        """
        cdef const uint8_t* first = <const uint8_t*>PyBytes_AS_STRING(self.source)
        cdef const uint8_t* p = first
        cdef const uint8_t* last = first + self.size
        cdef const uint8_t* end
        cdef uint8_t[NAME_BYTES] lower
        cdef uint32_t mix
        cdef Py_ssize_t n
        cdef bytes name, label
        cdef list lines = []
        while True:
            p = <const uint8_t*>memchr(p, 10, last - p) + 1
            if p[0] == 13:
                break
            mix = 2166136261
            n = 0
            while p[n] != 58:
                lower[n] = LOWER[p[n]]
                mix = (mix ^ lower[n]) * 16777619
                n += 1
            p += n + 1
            end = <const uint8_t*>memchr(p, 13, last - p)
            if n != 12 or memcmp(lower, b"content-type", 12) != 0:
                name = known_name(lower, n, mix % NAMES)
                label = labels[name]
                if PyBytes_GET_SIZE(label):
                    lines.append(label)
                    lines.append(trimmed(p, end))
                    lines.append(b"\r\n")
            p = end
        return b"".join(lines)


cpdef Head parse_head(bytes buf):
    """Read the response head that `buf` begins with; None while it is incomplete.

    Every complete line is judged, so a bad head raises `BadHead` before it is complete.
    """
    cdef const uint8_t* first = <const uint8_t*>PyBytes_AS_STRING(buf)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(buf)
    cdef const uint8_t* last = first + (size if size < HEAD_BYTES else HEAD_BYTES)
    cdef const uint8_t* line = first
    cdef const uint8_t* end
    cdef Head head = Head.__new__(Head)
    cdef int connection = 0
    while True:
        end = <const uint8_t*>memchr(line, 10, last - line)
        if end is NULL:
            if size >= HEAD_BYTES:
                raise BadHead("the head is larger than 64 KiB")
            if line is first and memcmp(first, b"HTTP/1.", size if size < 7 else 7) != 0:
                raise BadHead("not an HTTP/1 status line")
            return None
        if end is line or (end - 1)[0] != 13:
            raise BadHead("a line does not end with CR LF")
        if line is first:
            read_status_line(head, line, end - 1)
        elif end - 1 is line:
            break
        else:
            connection |= read_field(head, first, line, end - 1)
        line = end + 1
    if head.chunked and head.length >= 0:
        raise BadHead("both Content-Length and Transfer-Encoding")
    if head.chunked and head.minor == 0:
        raise BadHead("Transfer-Encoding in HTTP/1.0")
    head.source = buf
    head.size = end + 1 - first
    head.keep_alive = not connection & 1 and (head.minor == 1 or connection & 2 != 0)
    return head


cdef int read_status_line(Head head, const uint8_t* p, const uint8_t* end) except -1:
    if (
        end - p < 12
        or memcmp(p, b"HTTP/1.", 7) != 0
        or not 48 <= p[7] <= 49
        or p[8] != 32
        or not 49 <= p[9] <= 53
        or not 48 <= p[10] <= 57
        or not 48 <= p[11] <= 57
        or (end - p > 12 and (p[12] != 32 or not is_text(p + 13, end)))
    ):
        raise BadHead("not an HTTP/1 status line")
    head.minor = p[7] - 48
    head.status = (p[9] - 48) * 100 + (p[10] - 48) * 10 + p[11] - 48
    return 0


cdef int read_field(
    Head head, const uint8_t* first, const uint8_t* p, const uint8_t* end
) except -1:
    """Check one field; give 1 for a connection option `close`, 2 for `keep-alive`, both as 3."""
    cdef const uint8_t* name = p
    cdef Py_ssize_t n = 0
    cdef Py_ssize_t room = end - p if end - p < NAME_BYTES else NAME_BYTES
    while n < room and LOWER[p[n]]:
        n += 1
    if n == 0 or p + n >= end or p[n] != 58 or not is_text(p + n + 1, end):
        raise BadHead("a header field is not a token, a colon and a field value")
    if head.fields == FIELDS:
        raise BadHead("more than 100 header fields")
    head.fields += 1
    if n != 10 and n != 12 and n != 14 and n != 17:
        return 0
    p += n + 1
    trim(&p, &end)
    if n == 12:
        if is_word(name, b"content-type", 12):
            head.type_start = p - first
            head.type_end = end - first
    elif n == 10:
        if is_word(name, b"connection", 10):
            return connection_options(p, end)
        if is_word(name, b"keep-alive", 10):
            read_idle(head, p, end)
    elif n == 14 and is_word(name, b"content-length", 14):
        read_length(head, p, end)
    elif n == 17 and is_word(name, b"transfer-encoding", 17):
        if head.chunked or end - p != 7 or not is_word(p, b"chunked", 7):
            raise BadHead("a Transfer-Encoding other than chunked")
        head.chunked = True
    return 0


cdef int read_length(Head head, const uint8_t* p, const uint8_t* end) except -1:
    cdef long long length = 0
    if head.length >= 0:
        raise BadHead("Content-Length twice")
    if not 0 < end - p <= LENGTH_DIGITS:
        raise BadHead("Content-Length is not a number")
    while p < end:
        if not 48 <= p[0] <= 57:
            raise BadHead("Content-Length is not a number")
        length = length * 10 + (p[0] - 48)
        p += 1
    head.length = length
    return 0


cdef int connection_options(const uint8_t* p, const uint8_t* end) noexcept:
    """Read the comma-separated options of one Connection field."""
    cdef int found = 0
    cdef const uint8_t* stop
    cdef const uint8_t* tail
    while p < end:
        stop = <const uint8_t*>memchr(p, 44, end - p)
        if stop is NULL:
            stop = end
        tail = stop
        trim(&p, &tail)
        if tail - p == 5 and is_word(p, b"close", 5):
            found |= 1
        elif tail - p == 10 and is_word(p, b"keep-alive", 10):
            found |= 2
        p = stop + 1
    return found


cdef void read_idle(Head head, const uint8_t* p, const uint8_t* end) noexcept:
    """Take the first `timeout=N` of at most six digits that stands between separators."""
    cdef const uint8_t* at = p
    cdef const uint8_t* digit
    cdef int seconds
    while end - at > 8:
        if (at is p or is_separator((at - 1)[0])) and is_word(at, b"timeout=", 8):
            digit = at + 8
            seconds = 0
            while digit < end and digit - at < 14 and 48 <= digit[0] <= 57:
                seconds = seconds * 10 + (digit[0] - 48)
                digit += 1
            if digit > at + 8 and (digit == end or is_separator(digit[0])):
                head.idle_s = seconds
                return
        at += 1


cdef list list_fields(bytes source):
    """Make the (name, value) pairs of a head that was checked."""
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(source)
    cdef const uint8_t* last = p + PyBytes_GET_SIZE(source)
    cdef const uint8_t* end
    cdef uint8_t[NAME_BYTES] lower
    cdef uint32_t mix
    cdef Py_ssize_t n
    cdef list pairs = []
    while True:
        p = <const uint8_t*>memchr(p, 10, last - p) + 1
        if p[0] == 13:
            return pairs
        mix = 2166136261
        n = 0
        while p[n] != 58:
            lower[n] = LOWER[p[n]]
            mix = (mix ^ lower[n]) * 16777619
            n += 1
        p += n + 1
        end = <const uint8_t*>memchr(p, 13, last - p)
        pairs.append((known_name(lower, n, mix % NAMES), trimmed(p, end)))
        p = end


cdef bytes trimmed(const uint8_t* p, const uint8_t* end):
    """Give a field's value without surrounding white space."""
    trim(&p, &end)
    return PyBytes_FromStringAndSize(<const char*>p, end - p)


cdef inline void trim(const uint8_t** p, const uint8_t** end) noexcept:
    """Leave out white space at both ends."""
    while p[0] < end[0] and (p[0][0] == 32 or p[0][0] == 9):
        p[0] += 1
    while p[0] < end[0] and ((end[0] - 1)[0] == 32 or (end[0] - 1)[0] == 9):
        end[0] -= 1


cdef inline bint is_separator(uint8_t c) noexcept:
    return c == 44 or c == 32 or c == 9


cdef inline bint is_word(const uint8_t* p, const char* word, Py_ssize_t n) noexcept:
    """Compare without case; `word` holds letters, `-` and `=` only."""
    cdef Py_ssize_t i
    for i in range(n):
        if (p[i] | 32 if 65 <= p[i] <= 90 else p[i]) != <uint8_t>word[i]:
            return False
    return True


cdef bint is_text(const uint8_t* p, const uint8_t* end) noexcept:
    """Tell whether there are only HTAB, SP, VCHAR and obs-text (RFC 9110 section 5.5).

    Eight bytes at a time: a word that has a byte below 32 or one of 127 is looked at singly.
    """
    cdef uint64_t word, del_
    cdef uint64_t ones = 0x0101010101010101
    cdef int i
    while end - p >= 8:
        memcpy(&word, p, 8)
        del_ = word ^ (ones * 127)
        if (((word - ones * 32) & ~word) | ((del_ - ones) & ~del_)) & (ones * 128):
            for i in range(8):
                if (p[i] < 32 and p[i] != 9) or p[i] == 127:
                    return False
        p += 8
    while p < end:
        if (p[0] < 32 and p[0] != 9) or p[0] == 127:
            return False
        p += 1
    return True


cdef bytes known_name(const uint8_t* lower, Py_ssize_t n, Py_ssize_t slot):
    """Give the bytes object of a name; the newest name keeps the slot, so memory is bounded."""
    cdef bytes name = <bytes>KNOWN_NAMES[slot]
    if PyBytes_GET_SIZE(name) == n and memcmp(PyBytes_AS_STRING(name), lower, n) == 0:
        return name
    name = PyBytes_FromStringAndSize(<const char*>lower, n)
    KNOWN_NAMES[slot] = name
    return name


@cython.freelist(64)
cdef class Dechunker:
    """Takes the chunked framing off a body, or only checks it, however the bytes are cut.

    One object serves one body, through `feed` or through `check`. `done` is true once the last
    chunk was seen; `excess` holds what came after it in `feed`. In the body of a
    `request` trailers are passed over, else refused, and all extensions together are bounded.
    """

    def __cinit__(self, bint request=False):
        self.state = SIZE
        self.request = request
        self.excess = b""

    cpdef list feed(self, bytes data):
        """Give the payload in `data`; raises `BadChunk` when the framing is broken."""
        cdef list pieces = []
        self.extended = self.state != SIZE or self.digits != 0
        cdef Py_ssize_t used = self.run(data, pieces)
        if used < PyBytes_GET_SIZE(data):
            self.excess += data[used:]
        return pieces

    cpdef bint was_whole(self):
        """Tell whether what was fed last was whole chunks without extensions, and not the last."""
        return not self.extended and self.state == SIZE and self.digits == 0

    cpdef Py_ssize_t check(self, bytes data) except -1:
        """Give how many bytes of `data` belong to this body, framing included."""
        return self.run(data, None)

    cdef Py_ssize_t run(self, bytes data, list pieces) except -1:
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(data)
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t end = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t stop
        while at < end and self.state != DONE:
            if self.state != DATA:
                stop = self.leap(p + at, end - at)
                if stop == 0:
                    self.step(p[at])
                    stop = 1
                at += stop
                continue
            stop = end if end - at <= self.left else at + <Py_ssize_t>self.left
            if pieces is not None:
                if stop - at == end:
                    pieces.append(data)
                else:
                    pieces.append(PyBytes_FromStringAndSize(<const char*>p + at, stop - at))
            self.left -= stop - at
            at = stop
            if self.left == 0:
                self.state = DATA_CR
        return at

    cdef Py_ssize_t leap(self, const uint8_t* p, Py_ssize_t size) noexcept:
        """Take a plain size line or a chunk's end that is there as a whole; give its size, or 0."""
        cdef Py_ssize_t n = 0
        cdef long long left = 0
        cdef uint8_t byte
        if self.state == DATA_CR:
            if size < 2 or p[0] != 13 or p[1] != 10:
                return 0
            self.state = SIZE
            return 2
        if self.state != SIZE or self.digits:
            return 0
        while n < size and n < SIZE_DIGITS:
            byte = p[n]
            if 48 <= byte <= 57:
                left = left * 16 + (byte - 48)
            elif 97 <= byte <= 102 or 65 <= byte <= 70:
                left = left * 16 + ((byte | 32) - 87)
            else:
                break
            n += 1
        if n == 0 or n + 2 > size or p[n] != 13 or p[n + 1] != 10:
            return 0
        self.left = left
        self.extension = 0
        self.state = DATA if left else END_CR
        return n + 2

    cdef int step(self, int byte) except -1:
        """Take one byte of framing."""
        if self.state == SIZE:
            return self.step_size(byte)
        if EXTENSION <= self.state <= QUOTED_END:
            self.extension += 1
            if self.extension > EXTENSION_BYTES:
                self.refuse("a chunk extension is longer than 256 bytes")
            self.extensions += self.request
            if self.extensions > EXTENSIONS_BYTES:
                self.refuse("the chunk extensions are longer than 16 KiB")
            return self.step_extension(byte)
        if self.state == TRAILER or (self.request and self.state == END_CR and byte != 13):
            return self.step_trailer(byte)
        if self.state == SIZE_LF and byte == 10:
            self.digits = self.extension = 0
            self.state = DATA if self.left else END_CR
        elif self.state == DATA_CR and byte == 13:
            self.state = DATA_LF
        elif self.state == DATA_LF and byte == 10:
            self.state = SIZE
        elif self.state == END_CR and byte == 13:
            self.state = END_LF
        elif self.state == END_LF and byte == 10:
            self.state = DONE
            self.done = True
        elif self.state == END_CR:
            self.refuse("trailers are not accepted")
        else:
            self.refuse("a chunk or its size line does not end with CR LF")
        return 0

    cdef int step_size(self, int byte) except -1:
        cdef int digit
        if 48 <= byte <= 57:
            digit = byte - 48
        elif 97 <= byte <= 102 or 65 <= byte <= 70:
            digit = (byte | 32) - 87
        elif self.digits and byte == 13:
            self.state = SIZE_LF
            return 0
        elif self.digits and byte == 59:
            self.state = EXTENSION
            self.extended = True
            return 0
        else:
            return self.refuse("a chunk size is not a hexadecimal number")
        self.digits += 1
        if self.digits > SIZE_DIGITS:
            self.refuse("a chunk size overflows")
        self.left = self.left * 16 + digit
        return 0

    cdef int step_extension(self, int byte) except -1:
        """Follow `;name`, `;name=token` and `;name="quoted"` (RFC 9112 section 7.1.1)."""
        cdef int state = self.state
        if state == QUOTED or state == QUOTED_ESCAPE:
            self.step_quoted(byte)
        elif state == EXTENSION_EQUALS and byte == 34:
            self.state = QUOTED
        elif LOWER[byte] and state != QUOTED_END:
            if state == EXTENSION:
                self.state = EXTENSION_NAME
            elif state == EXTENSION_EQUALS:
                self.state = EXTENSION_VALUE
        elif state == EXTENSION or state == EXTENSION_EQUALS:
            self.refuse("an empty chunk extension")
        elif byte == 13:
            self.state = SIZE_LF
        elif byte == 59:
            self.state = EXTENSION
        elif byte == 61 and state == EXTENSION_NAME:
            self.state = EXTENSION_EQUALS
        else:
            self.refuse("a chunk extension is malformed")
        return 0

    cdef int step_quoted(self, int byte) except -1:
        if (byte < 32 and byte != 9) or byte == 127:
            self.refuse("a control character in a chunk extension")
        if self.state == QUOTED_ESCAPE:
            self.state = QUOTED
        elif byte == 34:
            self.state = QUOTED_END
        elif byte == 92:
            self.state = QUOTED_ESCAPE
        return 0

    cdef int step_trailer(self, int byte) except -1:
        if self.state == END_CR:
            self.state = TRAILER
            self.line = bytearray()
        self.line.append(byte)
        self.trailed += 1
        if self.trailed > TRAILER_BYTES:
            self.refuse("the trailers are longer than 8 KiB")
        if byte == 10:
            if not accepts(bytes(self.line)):
                self.refuse("a trailer that is malformed or not allowed")
            self.state = END_CR
        return 0

    cdef int refuse(self, str why) except -1:
        self.state = BROKEN
        raise BadChunk(why)
