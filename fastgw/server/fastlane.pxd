"""Types of `fastlane.pyx`: what connections share, and the client as a turn sees it."""

from fastgw._ext._counters cimport Counter, Gauge
from fastgw._ext._ids cimport Source
from fastgw._ext._journal cimport Journal
from fastgw._ext._request cimport Fields, Request
from fastgw.flow.plan cimport Plans
from fastgw.flow.stamp cimport Freshness
from fastgw.upstream.deadlines cimport Deadline, Deadlines, Line


cdef class Client(Deadline):
    """The client's connection, as a turn writes to it."""

    cdef readonly object transport
    cdef readonly str address
    cdef bint full  # it does not keep up

    cdef object write(self, bytes data)
    cdef object turn_over(self, bint last)
    cdef object surrender(self, bytes request, object carry, str reason)


cdef class FastLane:
    cdef readonly object context
    cdef object loop
    cdef readonly object make_handler
    cdef public object make_front
    cdef readonly Plans plans
    cdef Freshness freshness
    cdef Deadlines deadlines
    cdef Fields fields
    cdef dict routes
    cdef Source ids
    cdef Counter served
    cdef Counter refused
    cdef Counter key_hits
    cdef Counter overrun_nano
    cdef Gauge gauge
    cdef object sha256
    cdef Journal journal
    cdef object record
    cdef object door
    cdef readonly set fronts
    cdef readonly Py_ssize_t live
    cdef public bint draining
    cdef long long max_body
    cdef Line header_line
    cdef Line body_line
    cdef Line keepalive_line
    cdef Line stall_line
    cdef Line commit_line
    cdef Line comment_line
    cdef double stream_idle_s
    cdef long long second
    cdef bytes date
    cdef unsigned long long dice
    cdef str reason  # why the last request was not taken
    # scratch of the request being looked at: nothing waits between filling and reading it
    cdef Request request

    # text being put together: the same memory each time
    cdef char *text
    cdef Py_ssize_t written
    cdef Py_ssize_t room

    cdef int put(self, const void *data, Py_ssize_t size) except -1
    cdef int put_bytes(self, bytes data) except -1
    cdef int put_number(self, long long value) except -1
    cdef int put_usd(self, long long nano) except -1
    cdef bytes taken(self)

    cdef bytes date_field(self, long long now_ms)
    cdef unsigned long long roll(self) noexcept
