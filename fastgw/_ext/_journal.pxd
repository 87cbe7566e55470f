"""Types of the journal, for compiled lanes: a line is written by a plain C call there."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t


@cython.final
cdef class Who:
    """What the records of one kind have in common; written once into each segment."""

    cdef bytes line  # the whole WHO line, its number left open
    cdef uint64_t serial  # of the segment that has it
    cdef uint32_t number


cdef struct Closing:
    int status
    int attempts
    bint stream
    int source  # place in lines.SOURCES
    int64_t input
    int64_t output
    int64_t cached
    int64_t cache_write
    int64_t reasoning
    int64_t nano
    int64_t duration_ms
    int64_t ttft_ms
    int64_t overhead_us


@cython.final
cdef class Journal:
    """Appends lines to segment files that are mapped into memory."""

    cdef object map
    cdef object spare
    cdef Py_buffer view
    cdef unsigned char *base
    cdef Py_ssize_t size
    cdef readonly Py_ssize_t end
    """Bytes of the segment that are written."""
    cdef readonly Py_ssize_t owed
    """Bytes kept back for lines that close what is open."""
    cdef readonly uint64_t serial
    cdef uint64_t spare_serial
    cdef uint32_t numbers
    cdef readonly list left
    cdef readonly long long lines

    cdef bint make_room(self, Py_ssize_t need) except -1
    cdef int name(self, Who who) except -1
    cdef Py_ssize_t c_open(
        self, Who who, str id, str label, int64_t created_at, bint stream, int64_t nano,
        int64_t tokens, int64_t prompt,
    ) except -1
    cdef bint c_close(
        self, Py_ssize_t kept, Who who, str id, str label, int64_t created_at, Closing *closing,
        str code,
    ) except -1
