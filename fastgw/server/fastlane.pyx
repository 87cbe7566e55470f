# cython: language_level=3
"""The fast lane of one worker: what its connections share. Holds no policy; plans do.

A connection is a `Front` (front.pyx), one exchange on it a `Turn` (turn.pyx).
"""

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
        self.deadlines = deadlines
        self.fields = Fields(FIELDS)
        self.routes = {
            target.encode(): endpoint.encode() for target, endpoint in routes.items()
        }
        self.ids = context.ids
        self.served = context.metrics.lane["fast", "plan"]
        self.overrun_nano = context.metrics.overrun_nano
        self.key_hits = context.metrics.key_cache_events["hit"]
        self.gauge = context.metrics.in_flight
        self.sha256 = sha256
        self.door = door
        self.fronts = set()
        self.dice = int.from_bytes(os.urandom(8), "little") | 1

    def configure(self, server, stream):
        """Take the settings of sections `server` and `stream`; they hold from the next request."""
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
