"""Cells of shared series, for other compiled modules to count without a Python call."""

cimport cython
from libc.stdint cimport int64_t


@cython.final
cdef class Counter:
    """A number that grows."""

    cdef int64_t *cell
    cdef bint dropped
    cdef object owner
    cpdef void add(self, int64_t n) noexcept


@cython.final
cdef class Gauge:
    """A number that goes up and down; NaN while nobody has set it."""

    cdef double *cell
    cdef int64_t *drops
    cdef object owner
    cpdef void add(self, double n) noexcept
    cpdef void set(self, double value) noexcept


@cython.final
cdef class Histogram:
    """Counts between bounds. Without room, `total` is NULL and counts[0] counts the drops."""

    cdef double *bounds
    cdef int64_t *counts
    cdef double *total
    cdef Py_ssize_t number
    cdef object owner
    cpdef void observe(self, double value) noexcept
