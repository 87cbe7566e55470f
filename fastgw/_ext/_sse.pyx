# cython: embedsignature=True
"""Pass a provider's event stream on, whole events at a time, and note what it reports.

The twin is pure/sse.py. Events are found as the WHATWG standard says (lines end with LF, CRLF or
CR, a blank line ends an event); their bytes go on unchanged. However a stream is cut, a byte is
searched for line ends once, and its event is read once when it is complete: the payload's strings
are passed one after the other. Nothing is decoded unless a member "usage" or "error" holds
something, and only that decoding (payload.py) says what was found.

What is text: string values of the members named in TEXT, at any depth, and the "name" of a tool
call, which stands for the call's own cost too. Payloads whose "type" begins with "response." or
"transcript." (OpenAI Responses and transcriptions) repeat in later events what their "delta" told
before, so there only "delta" counts. A stream is complete when [DONE] was seen, or an event whose
"type" says so (payload.py names them). Arrays that repeat or quote are passed over:
"reasoning_details" (OpenRouter), "annotations", "executed_tools" (Groq), "tools" (Responses).

Knows bytes only; no I/O.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from fastgw._ext._estimate cimport Meter, meter_json, meter_tokens
from fastgw._ext._scan cimport (
    FINE,
    Names,
    Verdict,
    close_quote,
    compiled_names,
    find_byte,
    skip_container,
    skip_space,
)

from fastgw._ext import weights
from fastgw._ext.payload import ENDS, ERRORS, judge

TEXT = frozenset(
    b"content reasoning_content reasoning text arguments refusal partial_json thinking".split()
)
"""Members whose string values are delivered text."""
KEPT = 32 * 1024
"""Bytes of text that a tap keeps."""


class EventTooLarge(ValueError):
    """An event exceeds the limit. `passed` is what was complete before it in the same bytes."""

    def __init__(self, passed: bytes) -> None:
        super().__init__("event too large")
        self.passed = passed


cdef enum:
    # What a member means.
    IS_TEXT
    IS_DELTA
    IS_NAME
    IS_TYPE
    IS_USAGE
    IS_ERROR
    IS_PASSED_OVER

cdef enum:
    # What was seen in a payload.
    HAS_CONTENT = 1
    HAS_USAGE = 2
    HAS_ERROR = 4
    HAS_END = 8
    JUDGED = HAS_USAGE | HAS_ERROR | HAS_END

cdef enum:
    # Which strings of a payload are text.
    ANY_TEXT
    DELTA_ONLY
    BINARY_DELTA

cdef dict MEANINGS = dict.fromkeys(TEXT, IS_TEXT) | {
    b"delta": IS_DELTA,
    b"name": IS_NAME,
    b"type": IS_TYPE,
    b"usage": IS_USAGE,
    b"error": IS_ERROR,
    b"reasoning_details": IS_PASSED_OVER,
    b"annotations": IS_PASSED_OVER,
    b"executed_tools": IS_PASSED_OVER,
    b"tools": IS_PASSED_OVER,
}
cdef dict LAST_TYPES = {kind.encode(): HAS_END for kind in ENDS} | {
    kind.encode(): HAS_ERROR for kind in ERRORS
}
cdef Py_ssize_t MOST_KEPT = KEPT
cdef int PER_CALL = weights.PER_ANSWER_CALL
cdef Names MEMBERS = compiled_names(frozenset(MEANINGS))
cdef int MEANING[64]
cdef Names TYPES = compiled_names(frozenset(LAST_TYPES))
cdef int MARK[64]
# By length, the first letters of the members: most keys of a chunk need no closer look.
cdef unsigned int INITIALS[32]


cdef int fill_meanings() except -1:
    cdef int index
    for index in range(32):
        INITIALS[index] = 0
    for index, name in enumerate(MEMBERS.keys):
        MEANING[index] = MEANINGS[name]
        INITIALS[len(name)] |= 1U << (name[0] & 31)
    for index, name in enumerate(TYPES.keys):
        MARK[index] = LAST_TYPES[name]
    return 0


fill_meanings()


cdef struct LineEnds:
    # The next LF and CR at or behind the place last asked for; the end when there is none.
    const unsigned char *lf
    const unsigned char *cr


cdef inline const unsigned char *line_end(
    LineEnds *ends, const unsigned char *at, const unsigned char *end
) noexcept nogil:
    """Find where the line at `at` ends. Linear over all calls: a far LF or CR is remembered."""
    if ends.lf < at:
        ends.lf = find_byte(at, end, c'\n')
        if ends.lf == NULL:
            ends.lf = end
    if ends.cr < at:
        ends.cr = find_byte(at, end, c'\r')
        if ends.cr == NULL:
            ends.cr = end
    return ends.lf if ends.lf < ends.cr else ends.cr


cdef inline const unsigned char *next_line(
    const unsigned char *at, const unsigned char *end
) noexcept nogil:
    """Pass the line end at `at`."""
    if at[0] == c'\r' and at + 1 < end and at[1] == c'\n':
        return at + 2
    return at + 1


cdef inline bint is_field(
    const unsigned char *line, const unsigned char *end, const char *name, Py_ssize_t size
) noexcept nogil:
    """Tell whether a line is the field `name`, with or without a value."""
    return (
        end - line >= size
        and memcmp(line, name, size) == 0
        and (end - line == size or line[size] == c':')
    )


cdef inline const unsigned char *field_value(
    const unsigned char *line, const unsigned char *end, Py_ssize_t size
) noexcept nogil:
    """Give where the value of a field with a name of `size` begins; one space is not part of it."""
    line += size + 1
    if line >= end:
        return end
    return line + 1 if line[0] == c' ' else line


cdef inline bint is_done(const unsigned char *at, const unsigned char *end) noexcept nogil:
    """Tell the payload [DONE]."""
    at = skip_space(at, end)
    return end - at >= 6 and memcmp(at, b"[DONE]", 6) == 0 and skip_space(at + 6, end) == end


cdef int text_mode(const unsigned char *kind, const unsigned char *end) noexcept nogil:
    """Tell by the value of "type" which strings of the payload are text."""
    cdef Py_ssize_t size = end - kind
    if size >= 9 and memcmp(kind, b"response.", 9) == 0:
        if size >= 20 and memcmp(end - 11, b"audio.delta", 11) == 0:
            return BINARY_DELTA
        return DELTA_ONLY
    if size >= 11 and memcmp(kind, b"transcript.", 11) == 0:
        return DELTA_ONLY
    return ANY_TEXT


cdef inline int type_mark(const unsigned char *kind, const unsigned char *end) noexcept:
    """Tell by the value of "type" whether the payload may end the stream."""
    cdef bint exact = False
    cdef int index = TYPES.find(kind, end - kind, &exact)
    return MARK[index] if index >= 0 and exact else 0


cdef class Tap:
    """A stream's tap: feed() bytes as they come, pass on what it gives, finish() at the end.

    `usage` and `first_usage` are the payloads of the last and the first event that held a member
    "usage" that is an object, `error` the first that is an in-stream error; `done` says that the
    stream told its own end. With `drop_usage` the event whose "choices" is empty and whose "usage"
    is an object is noted but not passed on.
    """

    def __cinit__(self, bint drop_usage=False, Py_ssize_t limit=1 << 20):
        if limit < 1:
            raise ValueError("an event needs a byte at least")
        self.drop_usage = drop_usage
        self.limit = limit
        self.meter = Meter(0, 0, 0)
        self.kept = Kept(0, 0, -1)
        self.place = Place(0, 0, 0, -1)
        self.fresh = True

    def __dealloc__(self):
        free(self.tail)
        free(self.text)

    @property
    def started(self) -> bool:
        """An event with content was passed on."""
        return self.content_events > 0

    @property
    def text_tokens(self) -> int:
        """The estimated tokens of all text that was passed on."""
        return meter_tokens(&self.meter)

    @property
    def kept_text(self) -> bytes:
        """The same text as it stands in the JSON strings, at most `KEPT` bytes of it."""
        return PyBytes_FromStringAndSize(<char *>self.text, self.kept.size)

    @property
    def kept_tokens(self) -> int:
        """The estimated tokens of `kept_text`."""
        return self.text_tokens if self.kept.tokens < 0 else self.kept.tokens

    @property
    def calls(self) -> int:
        """How many tool calls the text holds."""
        return self.kept.calls

    cpdef object feed(self, bytes data):
        """Take bytes; give those that end whole events, or None. EventTooLarge once and for all."""
        cdef Py_ssize_t size = len(data)
        cdef const unsigned char *base = data
        cdef Py_ssize_t kept = 0
        if self.overflowed:
            raise EventTooLarge(b"")
        if size == 0:
            return None
        if self.tail_size:
            self.keep_tail(base, size)
            return self.pass_events(None, self.tail, self.tail_size, 0)
        self.place = Place(0, 0, 0, -1)
        if self.after_cr:
            self.after_cr = False
            if base[0] == c'\n':
                self.place = Place(1, 1, 1, -1)
                kept = 1 if self.dropped else 0
        return self.pass_events(data, base, size, kept)

    cpdef bytes finish(self):
        """Give what is left of an incomplete event; one that only lacks its blank line counts."""
        if self.tail_size == 0:
            return b""
        cdef bytes rest = PyBytes_FromStringAndSize(<char *>self.tail, self.tail_size)
        self.closing = True
        cdef bint dropped = self.take_lines(self.tail, self.tail + self.tail_size)
        free(self.tail)
        self.tail = NULL
        self.tail_size = self.tail_room = 0
        return b"" if dropped else rest

    cdef object pass_events(
        self, bytes data, const unsigned char *base, Py_ssize_t size, Py_ssize_t kept
    ):
        # `data` is the object behind `base`, None when that is the tail; bytes before `kept` are
        # dealt with.
        cdef Place place = self.place
        cdef LineEnds ends = LineEnds(NULL, NULL)
        cdef Py_ssize_t at, after
        cdef list pieces = None
        while True:
            if (
                place.seen == place.line and place.event < place.line < size
                and base[place.line] == c'\n' and base[place.line - 1] == c'\r'
            ):
                # The LF of a CRLF whose CR has ended the line before.
                place.line += 1
                place.seen += 1
            at = line_end(&ends, base + place.seen, base + size) - base
            if at == size:
                place.seen = size
                break
            if at > place.line:
                if place.first < 0:
                    place.first = at
                place.line = place.seen = at + 1
                continue
            if place.line - place.event > self.limit:
                self.overflow(pieces, base + kept, place.event - kept)
            after = next_line(base + at, base + size) - base
            self.after_cr = after == size and base[at] == c'\r'
            self.dropped = False
            if place.line > place.event:
                self.dropped = self.take_event(
                    base + place.event, base + place.first, base + place.line
                )
            if self.dropped:
                pieces = pieces or []
                pieces.append(PyBytes_FromStringAndSize(<char *>base + kept, place.event - kept))
                kept = after
            self.fresh = False
            place = Place(after, after, after, -1)
        if size - place.event > self.limit:
            self.overflow(pieces, base + kept, place.event - kept)
        self.place = place
        if data is not None and place.event == size and kept == 0:
            return data
        cdef object passed = None
        if place.event > kept:
            passed = PyBytes_FromStringAndSize(<char *>base + kept, place.event - kept)
        if pieces is not None:
            if passed is not None:
                pieces.append(passed)
            passed = b"".join(pieces) or None
        if data is None:
            self.forget_head()
        elif place.event < size:
            self.keep_tail(base + place.event, size - place.event)
            self.place.line -= place.event
            self.place.seen -= place.event
            if place.first >= 0:
                self.place.first -= place.event
            self.place.event = 0
        return passed

    cdef int keep_tail(self, const unsigned char *start, Py_ssize_t size) except -1:
        """Add bytes to the tail; room doubles, so that any cut of a stream stays linear."""
        cdef Py_ssize_t room = self.tail_room if self.tail_room else 512
        cdef unsigned char *tail = self.tail
        while room < self.tail_size + size:
            room *= 2
        if room != self.tail_room:
            tail = <unsigned char *>realloc(self.tail, room)
            if tail == NULL:
                raise MemoryError
            self.tail = tail
            self.tail_room = room
        memcpy(tail + self.tail_size, start, size)
        self.tail_size += size
        return 0

    cdef int forget_head(self) except -1:
        """Leave in the tail only the open event; give memory back when there is none."""
        cdef Py_ssize_t head = self.place.event
        cdef Py_ssize_t rest = self.tail_size - head
        cdef unsigned char *tail
        if head == 0:
            return 0
        if rest == 0:
            free(self.tail)
            self.tail = NULL
            self.tail_size = self.tail_room = 0
            return 0
        tail = self.tail
        self.tail = NULL
        self.tail_size = self.tail_room = 0
        try:
            self.keep_tail(tail + head, rest)
        finally:
            free(tail)
        self.place.event = 0
        self.place.line -= head
        self.place.seen -= head
        if self.place.first >= 0:
            self.place.first -= head
        return 0

    cdef int overflow(self, list pieces, const unsigned char *start, Py_ssize_t size) except -1:
        """Give up on the stream: raise, with what was complete."""
        cdef bytes passed = PyBytes_FromStringAndSize(<char *>start, size)
        self.overflowed = True
        free(self.tail)
        self.tail = NULL
        self.tail_size = self.tail_room = 0
        raise EventTooLarge(b"".join(pieces or []) + passed)

    cdef int take_event(
        self, const unsigned char *start, const unsigned char *first, const unsigned char *end
    ) except -1:
        """Read a complete event whose first line ends at `first`; true when it is to be dropped."""
        if next_line(first, end) == end and not self.fresh:
            # One line, nearly always.
            if is_field(start, first, b"data", 4):
                return self.take_payload(field_value(start, first, 4), first, False)
            return 0
        return self.take_lines(start, end)

    cdef int take_lines(self, const unsigned char *start, const unsigned char *end) except -1:
        """Read the lines of one event; several data lines are one payload, joined by LF."""
        cdef LineEnds ends = LineEnds(NULL, NULL)
        cdef const unsigned char *line = start
        cdef const unsigned char *stop
        cdef const unsigned char *value = NULL
        cdef const unsigned char *value_end = NULL
        cdef list more = None
        cdef bint error_event = False
        if self.fresh and end - line >= 3 and memcmp(line, b"\xef\xbb\xbf", 3) == 0:
            line += 3
        while line < end:
            stop = line_end(&ends, line, end)
            if is_field(line, stop, b"data", 4):
                if value != NULL:
                    more = more or []
                    more.append(PyBytes_FromStringAndSize(<char *>value, value_end - value))
                value = field_value(line, stop, 4)
                value_end = stop
            elif is_field(line, stop, b"event", 5):
                line = field_value(line, stop, 5)
                error_event = stop - line == 5 and memcmp(line, b"error", 5) == 0
            if stop == end:
                break
            line = next_line(stop, end)
        if value == NULL:
            return 0
        if more is None:
            return self.take_payload(value, value_end, error_event)
        more.append(PyBytes_FromStringAndSize(<char *>value, value_end - value))
        cdef bytes joined = b"\n".join(more)
        value = joined
        return self.take_payload(value, value + len(joined), error_event)

    cdef int take_payload(
        self, const unsigned char *start, const unsigned char *end, bint error_event
    ) except -1:
        """Note what a payload reports; true when its event is to be dropped."""
        cdef bytes payload
        if is_done(start, end):
            self.done = True
            return 0
        if self.closing:
            payload = PyBytes_FromStringAndSize(<char *>start, end - start)
            if not judge(payload).whole:
                return 0
        cdef Meter before = self.meter
        cdef Kept kept = self.kept
        cdef int marks = self.read_members(start, end)
        if marks & HAS_CONTENT:
            self.content_events += 1
        if not error_event and marks & JUDGED == 0:
            return 0
        payload = PyBytes_FromStringAndSize(<char *>start, end - start)
        if self.take_marked(payload, marks, error_event):
            self.meter = before
            self.kept = kept
            if marks & HAS_CONTENT:
                self.content_events -= 1
            return 1
        return 0

    cdef int read_members(self, const unsigned char *start, const unsigned char *end) noexcept:
        """Meter the text of a payload, string by string; say what else it seems to hold."""
        cdef Meter before = self.meter
        cdef Kept kept = self.kept
        cdef const unsigned char *at = start
        cdef const unsigned char *key
        cdef const unsigned char *quote
        cdef int marks = 0, mode = ANY_TEXT, index, meaning
        cdef bint exact = False
        cdef Verdict verdict = FINE
        while True:
            at = find_byte(at, end, c'"')
            if at == NULL:
                return marks
            key = at + 1
            quote = close_quote(key, end)
            if quote == NULL:
                return marks
            at = skip_space(quote + 1, end)
            if at == end:
                return marks
            if at[0] != c':':
                continue
            at += 1
            if quote - key > 31 or not INITIALS[quote - key] >> (key[0] & 31) & 1:
                continue
            index = MEMBERS.find(key, quote - key, &exact)
            if index < 0 or not exact:
                continue
            at = skip_space(at, end)
            if at == end:
                return marks
            meaning = MEANING[index]
            if meaning == IS_USAGE:
                if at[0] == c'{':
                    marks |= HAS_USAGE
                continue
            if meaning == IS_PASSED_OVER:
                if at[0] == c'[':
                    quote = skip_container(at, end, 1, &verdict)
                    if quote != NULL:
                        at = quote
                continue
            if meaning == IS_ERROR and at[0] == c'{':
                marks |= HAS_ERROR
            if at[0] != c'"':
                continue
            key = at + 1
            quote = close_quote(key, end)
            if quote == NULL:
                return marks
            at = quote + 1
            if quote == key:
                continue
            if meaning == IS_ERROR:
                marks |= HAS_ERROR
            elif meaning == IS_TYPE:
                marks |= type_mark(key, quote)
                if mode == ANY_TEXT:
                    mode = text_mode(key, quote)
                    if mode != ANY_TEXT and marks & HAS_CONTENT:
                        # The type came behind the text: once more, knowing it.
                        marks &= ~HAS_CONTENT
                        self.meter = before
                        self.kept = kept
                        at = start
            elif meaning == IS_DELTA or mode == ANY_TEXT:
                marks |= HAS_CONTENT
                if meaning == IS_NAME:
                    self.meter.units += PER_CALL
                    self.kept.calls += 1
                if mode != BINARY_DELTA:
                    if self.kept.tokens < 0:
                        self.keep_text(key, quote - key)
                    meter_json(&self.meter, key, quote)

    cdef int keep_text(self, const unsigned char *start, Py_ssize_t size) noexcept:
        """Keep text for who counts it exactly; what is too much is left to the estimate."""
        cdef Py_ssize_t room = self.text_room if self.text_room else 256
        cdef void *text
        while room < self.kept.size + size and room < MOST_KEPT:
            room *= 2
        if room > self.text_room:
            text = realloc(self.text, room)
            if text != NULL:
                self.text = <unsigned char *>text
                self.text_room = room
        if self.kept.size + size > self.text_room:
            self.kept.tokens = meter_tokens(&self.meter)
            return 0
        memcpy(self.text + self.kept.size, start, size)
        self.kept.size += size
        return 0

    cdef int take_marked(self, bytes payload, int marks, bint error_event) except -1:
        """Decode a payload that seems to tell more than text; true when it is to be dropped."""
        cdef bint drop = False
        if error_event and self.error is None:
            self.error = payload
        if marks & JUDGED:
            verdict = judge(payload)
            if verdict.usage:
                self.usage = payload
                if self.first_usage is None:
                    self.first_usage = payload
            if verdict.error and self.error is None:
                self.error = payload
            if verdict.end:
                self.done = True
            drop = self.drop_usage and verdict.extra
        return drop


def read_text(bytes payload not None):
    """Give a tap that has taken the text in one payload, or in a whole JSON answer."""
    cdef Tap tap = Tap()
    cdef const unsigned char *start = payload
    tap.read_members(start, start + len(payload))
    return tap


def text_tokens(bytes payload not None):
    """Estimate the tokens of the text in one payload, or in a whole JSON answer."""
    return read_text(payload).text_tokens
