"""The SSE tap, for compiled lanes: feed() is a plain C call there."""

cimport cython

from fastgw._ext._estimate cimport Meter

cdef struct Place:
    # Offsets into the bytes at hand.
    Py_ssize_t event  # where the open event begins
    Py_ssize_t line  # where its open line begins
    Py_ssize_t seen  # how far that line was looked at
    Py_ssize_t first  # where its first line ends, -1 while that is open

cdef struct Kept:
    # What is known of the text that was kept.
    Py_ssize_t size
    Py_ssize_t calls  # in all of the text
    long long tokens  # estimated, once there was no room for more; -1 before


@cython.final
cdef class Tap:
    cdef readonly bytes usage
    cdef readonly bytes first_usage
    cdef readonly bytes error
    cdef readonly bint done
    cdef readonly Py_ssize_t content_events

    cdef bint drop_usage
    cdef Py_ssize_t limit
    cdef Meter meter
    cdef unsigned char *text  # what the meter took, as it stands in JSON strings
    cdef Py_ssize_t text_room
    cdef Kept kept
    cdef unsigned char *tail
    cdef Py_ssize_t tail_size
    cdef Py_ssize_t tail_room
    cdef Place place
    cdef bint fresh  # no event yet: a byte order mark may stand first
    cdef bint after_cr  # the last boundary was a CR whose LF may still come
    cdef bint dropped  # the last event was dropped
    cdef bint closing  # finish() reads the tail
    cdef bint overflowed

    cpdef object feed(self, bytes data)
    cpdef bytes finish(self)

    cdef object pass_events(
        self, bytes data, const unsigned char *base, Py_ssize_t size, Py_ssize_t kept
    )
    cdef int keep_tail(self, const unsigned char *start, Py_ssize_t size) except -1
    cdef int forget_head(self) except -1
    cdef int overflow(self, list pieces, const unsigned char *start, Py_ssize_t size) except -1
    cdef int take_event(
        self, const unsigned char *start, const unsigned char *first, const unsigned char *end
    ) except -1
    cdef int keep_text(self, const unsigned char *start, Py_ssize_t size) noexcept
    cdef int take_lines(self, const unsigned char *start, const unsigned char *end) except -1
    cdef int take_payload(
        self, const unsigned char *start, const unsigned char *end, bint error_event
    ) except -1
    cdef int read_members(self, const unsigned char *start, const unsigned char *end) noexcept
    cdef int take_marked(self, bytes payload, int marks, bint error_event) except -1
