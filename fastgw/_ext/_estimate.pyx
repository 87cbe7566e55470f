# cython: embedsignature=True
"""Estimate tokens by runs of character kinds. The twin is pure/estimate.py, the data weights.py.

A tokenizer of the GPT family cuts text into words, numbers, punctuation and spaces before it looks
at letters; so the length of each such run tells most of its cost. One pass, no allocation; knows
bytes only.
"""

cimport cython
from libc.string cimport memchr, memcmp, memset

from fastgw._ext._scan cimport (
    MAX_DEPTH,
    Names,
    close_quote,
    compiled_names,
    count_lower,
    skip_space,
)

from fastgw._ext import weights

cdef extern from *:
    """
    typedef struct { size_t high, space, lower; } fgw_mix;

    /* Counted by sixteen at a time, which needs small counters and this compiler's best. */
    #if defined(__GNUC__) && !defined(__clang__)
    __attribute__((optimize("O3")))
    #endif
    static void
    fgw_tally(const unsigned char *at, size_t size, fgw_mix *mix)
    {
        while (size) {
            size_t block = size < 128 ? size : 128;
            unsigned char high = 0, space = 0, lower = 0;
            for (size_t i = 0; i < block; i++) {
                high += at[i] >> 7;
                space += at[i] == ' ';
                lower += (unsigned char)(at[i] - 'a') < 26;
            }
            mix->high += high;
            mix->space += space;
            mix->lower += lower;
            at += block;
            size -= block;
        }
    }
    """
    ctypedef struct Mix "fgw_mix":
        size_t high
        size_t space
        size_t lower
    void tally "fgw_tally"(const unsigned char *at, size_t size, Mix *mix) noexcept nogil

cdef enum:
    NONE = 0
    LOWER = 1
    UPPER = 2
    DIGIT = 3
    SPACE = 4
    NEWLINE = 5
    AFTER = 6
    PUNCT = 7
    LATIN = 8
    EMOJI = 16
    KINDS = 17
    CAP = 16

    TALK = 1
    TOOLS = 2
    SCHEMA = 3

    # What a member of a message means.
    TEXT = 0
    UNCOUNTED = 1
    OPAQUE = 2
    MEDIUM = 4
    CALL = 8

    LONG = 8192
    STRIDE = 4096
    WINDOW = 512

cdef unsigned char KIND[256]
cdef int COST[KINDS][CAP]
cdef int SLOPE[KINDS]
cdef int SPACES[KINDS][2]
cdef int LATIN_EXTRA = weights.LATIN_EXTRA
cdef int PER_NUMBER = 100 * weights.PER_NUMBER
cdef int SCHEMA_DEPTH = weights.SCHEMA_DEPTH
cdef int MESSAGE_DEPTH = weights.MESSAGE_DEPTH

cdef Names SECTION_NAMES = compiled_names(frozenset(weights.SECTIONS))
cdef Names MEMBER_NAMES = compiled_names(
    weights.UNCOUNTED | weights.OPAQUE | weights.MEDIA | {weights.CALL}
)
cdef int SECTION[64]
cdef int MEMBER[64]


assert (LONG, STRIDE, WINDOW) == (weights.LONG, weights.STRIDE, weights.WINDOW)


cdef int fill_tables() except -1:
    cdef int kind, count
    assert weights.KINDS == KINDS and weights.CAP == CAP and weights.EMOJI == EMOJI
    for count in range(256):
        KIND[count] = weights.KIND[count]
    for kind in range(KINDS):
        row, slope = weights.RUN.get(kind, ([0] * CAP, 0))
        for count in range(CAP):
            COST[kind][count] = row[count]
        SLOPE[kind] = slope
        SPACES[kind][0], SPACES[kind][1] = weights.SPACE_BEFORE.get(
            kind, weights.SPACE_BEFORE_WORD
        )
    for count, name in enumerate(SECTION_NAMES.keys):
        SECTION[count] = weights.SECTIONS[name]
    for count, name in enumerate(MEMBER_NAMES.keys):
        MEMBER[count] = (
            UNCOUNTED * (name in weights.UNCOUNTED) | OPAQUE * (name in weights.OPAQUE)
            | MEDIUM * (name in weights.MEDIA) | CALL * (name == weights.CALL)
        )
    return 0


fill_tables()


cdef inline long long run_cost(int kind, Py_ssize_t run, int following) noexcept nogil:
    if kind == SPACE:
        return SPACES[following][run > 1]
    if run < CAP:
        return COST[kind][run]
    return COST[kind][CAP - 1] + (run - CAP + 1) * SLOPE[kind]


cdef inline int hex_digit(unsigned char byte) noexcept nogil:
    if c'0' <= byte <= c'9':
        return byte - c'0'
    if c'a' <= byte | 0x20 <= c'f':
        return (byte | 0x20) - c'a' + 10
    return -1


