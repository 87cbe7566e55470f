# cython: embedsignature=True
"""The cells of a board, compiled: one add is one load and one store. The twin is pure/counters.py.

A cell keeps the memory alive that it points into, by its view.
"""

import sys

from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.stdint cimport int64_t

from fastgw._ext import board

HistogramReading = board.HistogramReading
Slot = board.Slot


cdef void *address(memoryview view, Py_ssize_t index, Py_ssize_t words) except NULL:
    """Give the address of `words` words from `index` on."""
    cdef Py_buffer *buffer = PyMemoryView_GET_BUFFER(view)
    if buffer.readonly or buffer.itemsize != 8 or index < 0 or words < 1:
        raise ValueError("a cell lies in a writable view of words")
    if index + words > buffer.len // 8:
        raise IndexError("a cell lies inside its view")
    return <char *>buffer.buf + index * 8


cdef class Counter:
    def __cinit__(self, memoryview words, Py_ssize_t index, bint dropped=False):
        self.cell = <int64_t *>address(words, index, 1)
        self.owner = words
        self.dropped = dropped

    cpdef void add(self, int64_t n) noexcept:
        """Add `n`, which is not negative."""
        self.cell[0] += 1 if self.dropped else n


cdef class Gauge:
    def __cinit__(self, memoryview view, Py_ssize_t index, bint dropped=False):
        cdef void *at = address(view, index, 1)
        self.cell = NULL if dropped else <double *>at
        self.drops = <int64_t *>at if dropped else NULL
        self.owner = view

    cpdef void add(self, double n) noexcept:
        """Add `n`; what nobody has set counts as 0."""
        if self.cell == NULL:
            self.drops[0] += 1
        elif self.cell[0] != self.cell[0]:
            self.cell[0] = n
        else:
            self.cell[0] += n

    cpdef void set(self, double value) noexcept:
        """Set it."""
        if self.cell == NULL:
            self.drops[0] += 1
        else:
            self.cell[0] = value


cdef class Histogram:
    def __cinit__(
        self,
        memoryview words,
        memoryview reals,
        Py_ssize_t index,
        Py_ssize_t bounds,
        bint dropped=False,
    ):
        cdef Py_ssize_t size = 1 if dropped else 2 * bounds + 2
        self.bounds = <double *>address(reals, index, size)
        self.counts = <int64_t *>address(words, index, size) + bounds
        self.total = NULL if dropped else self.bounds + 2 * bounds + 1
        self.number = bounds
        self.owner = (words, reals)

    cpdef void observe(self, double value) noexcept:
        """Count `value` in the first bucket whose bound is not below it; NaN is ignored."""
        cdef Py_ssize_t bucket = 0
        if self.total == NULL:
            self.counts[0] += 1
            return
        if value != value:
            return
        while bucket < self.number and value > self.bounds[bucket]:
            bucket += 1
        self.counts[bucket] += 1
        self.total[0] += value


class Board(board.Board):
    """The mapping: `size_bytes` for each slot, taken as they fill. Make it before the fork."""

    cells = sys.modules[__name__]
