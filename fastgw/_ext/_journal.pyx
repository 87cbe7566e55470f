# cython: embedsignature=True
"""The journal of one worker: what was asked for and what it came to, safe from kill -9.

A segment is a file mapped into memory, all of it allocated beforehand. What is stored there belongs
to the kernel at once, without a system call, and a full disk shows where the next segment is made,
never here. One writer, any number of readers. The twin is pure/journal.py; lines.py says how lines
look.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import mmap
import struct

from fastgw._ext import lines
from fastgw._ext.columns import fit_text

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from *:
    """
    static inline uint32_t fgw_load(const unsigned char *at)
    { return __atomic_load_n((const uint32_t *)at, __ATOMIC_ACQUIRE); }
    static inline void fgw_store(unsigned char *at, uint32_t value)
    { __atomic_store_n((uint32_t *)at, value, __ATOMIC_RELEASE); }
    """
    uint32_t load "fgw_load"(const unsigned char *at) noexcept nogil
    void store "fgw_store"(unsigned char *at, uint32_t value) noexcept nogil

cdef enum:
    HEADER = 64
    WHO = 1
    OPEN = 2
    CLOSE = 3
    COMMON = 64
    OPENED = 3
    CLOSED = 10
    TEXTS = 9
    LONGEST_ID = 32
    LONGEST_LABEL = 240
    LONGEST_CODE = 64
    LONGEST_CLOSE = COMMON + 8 * CLOSED + LONGEST_LABEL + LONGEST_CODE

assert (HEADER, WHO, OPEN, CLOSE, COMMON, OPENED, CLOSED) == (
    lines.HEADER, lines.WHO, lines.OPEN, lines.CLOSE, lines.COMMON, lines.OPENED, lines.CLOSED,
)
assert (TEXTS, LONGEST_ID, LONGEST_LABEL, LONGEST_CODE) == (
    len(lines.TEXTS), lines.LONGEST_ID, lines.LONGEST_LABEL, lines.LONGEST_CODE,
)

cdef int64_t MOST = lines.MOST
cdef bytes MAGIC = lines.MAGIC
cdef tuple SOURCES = lines.SOURCES
cdef int HELD = SOURCES.index("held")
cdef object Damaged = lines.Damaged

cdef struct Common:
    uint32_t length
    uint8_t kind
    uint8_t flags
    uint16_t label_size
    uint32_t who
    uint16_t status
    uint16_t attempts
    int64_t created_at
    uint8_t source
    uint8_t id_size
    uint8_t code_size
    uint8_t zero
    uint32_t zeros
    char id[32]

assert sizeof(Common) == COMMON


cdef inline int64_t fit(int64_t value) noexcept:
    return 0 if value < 0 else MOST if value > MOST else value


cdef inline Py_ssize_t aligned(Py_ssize_t size) noexcept:
    return (size + 7) & ~<Py_ssize_t>7


@cython.final
cdef class Who:
    """What the records of one kind have in common; written once into each segment."""

    def __init__(self, tuple texts not None):
        if len(texts) != TEXTS:
            raise ValueError(f"{TEXTS} texts are wanted")
        parts = []
        for text, (_, longest) in zip(texts, lines.TEXTS):
            if text is None:
                parts.append(struct.pack("<i", -1))
            else:
                encoded = fit_text(text, longest).encode()
                parts.append(struct.pack("<i", len(encoded)) + encoded)
        body = b"".join(parts)
        size = 16 + len(body)
        padding = -size % 8
        self.line = struct.pack("<IBBHII", size + padding, WHO, 0, 0, 0, 0) + body + bytes(padding)


@cython.final
cdef class Journal:
    """Appends lines to segment files that are mapped into memory."""

    def __init__(self):
        self.left = []

    def __dealloc__(self):
        if self.base != NULL:
            PyBuffer_Release(&self.view)

    @property
    def wants_segment(self):
        """Tell whether there is no segment in reserve."""
        return self.spare is None

    def provide(self, int fd, Py_ssize_t size, uint64_t serial):
        """Give an allocated file of `size` bytes to go on in; at most one is kept in reserve."""
        if self.spare is not None:
            raise ValueError("there is a segment in reserve")
        made = mmap.mmap(fd, size)
        made[:HEADER] = MAGIC + struct.pack("<Q", serial) + bytes(HEADER - 16)
        self.spare = made
        self.spare_serial = serial
        if self.base == NULL:
            self.turn_over()

    def turn_over(self):
        """Go on in the segment that is in reserve, if there is one; tell whether there was."""
        if self.spare is None:
            return False
        if self.base != NULL:
            PyBuffer_Release(&self.view)
            self.map.close()
            self.left.append(self.serial)
        self.map = self.spare
        self.spare = None
        PyObject_GetBuffer(self.map, &self.view, PyBUF_WRITABLE)
        self.base = <unsigned char *>self.view.buf
        self.size = self.view.len
        self.end = HEADER
        self.serial = self.spare_serial
        self.numbers = 0
        return True

    def take_left(self):
        """Give the serials of segments that were left since the last call: they are complete."""
        taken, self.left = self.left, []
        return taken

    cdef bint make_room(self, Py_ssize_t need) except -1:
        """Tell whether `need` bytes can be written besides what is owed, in a new segment maybe."""
        if self.end + need + self.owed <= self.size:
            return True
        if self.spare is None or HEADER + need + self.owed > len(self.spare):
            return False
        return self.turn_over()

    cdef int name(self, Who who) except -1:
        """Write a WHO line unless the segment has it."""
        cdef unsigned char *at
        cdef Py_ssize_t size
        if who.serial == self.serial:
            return 0
        size = PyBytes_GET_SIZE(who.line)
        at = self.base + self.end
        self.numbers += 1
        memcpy(at + 4, PyBytes_AS_STRING(who.line) + 4, size - 4)
        memcpy(at + 8, &self.numbers, 4)
        who.number = self.numbers
        who.serial = self.serial
        store(at, size)
        self.end += size
        return 0

    cdef Py_ssize_t c_open(
        self, Who who, str id, str label, int64_t created_at, bint stream, int64_t nano,
        int64_t tokens, int64_t prompt,
    ) except -1:
        if self.base == NULL:
            return 0
        cdef Py_ssize_t kept = LONGEST_CLOSE + PyBytes_GET_SIZE(who.line)
        cdef Py_ssize_t id_size, label_size
        cdef const char *id_at = PyUnicode_AsUTF8AndSize(id, &id_size)
        cdef const char *label_at = NULL
        cdef unsigned char *at
        cdef int64_t *numbers
        label_size = 0
        if label is not None and label is not id:
            label_at = PyUnicode_AsUTF8AndSize(label, &label_size)
        if id_size > LONGEST_ID or label_size > LONGEST_LABEL:
            raise ValueError("an id or a label is too long")
        cdef Py_ssize_t length = aligned(COMMON + 8 * OPENED + label_size)
        if not self.make_room(length + PyBytes_GET_SIZE(who.line) + kept):
            return 0
        self.name(who)
        at = self.base + self.end  # a line is there once its length is stored
        put_common(
            at, OPEN, stream, who.number, 0, 1, created_at, HELD, id_at, id_size, label_at,
            label_size, 0, COMMON + 8 * OPENED,
        )
        numbers = <int64_t *>(at + COMMON)
        numbers[0] = fit(nano)
        numbers[1] = fit(tokens)
        numbers[2] = fit(prompt)
        store(at, length)
        self.end += length
        self.owed += kept
        self.lines += 1
        return kept

    cdef bint c_close(
        self, Py_ssize_t kept, Who who, str id, str label, int64_t created_at, Closing *closing,
        str code,
    ) except -1:
        if self.base == NULL:
            return False
        cdef Py_ssize_t id_size, label_size, code_size
        cdef const char *id_at = PyUnicode_AsUTF8AndSize(id, &id_size)
        cdef const char *label_at = NULL
        cdef const char *code_at = NULL
        cdef unsigned char *at
        cdef int64_t *numbers
        label_size = code_size = 0
        if label is not None and label is not id:
            label_at = PyUnicode_AsUTF8AndSize(label, &label_size)
        if code is not None:
            code_at = PyUnicode_AsUTF8AndSize(code, &code_size)
        if id_size > LONGEST_ID or label_size > LONGEST_LABEL or code_size > LONGEST_CODE:
            raise ValueError("an id, a label or an error code is too long")
        cdef Py_ssize_t length = aligned(COMMON + 8 * CLOSED + label_size + code_size)
        self.owed -= kept
        if not self.make_room(length + PyBytes_GET_SIZE(who.line)):
            self.owed += kept
            return False
        self.name(who)
        at = self.base + self.end  # a line is there once its length is stored
        put_common(
            at, CLOSE, closing.stream, who.number, closing.status, closing.attempts, created_at,
            closing.source, id_at, id_size, label_at, label_size, code_size,
            COMMON + 8 * CLOSED,
        )
        if code_size:
            memcpy(at + COMMON + 8 * CLOSED + label_size, code_at, code_size)
        numbers = <int64_t *>(at + COMMON)
        numbers[0] = fit(closing.input)
        numbers[1] = fit(closing.output)
        numbers[2] = fit(closing.cached)
        numbers[3] = fit(closing.cache_write)
        numbers[4] = fit(closing.reasoning)
        numbers[5] = fit(closing.nano)
        numbers[6] = fit(closing.duration_ms)
        numbers[7] = -1 if closing.ttft_ms < 0 else fit(closing.ttft_ms)
        numbers[8] = fit(closing.overhead_us)
        numbers[9] = 0
        store(at, length)
        self.end += length
        self.lines += 1
        return True

    def open(
        self, Who who not None, str id not None, str label, int64_t created_at, bint stream,
        int64_t nano, int64_t tokens, int64_t prompt,
    ):
        """Write that an exchange begins; give the bytes kept back for its close, 0: no room."""
        return self.c_open(who, id, label, created_at, stream, nano, tokens, prompt)

    def close(
        self, Py_ssize_t kept, Who who not None, str id not None, str label, int64_t created_at,
        bint stream, int status, int attempts, int64_t input, int64_t output, int64_t cached,
        int64_t cache_write, int64_t reasoning, int64_t nano, str source not None,
        int64_t duration_ms, int64_t ttft_ms, int64_t overhead_us, str code,
    ):
        """Write what an exchange came to; `kept` is what `open` gave, 0 where there was none.

        False: no room, which happens only with nothing kept.
        """
        cdef Closing closing
        closing.status = status
        closing.attempts = attempts
        closing.stream = stream
        closing.source = SOURCES.index(source)
        closing.input = input
        closing.output = output
        closing.cached = cached
        closing.cache_write = cache_write
        closing.reasoning = reasoning
        closing.nano = nano
        closing.duration_ms = duration_ms
        closing.ttft_ms = ttft_ms
        closing.overhead_us = overhead_us
        return self.c_close(kept, who, id, label, created_at, &closing, code)


cdef void put_common(
    unsigned char *to, int kind, bint stream, uint32_t who, int status, int attempts,
    int64_t created_at, int source, const char *id, Py_ssize_t id_size, const char *label,
    Py_ssize_t label_size, Py_ssize_t code_size, Py_ssize_t tail,
) noexcept:
    """Write all of a line but its length, its numbers and its error code."""
    cdef Common *line = <Common *>to
    line.kind = kind
    line.flags = stream
    line.label_size = label_size
    line.who = who
    line.status = status
    line.attempts = attempts if attempts < 0xFFFF else 0xFFFF
    line.created_at = created_at
    line.source = source
    line.id_size = id_size
    line.code_size = code_size
    line.zero = 0
    line.zeros = 0
    memcpy(line.id, id, id_size)
    if id_size < LONGEST_ID:
        memset(line.id + id_size, 0, LONGEST_ID - id_size)
    if label_size:
        memcpy(to + tail, label, label_size)


# -- reading ------------------------------------------------------------------------------------


def read(data, Py_ssize_t start, dict names not None, Py_ssize_t most=1 << 62):
    """Read the lines of a segment from `start`, its beginning or what an earlier call gave.

    Gives rows that are closed; (row, tokens, prompt) of what was opened, the row's source `held`;
    and where to go on. Stops after `most` closed rows. `names` is kept between calls for one
    segment. Raises Damaged at bytes that are no line.
    """
    cdef Py_buffer view
    cdef list closed = []
    cdef list opened = []
    if not PyObject_CheckBuffer(data):
        raise TypeError("a segment is bytes")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        start = read_lines(
            <const unsigned char *>view.buf, view.len, start, names, closed, opened, most
        )
    finally:
        PyBuffer_Release(&view)
    return closed, opened, start


cdef Py_ssize_t read_lines(
    const unsigned char *base, Py_ssize_t size, Py_ssize_t at, dict names, list closed,
    list opened, Py_ssize_t most,
) except -1:
    cdef Py_ssize_t length
    cdef const Common *line
    cdef const int64_t *numbers
    cdef Py_ssize_t count = 0
    if at == 0:
        if size < HEADER or base[:8] != MAGIC:
            raise Damaged(0)
        at = HEADER
    while at + 16 <= size and count < most:
        length = load(base + at)
        if length == 0:
            break
        if length % 8 or length < 16 or at + length > size:
            raise Damaged(at)
        line = <const Common *>(base + at)
        if line.kind == WHO:
            names[line.who] = read_texts(base + at + 16, base + at + length, at)
        elif line.kind == CLOSE and length >= COMMON + 8 * CLOSED:
            numbers = <const int64_t *>(base + at + COMMON)
            closed.append(make_row(
                line, names, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4],
                numbers[5], numbers[6], numbers[7], numbers[8], COMMON + 8 * CLOSED, at,
            ))
            count += 1
        elif line.kind == OPEN and length >= COMMON + 8 * OPENED:
            numbers = <const int64_t *>(base + at + COMMON)
            row = make_row(
                line, names, numbers[2], 0, 0, 0, 0, numbers[0], 0, -1, 0, COMMON + 8 * OPENED, at
            )
            opened.append((row, numbers[1], numbers[2]))
        else:
            raise Damaged(at)
        at += length
    return at


cdef tuple read_texts(const unsigned char *at, const unsigned char *end, Py_ssize_t offset):
    cdef list texts = []
    cdef int32_t size
    for _ in range(TEXTS):
        if end - at < 4:
            raise Damaged(offset)
        memcpy(&size, at, 4)
        at += 4
        if size < 0:
            texts.append(None)
            continue
        if size > end - at:
            raise Damaged(offset)
        texts.append(PyUnicode_DecodeUTF8(<const char *>at, size, "replace"))
        at += size
    return tuple(texts)


cdef tuple make_row(
    const Common *line, dict names, int64_t input, int64_t output, int64_t cached,
    int64_t cache_write, int64_t reasoning, int64_t nano, int64_t duration_ms, int64_t ttft_ms,
    int64_t overhead_us, Py_ssize_t tail, Py_ssize_t offset,
):
    cdef tuple who = names.get(line.who)
    cdef const char *texts = <const char *>line + tail
    if (
        who is None
        or line.id_size > LONGEST_ID
        or line.source >= len(SOURCES)
        or tail + line.label_size + line.code_size > line.length
    ):
        raise Damaged(offset)
    cdef str id = PyUnicode_DecodeUTF8(line.id, line.id_size, "replace")
    cdef str label = id
    cdef str code = None
    if line.label_size:
        label = PyUnicode_DecodeUTF8(texts, line.label_size, "replace")
    if line.code_size:
        code = PyUnicode_DecodeUTF8(texts + line.label_size, line.code_size, "replace")
    return (
        id, label, line.created_at, who[0], who[1], who[2], who[3], who[4], who[5], who[6], who[7],
        who[8], line.status, line.attempts, line.flags & 1, input, output, cached, cache_write,
        reasoning, nano, SOURCES[line.source], duration_ms, None if ttft_ms < 0 else ttft_ms,
        overhead_us, code,
    )