cdef Py_ssize_t escaped_kind(
    const unsigned char *at, const unsigned char *end, int *kind
) noexcept nogil:
    """Tell the kind of the character that the escape at a backslash stands for, and its size."""
    cdef int point = 0, digit, count
    kind[0] = PUNCT
    if end - at < 2:
        return 1
    if at[1] == c'n' or at[1] == c'r':
        kind[0] = NEWLINE
    elif at[1] == c't':
        kind[0] = SPACE
    if at[1] != c'u' or end - at < 6:
        return 2
    for count in range(2, 6):
        digit = hex_digit(at[count])
        if digit < 0:
            return 2
        point = point << 4 | digit
    if point < 0x80:
        kind[0] = KIND[point]
    elif point < 0x800:
        kind[0] = KIND[0xC0 | point >> 6]
    elif 0xD800 <= point <= 0xDFFF:
        kind[0] = EMOJI if point < 0xDC00 else NONE
    else:
        kind[0] = KIND[0xE0 | point >> 12]
    return 6


cdef inline void take(
    Meter *meter, const unsigned char *at, const unsigned char *end, bint escaped
) noexcept nogil:
    """Take characters; `escaped` text is what stands between the quotes of a JSON string."""
    cdef unsigned long long units = meter.units
    cdef Py_ssize_t run = meter.run, count
    cdef int open_kind = meter.kind
    cdef int kind
    while at < end:
        kind = KIND[at[0]]
        count = 1
        if kind == LOWER:
            count = count_lower(at, end)
            at += count
        elif escaped and at[0] == c'\\':
            at += escaped_kind(at, end, &kind)
        else:
            at += 1
        if kind == open_kind:
            run += count
            continue
        if kind == NONE:
            continue
        if kind == LATIN:
            units += LATIN_EXTRA
            kind = LOWER
            if open_kind == LOWER:
                run += 1
                continue
        if kind == NEWLINE:
            if open_kind == AFTER:
                run += 1
                continue
            if open_kind == PUNCT:
                kind = AFTER
        elif kind == LOWER and open_kind == UPPER:
            # "Word" is one run; of "HTTPServer" the last capital goes with the word behind it.
            run -= 1
            count += 1
        units += run_cost(open_kind, run, kind)
        open_kind = kind
        run = count
    meter.units = units
    meter.run = run
    meter.kind = open_kind


cdef void meter_text(
    Meter *meter, const unsigned char *at, const unsigned char *end
) noexcept nogil:
    """Take UTF-8 text; it may be cut anywhere."""
    take(meter, at, end, False)


cdef void meter_json(
    Meter *meter, const unsigned char *at, const unsigned char *end
) noexcept nogil:
    """Take the text between the quotes of a JSON string, escapes undone."""
    take(meter, at, end, True)


cdef void meter_close(Meter *meter) noexcept nogil:
    """End the open run, so that the next text does not join it."""
    meter.units += run_cost(meter.kind, meter.run, NONE)
    meter.kind = NONE
    meter.run = 0


cdef unsigned long long meter_tokens(const Meter *meter) noexcept nogil:
    """Give whole tokens, rounded up, the open run included."""
    return (meter.units + run_cost(meter.kind, meter.run, NONE) + 99) // 100


cdef bint is_even(const Mix *part, size_t seen, const Mix *whole, size_t size) noexcept nogil:
    """Tell whether a text is mixed like the part of it that was seen, give or take."""
    cdef double scale = <double>size / seen
    cdef size_t slack = size // 50
    return (
        whole.high <= part.high * scale * 1.25 + slack
        and part.space * scale * 0.75 - slack <= whole.space <= part.space * scale * 1.33 + slack
        and part.lower * scale * 0.85 - slack <= whole.lower
    )


cdef void meter_string(
    Meter *meter, const unsigned char *at, const unsigned char *end
) noexcept nogil:
    """Take what stands between the quotes of a whole JSON string; of a long one, samples.

    Unless the rest is another kind of text, of which counting a few characters tells.
    """
    cdef Meter sample = Meter(0, 0, NONE)
    cdef Mix part = Mix(0, 0, 0)
    cdef Mix whole = Mix(0, 0, 0)
    cdef Py_ssize_t size = end - at, seen = 0, start = 0, window
    if size >= LONG:
        while start < size:
            window = WINDOW if WINDOW < size - start else size - start
            meter_json(&sample, at + start, at + start + window)
            meter_close(&sample)
            tally(at + start, window, &part)
            seen += window
            start += STRIDE
        tally(at, size, &whole)
        if is_even(&part, seen, &whole, size):
            meter.units += sample.units * size // seen
            return
    meter_json(meter, at, end)
    meter_close(meter)


