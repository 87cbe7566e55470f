# cython: embedsignature=True
"""Many rows at once on their way into a database: made fit, summed up, encoded for COPY.

The twin is pure/rows.py. A text that needs more than a look is left to columns.fit_text.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GET_SIZE, PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_GET_LENGTH
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memset

from fastgw._ext.columns import AS_IT_IS, JSON, NUMBER, fit_text

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    C_AS_IT_IS = 0
    C_NUMBER = -1
    C_JSON = -2
    MOST_COLUMNS = 64

assert (AS_IT_IS, NUMBER, JSON) == (C_AS_IT_IS, C_NUMBER, C_JSON)

cdef int64_t LARGEST = 0x7FFFFFFFFFFFFFFF


@cython.final
cdef class Shape:
    """Makes rows: what a column holds, how large a number may be, how a record is taken apart."""

    cdef int columns[MOST_COLUMNS]
    cdef Py_ssize_t width
    cdef int64_t most
    cdef object largest
    cdef object split
    cdef object encode

    def __init__(self, tuple columns not None, int64_t most, split, encode):
        if not 0 < len(columns) <= MOST_COLUMNS:
            raise ValueError(f"a row has 1 to {MOST_COLUMNS} columns")
        self.width = len(columns)
        for at in range(self.width):
            self.columns[at] = columns[at]
        self.most = most
        self.largest = most
        self.split = split
        self.encode = encode

    def fit(self, list records not None):
        """Give the rows with every value such that a database takes it: nobody reads a refusal."""
        cdef Py_ssize_t count = PyList_GET_SIZE(records)
        cdef list rows = PyList_New(count)
        cdef dict encoded = {}
        cdef Py_ssize_t at
        for at in range(count):
            row = self.fit_one(self.split(records[at]), encoded)
            Py_INCREF(row)
            PyList_SET_ITEM(rows, at, row)
        return rows

    cdef tuple fit_one(self, tuple record, dict encoded):
        if record is None or PyTuple_GET_SIZE(record) != self.width:
            raise ValueError("a row of another width")
        cdef tuple row = PyTuple_New(self.width)
        cdef Py_ssize_t at
        cdef int kind
        for at in range(self.width):
            value = record[at]
            kind = self.columns[at]
            if kind == C_AS_IT_IS or value is None:
                pass
            elif kind > 0:
                if not fits(value, kind):
                    value = fit_text(value, kind)
            elif kind == C_NUMBER:
                value = self.fit_number(value)
            else:
                value = self.fit_mapping(value, encoded) if value else "{}"
            Py_INCREF(value)
            PyTuple_SET_ITEM(row, at, value)
        return row

    cdef object fit_mapping(self, value, dict encoded):
        """Encode a mapping once, however many records share it; they keep it alive meanwhile."""
        cdef object key = <size_t><PyObject *>value
        text = encoded.get(key)
        if text is None:
            text = encoded[key] = self.encode(value)
        return text

    cdef object fit_number(self, value):
        cdef int overflow = 0
        cdef int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow > 0 or number > self.most:
            return self.largest
        if overflow < 0 or number < 0:
            return 0
        return value if PyLong_CheckExact(value) else number


cdef bint fits(object text, Py_ssize_t longest) except -1:
    """Say whether a text can go as it is: short, ASCII, without NUL."""
    if not isinstance(text, str):
        raise TypeError("not a text")
    if PyUnicode_GET_LENGTH(text) > longest or not PyUnicode_IS_COMPACT_ASCII(text):
        return False
    cdef Py_ssize_t size
    cdef const char *data = PyUnicode_AsUTF8AndSize(text, &size)
    return memchr(data, 0, size) == NULL


@cython.final
cdef class Sums:
    """The numbers of all groups, `width` each, in one block that grows."""

    cdef int64_t *cells
    cdef Py_ssize_t width
    cdef Py_ssize_t count
    cdef Py_ssize_t room

    def __cinit__(self, Py_ssize_t width):
        self.width = width

    def __dealloc__(self):
        PyMem_Free(self.cells)

    cdef int64_t *add(self) except NULL:
        """Give the cells of a new group, all zero."""
        cdef void *larger
        if self.count == self.room:
            larger = PyMem_Realloc(
                self.cells, (self.room * 2 + 64) * self.width * sizeof(int64_t)
            )
            if larger == NULL:
                raise MemoryError
            self.cells = <int64_t *>larger
            self.room = self.room * 2 + 64
        cdef int64_t *cells = self.cells + self.count * self.width
        memset(cells, 0, self.width * sizeof(int64_t))
        self.count += 1
        return cells


def group(
    list rows not None, Py_ssize_t at, int64_t unit, tuple keys not None, tuple sums not None
):
    """Sum rows up by time and by some columns.

    `at` is the column of the time, which is cut to whole `unit`s. Gives a tuple for each group, in
    the order of their first rows: time, keys, number of rows, sums, latest time.
    """
    cdef Sums found = Sums(len(sums) + 2)
    cdef Py_ssize_t key_count = len(keys), sum_count = len(sums), number, index
    cdef Py_ssize_t column[MOST_COLUMNS]
    if key_count + sum_count > MOST_COLUMNS:
        raise ValueError(f"at most {MOST_COLUMNS} columns")
    for index in range(key_count):
        column[index] = keys[index]
    for index in range(sum_count):
        column[key_count + index] = sums[index]
    cdef Py_ssize_t width = 0
    for index in [at, *keys, *sums]:
        if index < 0:
            raise IndexError("columns count from 0")
        width = max(width, index + 1)
    cdef dict known = {}
    cdef int64_t time, value, last_time = -1
    cdef int64_t *cells
    cdef PyObject *seen
    cdef tuple key
    start = None
    for row in rows:
        if not isinstance(row, tuple) or PyTuple_GET_SIZE(row) < width:
            raise IndexError("a row of another width")
        time = (<tuple>row)[at]
        if start is None or time // unit != last_time:
            last_time = time // unit
            start = last_time * unit
        key = PyTuple_New(key_count + 1)
        Py_INCREF(start)
        PyTuple_SET_ITEM(key, 0, start)
        for index in range(key_count):
            one = (<tuple>row)[column[index]]
            Py_INCREF(one)
            PyTuple_SET_ITEM(key, index + 1, one)
        seen = PyDict_GetItemWithError(known, key)
        if seen == NULL:
            known[key] = found.count
            cells = found.add()
        else:
            number = <object>seen
            cells = found.cells + number * found.width
        cells[0] += 1
        for index in range(sum_count):
            value = (<tuple>row)[column[key_count + index]]
            if value > LARGEST - cells[index + 1]:
                raise OverflowError("a sum is too large")
            cells[index + 1] += value
        if time > cells[sum_count + 1]:
            cells[sum_count + 1] = time
    made = []
    for key, number in known.items():
        cells = found.cells + number * found.width
        made.append((*key, *[cells[index] for index in range(found.width)]))
    return made


cdef const char *SIGNATURE = b"PGCOPY\n\xff\r\n\0" + b"\0\0\0\0" + b"\0\0\0\0"
cdef enum:
    SIGNATURE_SIZE = 19


@cython.final
cdef class Buffer:
    """Bytes that grow at their end."""

    cdef char *start
    cdef char *to
    cdef char *end

    def __dealloc__(self):
        PyMem_Free(self.start)

    cdef int need(self, Py_ssize_t size) except -1:
        """Make room for `size` more bytes."""
        if self.end - self.to >= size:
            return 0
        cdef Py_ssize_t used = self.to - self.start
        cdef Py_ssize_t room = 2 * used + size + 4096
        cdef void *larger = PyMem_Realloc(self.start, room)
        if larger == NULL:
            raise MemoryError
        self.start = <char *>larger
        self.to = self.start + used
        self.end = self.start + room
        return 0


def copy_binary(list rows not None):
    """Encode rows of texts, whole numbers and None for PostgreSQL's COPY ... (FORMAT binary).

    Texts go as UTF-8, numbers as int8. See "Binary Format" in PostgreSQL's page on COPY.
    """
    cdef Buffer buffer = Buffer()
    cdef Py_ssize_t length, at
    cdef const char *text
    buffer.need(SIGNATURE_SIZE)
    memcpy(buffer.to, SIGNATURE, SIGNATURE_SIZE)
    buffer.to += SIGNATURE_SIZE
    for row in rows:
        if not isinstance(row, tuple):
            raise TypeError("not a row")
        buffer.need(4 + 12 * PyTuple_GET_SIZE(row))
        buffer.to = put16(buffer.to, PyTuple_GET_SIZE(row))
        for at in range(PyTuple_GET_SIZE(row)):
            value = (<tuple>row)[at]
            if value is None:
                buffer.to = put32(buffer.to, 0xFFFFFFFF)
            elif isinstance(value, str):
                text = PyUnicode_AsUTF8AndSize(value, &length)
                buffer.to = put32(buffer.to, length)
                # what numbers of the columns that follow may take is kept free
                buffer.need(length + 2 + 12 * (PyTuple_GET_SIZE(row) - at))
                memcpy(buffer.to, text, length)
                buffer.to += length
            elif isinstance(value, int):
                buffer.to = put64(put32(buffer.to, 8), <int64_t>value)
            else:
                raise TypeError("neither text nor whole number")
    buffer.need(2)
    buffer.to = put16(buffer.to, 0xFFFF)
    return PyBytes_FromStringAndSize(buffer.start, buffer.to - buffer.start)


cdef inline char *put16(char *to, uint16_t number) noexcept:
    to[0] = <char>(number >> 8)
    to[1] = <char>number
    return to + 2


cdef inline char *put32(char *to, uint32_t number) noexcept:
    return put16(put16(to, number >> 16), number & 0xFFFF)


cdef inline char *put64(char *to, uint64_t number) noexcept:
    return put32(put32(to, number >> 32), number & 0xFFFFFFFF)
