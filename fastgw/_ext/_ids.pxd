"""The id source, for other compiled modules."""

cimport cython

cdef enum:
    SIZE = 26


@cython.final
cdef class Source:
    cdef char text[SIZE]
    cdef unsigned char digit[SIZE]
    cdef int prefix_size
    cdef unsigned long forks

    cdef int seed(self) except -1
    cpdef str next(self)