def text(bytes data not None):
    """Estimate the tokens of UTF-8 text."""
    cdef Meter meter = Meter(0, 0, NONE)
    cdef const unsigned char *start = data
    meter_text(&meter, start, start + len(data))
    return meter_tokens(&meter)


cdef bint is_data_url(const unsigned char *at, const unsigned char *end) noexcept nogil:
    """Tell `data:image/png;base64,...`: a comma within 128 bytes, no space before it."""
    cdef const unsigned char *comma
    if end - at < 6 or memcmp(at, b"data:", 5) != 0:
        return False
    comma = <const unsigned char *>memchr(at, c',', 128 if end - at > 128 else end - at)
    return comma != NULL and memchr(at, c' ', comma - at) == NULL


cdef struct Walk:
    # Where in the body the walk is.
    Meter meter  # of the string at hand
    unsigned long long units  # ten-thousandths of a token
    const Rates *rates
    int section
    int member  # what the key means whose value is read
    int medium  # how deep the medium's key stands that is being read, or 0
    int depth
    bint talked
    bint tooled
    bint shaped
    unsigned char arrays[102]  # by depth: is it an array


cdef void walk_key(
    Walk *walk, const unsigned char *key, const unsigned char *end
) noexcept:
    cdef const Rates *rates = walk.rates
    cdef bint exact = False
    cdef int index
    if walk.depth == 1:
        index = SECTION_NAMES.find(key, end - key, &exact)
        walk.section = SECTION[index] if index >= 0 and exact else 0
        walk.member = TEXT
        if walk.section == TALK and not walk.talked:
            walk.talked = True
            walk.units += rates.prompt
    elif walk.section == TALK:
        index = MEMBER_NAMES.find(key, end - key, &exact)
        walk.member = MEMBER[index] if index >= 0 and exact else TEXT
        if walk.member & CALL:
            walk.units += rates.call
        if walk.member & MEDIUM and (walk.medium == 0 or walk.depth <= walk.medium):
            # Inside of one, the same names tell more of it.
            walk.units += rates.medium
            walk.medium = walk.depth
    elif walk.section == TOOLS:
        walk.units += rates.tool_key
        if not walk.tooled:
            walk.tooled = True
            walk.units += rates.toolset
    elif walk.section == SCHEMA and walk.depth >= SCHEMA_DEPTH:
        walk.units += rates.schema_key
        if not walk.shaped:
            walk.shaped = True
            walk.units += rates.schema


cdef void walk_string(
    Walk *walk, const unsigned char *at, const unsigned char *end
) noexcept:
    cdef const Rates *rates = walk.rates
    cdef unsigned long long rate = rates.text
    if walk.section == 0 or (walk.section == SCHEMA and walk.depth < SCHEMA_DEPTH):
        return
    if walk.section == TALK:
        if walk.depth == 1:
            walk.units += rates.message
        if walk.member & OPAQUE:
            walk.units += rates.opaque * (end - at)
            return
        if walk.member & UNCOUNTED or is_data_url(at, end):
            return
    else:
        rate = rates.tool_text if walk.section == TOOLS else rates.schema_text
    meter_string(&walk.meter, at, end)
    walk.units += walk.meter.units * rate
    walk.meter.units = 0


def prompt(bytes body not None):
    """Estimate the prompt tokens of a JSON request body by the rules of OpenAI's models."""
    return prompt_tokens(body, len(body), &OPENAI)


cdef unsigned long long prompt_tokens(
    const unsigned char *at, Py_ssize_t size, const Rates *rates
) noexcept:
    cdef const unsigned char *end = at + size
    cdef const unsigned char *start
    cdef unsigned char byte
    cdef Walk walk
    walk.meter = Meter(0, 0, NONE)
    walk.units = 0
    walk.rates = rates
    walk.section = walk.depth = walk.medium = 0
    walk.member = TEXT
    walk.talked = walk.tooled = walk.shaped = False
    walk.arrays[0] = False
    while at < end:
        byte = at[0]
        if byte == c'"':
            start = at + 1
            at = close_quote(start, end)
            if at == NULL:
                break
            if not walk.arrays[walk.depth]:
                byte = 0
                if skip_space(at + 1, end) < end:
                    byte = skip_space(at + 1, end)[0]
                if byte == c':':
                    walk_key(&walk, start, at)
                else:
                    walk_string(&walk, start, at)
            else:
                walk_string(&walk, start, at)
        elif byte == c'{' or byte == c'[':
            if walk.depth == MAX_DEPTH:
                break
            walk.depth += 1
            walk.arrays[walk.depth] = byte == c'['
            if byte == c'{' and walk.depth == MESSAGE_DEPTH and walk.section == TALK:
                walk.units += rates.message
        elif byte == c'}' or byte == c']':
            if walk.depth:
                walk.depth -= 1
            walk.member = TEXT
            if walk.depth < walk.medium:
                walk.medium = 0
        elif walk.section == TALK and walk.arrays[walk.depth] and c'0' <= byte <= c'9':
            walk.units += PER_NUMBER
            while at + 1 < end and c'0' <= (at + 1)[0] <= c'9':
                at += 1
        at += 1
    return (walk.units + 9999) // 10000


