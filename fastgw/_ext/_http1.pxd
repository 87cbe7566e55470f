"""Response heads and chunked bodies, for other compiled modules."""

from libc.stdint cimport uint8_t


cdef class Head:
    cdef readonly int status
    cdef readonly int minor
    cdef int fields
    cdef bytes source
    cdef list pairs
    cdef readonly Py_ssize_t size
    cdef readonly long long length
    cdef readonly bint chunked
    cdef readonly bint keep_alive
    cdef readonly int idle_s
    cdef Py_ssize_t type_start
    cdef Py_ssize_t type_end

    cpdef bytes relabel(self, object labels)
    cpdef bytes rest(self, bytes data)
    cdef bint is_of(self, const char *kind, Py_ssize_t size) noexcept


cpdef Head parse_head(bytes buf)


cdef class Dechunker:
    cdef int state
    cdef int digits
    cdef int extension
    cdef int extensions
    cdef bint request
    cdef int trailed
    cdef bytearray line
    cdef long long left
    cdef readonly bytes excess
    cdef readonly bint done
    cdef bint extended

    cpdef list feed(self, bytes data)
    cpdef bint was_whole(self)
    cpdef Py_ssize_t check(self, bytes data) except -1
    cdef Py_ssize_t run(self, bytes data, list pieces) except -1
    cdef Py_ssize_t leap(self, const uint8_t* p, Py_ssize_t size) noexcept
    cdef int step(self, int byte) except -1
    cdef int step_size(self, int byte) except -1
    cdef int step_extension(self, int byte) except -1
    cdef int step_quoted(self, int byte) except -1
    cdef int step_trailer(self, int byte) except -1
    cdef int refuse(self, str why) except -1
