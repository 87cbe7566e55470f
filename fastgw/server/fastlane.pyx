# cython: language_level=3
"""The fast lane of one worker: what its connections share. Holds no policy; plans do.

A connection is a `Front` (front.pyx), one exchange on it a `Turn` (turn.pyx).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from fastgw._ext._request cimport Fields
from fastgw.upstream.deadlines cimport Deadline, Deadlines, Line

import os
from email.utils import formatdate

try:  # for one block of text a tenth of what hashlib costs
    from _sha256 import sha256
except ImportError:
    try:
        from _sha2 import sha256
    except ImportError:
        from hashlib import sha256

from fastgw.flow.plan import FIELDS


cdef enum:
    FIRST_ROOM = 65536


cdef class Client(Deadline):
    """The client's connection, as a turn writes to it."""

    cdef object write(self, bytes data):
        """Send bytes; nothing happens once the client has left."""
        raise NotImplementedError

    cdef object turn_over(self, bint last):
        """Take the end of the turn; `last`: nothing may follow on this connection."""
        raise NotImplementedError

    cdef object surrender(self, bytes request, object carry, str reason):
        """Let the standard lane answer this request; the turn is over."""
        raise NotImplementedError


cdef class FastLane:
    """What all fronts of a worker share.

    `routes` maps request targets to endpoints, `make_handler` makes aiohttp's protocol for a
    connection, `context` is the flow's, `door` lets connections in. Times in seconds.
    """

    def __init__(self, loop, context, Deadlines deadlines, make_handler, dict routes, door):
        self.loop = loop
        self.context = context
        self.make_handler = make_handler
        self.plans = context.plans
        self.freshness = context.keys.freshness
        self.journal = context.journal
        self.deadlines = deadlines
        self.fields = Fields(FIELDS)
        self.routes = {
            target.encode(): endpoint.encode() for target, endpoint in routes.items()
        }
        self.ids = context.ids
        self.served = context.metrics.lane["fast", "plan"]
        self.refused = context.metrics.lane["fast", "refusal"]
        self.overrun_nano = context.metrics.overrun_nano
        self.key_hits = context.metrics.key_cache_events["hit"]
        self.gauge = context.metrics.in_flight
        self.sha256 = sha256
        self.door = door
        self.fronts = set()
        self.room = FIRST_ROOM
        self.text = <char *>malloc(FIRST_ROOM)
        if self.text == NULL:
            raise MemoryError
        self.dice = int.from_bytes(os.urandom(8), "little") | 1

    def __dealloc__(self):
        free(self.text)

    def configure(self, server, stream):
        """Take the settings of sections `server` and `stream`; they hold from the next request."""
        self.record = self.context.record
        self.max_body = server.max_body_bytes
        self.header_line = Line(server.header_timeout_s)
        self.body_line = Line(server.body_timeout_s)
        self.keepalive_line = Line(server.keepalive_timeout_s)
        self.stall_line = Line(server.write_timeout_s)
        self.comment_line = Line(stream.keepalive_s or stream.idle_timeout_s)
        self.stream_idle_s = stream.idle_timeout_s
        self.commit_line = Line(stream.commit_after_s)

    def is_busy(self):
        """Tell whether an exchange is under way, or an answer not yet taken."""
        return self.live > 0 or any(front.has_unsent() for front in self.fronts)

    @property
    def in_flight(self) -> int:
        """How many exchanges are under way."""
        return self.live

    def close_idle(self):
        """Close the connections that wait for a request."""
        for front in list(self.fronts):
            front.close_if_idle()

    def end_all(self, error):
        """End every live exchange with an error: the grace period is over."""
        for front in list(self.fronts):
            front.stop(error)

    # -- putting text together ------------------------------------------------------------------

    cdef int put(self, const void *data, Py_ssize_t size) except -1:
        """Append bytes."""
        cdef char *grown
        cdef Py_ssize_t room = self.room
        if self.written + size > room:
            while self.written + size > room:
                room *= 2
            grown = <char *>realloc(self.text, room)
            if grown == NULL:
                raise MemoryError
            self.text = grown
            self.room = room
        memcpy(self.text + self.written, data, size)
        self.written += size
        return 0

    cdef int put_bytes(self, bytes data) except -1:
        """Append a bytes object."""
        return self.put(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int put_number(self, long long value) except -1:
        """Append a number that is not negative."""
        cdef char[20] digits
        cdef int at = 20
        while True:
            at -= 1
            digits[at] = c'0' + <char>(value % 10)
            value //= 10
            if value == 0:
                return self.put(digits + at, 20 - at)

    cdef int put_usd(self, long long nano) except -1:
        """Append what `fastgw.domain.usd` gives for an amount that is not negative."""
        cdef char[10] part
        cdef long long rest = nano % 1_000_000_000
        cdef int at, size = 0
        self.put_number(nano // 1_000_000_000)
        if rest == 0:
            return 0
        part[0] = c'.'
        for at in range(9, 0, -1):
            part[at] = c'0' + <char>(rest % 10)
            rest //= 10
            if size == 0 and part[at] != c'0':
                size = at + 1
        return self.put(part, size)

    cdef bytes taken(self):
        """Give what was put together, and begin anew."""
        cdef Py_ssize_t size = self.written
        self.written = 0
        return PyBytes_FromStringAndSize(self.text, size)

    cdef bytes date_field(self, long long now_ms):
        """Give the Date line (RFC 9110 section 6.6.1), made once a second."""
        cdef long long second = now_ms // 1000
        if second != self.second:
            self.second = second
            self.date = b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
        return self.date

    cdef unsigned long long roll(self) noexcept:
        """Give the next number of an xorshift generator: for weights, not for secrets."""
        cdef unsigned long long x = self.dice
        x ^= x << 13
        x ^= x >> 7
        x ^= x << 17
        self.dice = x
        return x