cdef Rates OPENAI = rates_of(weights.Overheads())


cdef Rates rates_of(given) except *:
    """Take overheads over as C integers, all in ten-thousandths of a token."""
    cdef Rates rates
    rates.text, rates.tool_text, rates.schema_text = (
        given.text, given.tool_text, given.schema_text
    )
    rates.prompt, rates.message, rates.call, rates.toolset, rates.tool_key = (
        100 * given.prompt, 100 * given.message, 100 * given.call, 100 * given.toolset,
        100 * given.tool_key,
    )
    rates.schema, rates.schema_key, rates.medium, rates.opaque = (
        100 * given.schema, 100 * given.schema_key, 100 * given.medium, 100 * given.opaque,
    )
    return rates


# -- correction ---------------------------------------------------------------------------------

cdef long long RATIO[RATIOS]
cdef long long WHOLE = weights.RATIO_WHOLE
cdef unsigned int RATIO_MOST = weights.RATIO_MOST
cdef long long RATIO_LEAST = weights.RATIO_LEAST
cdef int RATIO_FIRST = weights.RATIO_FIRST
cdef int RATIO_EVEN = weights.RATIO_EVEN
cdef unsigned int RATIO_PRIOR = weights.RATIO_PRIOR
cdef long long RATIO_RANGE = weights.RATIO_RANGE

assert len(weights.RATIOS) == RATIOS
for _index, _edge in enumerate(weights.RATIOS):
    RATIO[_index] = _edge


@cython.final
cdef class Family:
    def __cinit__(self, overheads=None):
        self.rates = rates_of(weights.Overheads() if overheads is None else overheads)
        memset(self.counts, 0, sizeof(self.counts))
        self.counts[RATIO_FIRST] = self.total = self.bound = 1
        self.ratio = RATIO[RATIO_FIRST]
        self.middle = WHOLE

    def prompt(self, bytes body not None):
        """Estimate the prompt tokens of a JSON request body: messages, tools, schemas.

        Data URLs and other binary members do not count by their bytes. Never raises: of a body that
        is not JSON, or over 100 deep, what was read counts.
        """
        return prompt_tokens(body, len(body), &self.rates)

    cdef long long estimate(self, const unsigned char *body, Py_ssize_t size) noexcept:
        return prompt_tokens(body, size, &self.rates)

    cpdef void observe(self, long long estimated, long long actual) noexcept:
        """Learn from one prompt: what was estimated, what the provider counted."""
        cdef int bucket = 0
        if estimated < RATIO_LEAST or actual < 1:
            return
        estimated = min(estimated, RATIO_RANGE)
        actual = min(actual, RATIO_RANGE)
        while bucket < RATIOS - 1 and actual * WHOLE > estimated * RATIO[bucket]:
            bucket += 1
        self.counts[bucket] += 1
        self.total += 1
        if self.total > RATIO_MOST:
            self.total = self.bound = 0
            for bucket in range(RATIOS):
                self.counts[bucket] >>= 1
                self.total += self.counts[bucket]
        self.ratio = RATIO[self.bucket_above(self.total // 1000)]
        self.counts[RATIO_FIRST] -= self.bound
        self.counts[RATIO_EVEN] += RATIO_PRIOR
        bucket = self.bucket_above((self.total - self.bound + RATIO_PRIOR) // 2)
        self.counts[RATIO_EVEN] -= RATIO_PRIOR
        self.counts[RATIO_FIRST] += self.bound
        # The end of the class that is nearer to 1: what is estimated well is left as it is.
        self.middle = RATIO[bucket if bucket <= RATIO_EVEN else bucket - 1]

    cdef int bucket_above(self, unsigned int part) noexcept:
        """Give the class that has no more than `part` of what was seen above it."""
        cdef int bucket = RATIOS - 1
        cdef unsigned int above = 0
        while above + self.counts[bucket] <= part:
            above += self.counts[bucket]
            bucket -= 1
        return bucket

    cpdef long long correct(self, long long estimated) noexcept:
        """Give how many tokens the prompt has at most, 999 times in 1,000."""
        return (max(0, min(estimated, RATIO_RANGE)) * self.ratio + WHOLE - 1) // WHOLE

    cpdef long long expect(self, long long estimated) noexcept:
        """Give how many tokens the prompt has most likely, by what was seen so far."""
        return (max(0, min(estimated, RATIO_RANGE)) * self.middle + WHOLE // 2) // WHOLE
