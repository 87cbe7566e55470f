# cython: embedsignature=True
"""Read the tokens a provider reported, and price them. The twin is pure/usage.py.

A usage object is read here as it nearly always comes: objects, arrays, short plain strings, whole
numbers. Whatever else JSON allows (an escape, a fraction where a count should be, a member twice)
and whatever is no JSON goes to the twin, which decodes it and decides.

Knows bytes and integers only.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcmp

from fastgw._ext._scan cimport FINE, Names, Span, compiled_names, find_spans, skip_space

from fastgw._ext.pure import usage as pure

cdef extern from *:
    """
    static inline long long
    fgw_line(long long units, long long price, long long so_far)
    {
        const __int128 most = 0x7fffffffffffffffLL;
        __int128 sum = ((__int128)units * price + 500) / 1000 + so_far;
        return (long long)(sum < most ? sum : most);
    }
    """
    # A price line in nano-dollars, rounded half up, added to a sum that saturates.
    long long add_line "fgw_line"(
        long long units, long long price, long long so_far
    ) noexcept nogil

cdef enum:
    MOST_DIGITS = 18  # what a 64-bit integer holds for sure
    MOST_DEPTH = 8

cdef long long MOST = 1LL << 40
cdef long long ABSENT = -1
cdef long long NONSENSE = -2

cdef enum:
    # The members of a usage object that are counts: places in Raw.counts.
    PROMPT
    INPUT
    COMPLETION
    OUTPUT
    TOTAL
    CACHE_HIT
    NUM_CACHED
    CACHED
    CACHE_READ
    CACHE_CREATION
    COUNTS
    # Those that hold details: places in Raw.details, behind COUNTS.
    PROMPT_DETAILS = COUNTS
    INPUT_DETAILS
    COMPLETION_DETAILS
    OUTPUT_DETAILS
    CREATION_DETAILS
    MEMBERS

cdef enum:
    # Counts in details.
    IN_CACHED
    IN_WRITTEN
    IN_REASONING
    IN_THINKING
    IN_AUDIO
    IN_IMAGES
    IN_HOUR
    IN_ALL

cdef struct Details:
    bint given
    long long counts[7]

cdef struct Raw:
    long long counts[10]
    Details details[5]

cdef dict MEMBER_NAMES = {
    b"prompt_tokens": PROMPT,
    b"input_tokens": INPUT,
    b"completion_tokens": COMPLETION,
    b"output_tokens": OUTPUT,
    b"total_tokens": TOTAL,
    b"prompt_cache_hit_tokens": CACHE_HIT,
    b"num_cached_tokens": NUM_CACHED,
    b"cached_tokens": CACHED,
    b"cache_read_input_tokens": CACHE_READ,
    b"cache_creation_input_tokens": CACHE_CREATION,
    b"prompt_tokens_details": PROMPT_DETAILS,
    b"input_tokens_details": INPUT_DETAILS,
    b"completion_tokens_details": COMPLETION_DETAILS,
    b"output_tokens_details": OUTPUT_DETAILS,
    b"cache_creation": CREATION_DETAILS,
}
cdef dict DETAIL_NAMES = {
    b"cached_tokens": IN_CACHED,
    b"cache_write_tokens": IN_WRITTEN,
    b"reasoning_tokens": IN_REASONING,
    b"thinking_tokens": IN_THINKING,
    b"audio_tokens": IN_AUDIO,
    b"image_tokens": IN_IMAGES,
    b"ephemeral_1h_input_tokens": IN_HOUR,
}
cdef Names MEMBER_KEYS = compiled_names(frozenset(MEMBER_NAMES))
cdef Names DETAIL_KEYS = compiled_names(frozenset(DETAIL_NAMES))
cdef Names HOLDER_KEYS = compiled_names(frozenset((b"usage", b"x_groq", b"response", b"message")))
cdef Names USAGE_KEY = compiled_names(frozenset((b"usage",)))
cdef int MEMBER_OF[64]
cdef int DETAIL_OF[64]
cdef int USAGE_AT
cdef int HOLDERS_AT[3]
cdef unsigned char IS_PLAIN[256]


cdef int fill_tables() except -1:
    global USAGE_AT
    cdef int index
    for index, name in enumerate(MEMBER_KEYS.keys):
        MEMBER_OF[index] = MEMBER_NAMES[name]
    for index, name in enumerate(DETAIL_KEYS.keys):
        DETAIL_OF[index] = DETAIL_NAMES[name]
    USAGE_AT = HOLDER_KEYS.keys.index(b"usage")
    for index, name in enumerate((b"x_groq", b"response", b"message")):
        HOLDERS_AT[index] = HOLDER_KEYS.keys.index(name)
    for index in range(256):
        IS_PLAIN[index] = 0x20 <= index < 0x7F and index != c'"' and index != c'\\'
    return 0


fill_tables()


# Each of the readers below gives the place behind what it read, or NULL: not plain.


cdef inline const unsigned char *pass_string(
    const unsigned char *at, const unsigned char *end
) noexcept nogil:
    """Pass a string's text; gives where its closing quote stands."""
    while at < end and IS_PLAIN[at[0]]:
        at += 1
    if at == end or at[0] != c'"':
        return NULL
    return at


cdef inline const unsigned char *pass_number(
    const unsigned char *at, const unsigned char *end, long long *value
) noexcept nogil:
    """Read a whole number that fits; a negative one is nonsense."""
    cdef const unsigned char *digits
    cdef bint negative = at[0] == c'-'
    cdef long long number = 0
    if negative:
        at += 1
    digits = at
    while at < end and c'0' <= at[0] <= c'9':
        number = number * 10 + (at[0] - c'0')
        at += 1
        if at - digits > MOST_DIGITS:
            return NULL
    if at == digits or digits[0] == c'0' and (at > digits + 1 or negative):
        return NULL
    if at < end and (at[0] == c'.' or at[0] | 0x20 == c'e'):
        return NULL
    value[0] = NONSENSE if negative else number
    return at


cdef const unsigned char *pass_fraction(
    const unsigned char *at, const unsigned char *end
) noexcept nogil:
    """Pass a number of any form that is no count of ours: a price, a latency."""
    cdef const unsigned char *digits
    if at[0] == c'-':
        at += 1
    digits = at
    while at < end and c'0' <= at[0] <= c'9':
        at += 1
    if at == digits or digits[0] == c'0' and at > digits + 1 or at - digits > MOST_DIGITS:
        return NULL
    if at < end and at[0] == c'.':
        digits = at + 1
        at = digits
        while at < end and c'0' <= at[0] <= c'9':
            at += 1
        if at == digits:
            return NULL
    if at < end and at[0] | 0x20 == c'e':
        return NULL
    return at


cdef inline const unsigned char *pass_word(
    const unsigned char *at, const unsigned char *end, const char *word, Py_ssize_t size
) noexcept nogil:
    if end - at < size or memcmp(at, word, size) != 0:
        return NULL
    return at + size


cdef const unsigned char *pass_value(
    const unsigned char *at, const unsigned char *end, int depth
) noexcept nogil:
    """Pass any value."""
    cdef unsigned char closer
    if at == end or depth > MOST_DEPTH:
        return NULL
    if at[0] == c'"':
        at = pass_string(at + 1, end)
        if at == NULL:
            return NULL
        return at + 1
    if at[0] == c'n':
        return pass_word(at, end, b"null", 4)
    if at[0] == c't':
        return pass_word(at, end, b"true", 4)
    if at[0] == c'f':
        return pass_word(at, end, b"false", 5)
    if at[0] != c'{' and at[0] != c'[':
        return pass_fraction(at, end)
    closer = at[0] + 2
    at = skip_space(at + 1, end)
    if at < end and at[0] == closer:
        return at + 1
    while True:
        if closer == c'}':
            if at == end or at[0] != c'"':
                return NULL
            at = pass_string(at + 1, end)
            if at == NULL:
                return NULL
            at = skip_space(at + 1, end)
            if at == end or at[0] != c':':
                return NULL
            at = skip_space(at + 1, end)
        at = pass_value(at, end, depth + 1)
        if at == NULL:
            return NULL
        at = skip_space(at, end)
        if at == end:
            return NULL
        if at[0] == closer:
            return at + 1
        if at[0] != c',':
            return NULL
        at = skip_space(at + 1, end)


cdef inline const unsigned char *pass_count(
    const unsigned char *at, const unsigned char *end, bint merging, long long *value
) noexcept nogil:
    """Read what should be a count; null is nonsense, but leaves what is known when merging."""
    if at[0] == c'-' or c'0' <= at[0] <= c'9':
        return pass_number(at, end, value)
    if at[0] == c't' or at[0] == c'f':
        return NULL  # true is 1 to Python
    if not (merging and at[0] == c'n'):
        value[0] = NONSENSE
    return pass_value(at, end, 2)


cdef const unsigned char *pass_details(
    const unsigned char *at, const unsigned char *end, bint merging, Details *details
) noexcept:
    """Read the details of one side, or of what was written to a cache."""
    cdef int index
    if at[0] == c'{':
        details.given = True
        for index in range(IN_ALL):
            details.counts[index] = ABSENT
        return pass_object(at, end, DETAIL_KEYS, NULL, details, False)
    if not (merging and at[0] == c'n'):
        details.given = False
    return pass_value(at, end, 2)


cdef const unsigned char *pass_object(
    const unsigned char *at,
    const unsigned char *end,
    Names names,
    Raw *raw,
    Details *details,
    bint merging,
) noexcept:
    """Read a usage object into `raw`, or one of its details into `details`."""
    cdef const unsigned char *key
    cdef unsigned int seen = 0
    cdef int index, member
    cdef bint exact = False
    at = skip_space(at + 1, end)
    if at < end and at[0] == c'}':
        return at + 1
    while True:
        if at == end or at[0] != c'"':
            return NULL
        key = at + 1
        at = pass_string(key, end)
        if at == NULL:
            return NULL
        index = names.find(key, at - key, &exact)
        at = skip_space(at + 1, end)
        if at == end or at[0] != c':':
            return NULL
        at = skip_space(at + 1, end)
        if at == end:
            return NULL
        if index < 0 or not exact:
            at = pass_value(at, end, 2)
        else:
            if seen >> index & 1:
                return NULL
            seen |= 1U << index
            if raw == NULL:
                at = pass_count(at, end, False, &details.counts[DETAIL_OF[index]])
            else:
                member = MEMBER_OF[index]
                if member < COUNTS:
                    at = pass_count(at, end, merging, &raw.counts[member])
                else:
                    at = pass_details(at, end, merging, &raw.details[member - COUNTS])
        if at == NULL:
            return NULL
        at = skip_space(at, end)
        if at == end:
            return NULL
        if at[0] == c'}':
            return at + 1
        if at[0] != c',':
            return NULL
        at = skip_space(at + 1, end)


cdef bint read_raw(
    const unsigned char *at, Py_ssize_t size, Raw *raw, bint merging
) noexcept:
    """Read a plain usage object; when merging, over what is known."""
    cdef const unsigned char *end = at + size
    cdef int index
    if not merging:
        for index in range(COUNTS):
            raw.counts[index] = ABSENT
        for index in range(MEMBERS - COUNTS):
            raw.details[index].given = False
    at = skip_space(at, end)
    if at == end or at[0] != c'{':
        return False
    at = pass_object(at, end, MEMBER_KEYS, raw, NULL, merging)
    return at != NULL and skip_space(at, end) == end


cdef inline long long count_of(long long value) noexcept nogil:
    """Give a count, 0 where none is given or it is nonsense."""
    return value if 0 <= value <= MOST else 0


cdef inline long long first_of(long long value, long long other) noexcept nogil:
    return other if value == ABSENT else value


cdef inline long long detail_of(
    Details *details, Details *others, int index
) noexcept nogil:
    if details.given:
        return details.counts[index]
    return others.counts[index] if others.given else ABSENT


cdef int settle(Raw *raw, Tokens *tokens) noexcept nogil:
    """Say in our words what was reported; 0 when it makes no sense."""
    cdef long long *counts = raw.counts
    cdef Details *into = &raw.details[PROMPT_DETAILS - COUNTS]
    cdef Details *outof = &raw.details[COMPLETION_DETAILS - COUNTS]
    cdef long long prompt = first_of(first_of(counts[PROMPT], counts[INPUT]), 0)
    cdef long long output = first_of(first_of(counts[COMPLETION], counts[OUTPUT]), 0)
    cdef Details *creation = &raw.details[CREATION_DETAILS - COUNTS]
    cdef long long cached, written, reasoning
    if not (0 <= prompt <= MOST and 0 <= output <= MOST):
        return 0
    cached = count_of(detail_of(into, into + 1, IN_CACHED))
    if cached == 0:
        cached = count_of(
            first_of(first_of(counts[CACHE_HIT], counts[NUM_CACHED]), counts[CACHED])
        )
    written = count_of(detail_of(into, into + 1, IN_WRITTEN))
    reasoning = count_of(
        first_of(
            detail_of(outof, outof + 1, IN_REASONING), detail_of(outof, outof + 1, IN_THINKING)
        )
    )
    if counts[TOTAL] == prompt + output + reasoning:
        # xAI counts reasoning beside the completion, which its total shows.
        output += reasoning
    if counts[PROMPT] == ABSENT and (
        counts[CACHE_READ] != ABSENT or counts[CACHE_CREATION] != ABSENT
    ):
        # Anthropic's input leaves out what went through the cache (its guide to prompt caching).
        cached = count_of(counts[CACHE_READ])
        written = count_of(counts[CACHE_CREATION])
        prompt += cached + written
    tokens.input = prompt
    tokens.output = output
    tokens.cached = min(cached, prompt)
    tokens.cache_write = min(written, prompt - tokens.cached)
    tokens.reasoning = min(reasoning, output)
    tokens.cache_write_1h = 0
    if creation.given:
        tokens.cache_write_1h = min(count_of(creation.counts[IN_HOUR]), tokens.cache_write)
    prompt -= tokens.cached + tokens.cache_write
    tokens.audio_in = min(count_of(detail_of(into, into + 1, IN_AUDIO)), prompt)
    tokens.image_in = min(
        count_of(detail_of(into, into + 1, IN_IMAGES)), prompt - tokens.audio_in
    )
    output -= tokens.reasoning
    tokens.audio_out = min(count_of(detail_of(outof, outof + 1, IN_AUDIO)), output)
    tokens.image_out = min(
        count_of(detail_of(outof, outof + 1, IN_IMAGES)), output - tokens.audio_out
    )
    return 1


cdef int take_counts(object counts, Tokens *tokens) except -1:
    if counts is None:
        return 0
    tokens.input, tokens.output, tokens.cached, tokens.cache_write, tokens.reasoning = counts[:5]
    (
        tokens.cache_write_1h, tokens.audio_in, tokens.image_in, tokens.audio_out,
        tokens.image_out,
    ) = counts[5:]
    return 1


cdef int read_usage(const unsigned char *at, Py_ssize_t size, Tokens *tokens) except -1:
    """Read one usage object; 0 when it reports nothing."""
    cdef Raw raw
    if read_raw(at, size, &raw, False):
        return settle(&raw, tokens)
    return take_counts(pure.read(PyBytes_FromStringAndSize(<char *>at, size)), tokens)


cdef bint find_usage(const unsigned char *event, Py_ssize_t size, Span *usage) noexcept:
    """Find the first usage in an event that is not null; false when there is none for sure."""
    cdef Span found[4]
    cdef Span inner
    cdef unsigned long long seen = 0, seen_inside = 0
    cdef int fault, index
    if find_spans(event, size, HOLDER_KEYS, found, &seen, &fault) != FINE:
        return False
    if seen >> USAGE_AT & 1 and event[found[USAGE_AT].start] != c'n':
        usage[0] = found[USAGE_AT]
        return True
    for index in HOLDERS_AT:
        if not seen >> index & 1 or event[found[index].start] != c'{':
            continue
        inner = found[index]
        if find_spans(
            event + inner.start, inner.end - inner.start, USAGE_KEY, usage, &seen_inside, &fault
        ) != FINE:
            return False
        if seen_inside and event[inner.start + usage.start] != c'n':
            usage.start += inner.start
            usage.end += inner.start
            return True
    return False


cdef int read_event_usage(
    const unsigned char *event,
    Py_ssize_t size,
    const unsigned char *first,
    Py_ssize_t first_size,
    Tokens *tokens,
) except -1:
    """Read the usage object in an event's payload; 0 when it reports nothing."""
    cdef Span last
    cdef Span before
    cdef Raw raw
    if find_usage(event, size, &last):
        if first == NULL:
            return read_usage(event + last.start, last.end - last.start, tokens)
        if (
            find_usage(first, first_size, &before)
            and read_raw(first + before.start, before.end - before.start, &raw, False)
            and read_raw(event + last.start, last.end - last.start, &raw, True)
        ):
            return settle(&raw, tokens)
    decoded = pure.read_event(
        PyBytes_FromStringAndSize(<char *>event, size),
        PyBytes_FromStringAndSize(<char *>first, first_size) if first != NULL else None,
    )
    return take_counts(decoded, tokens)


cdef int take_prices(tuple prices, Prices *into) except -1:
    """Take prices over, none negative; OverflowError for one beyond 64 bits."""
    cdef long long *lines
    cdef int tier, index
    if not 0 < len(prices) <= TIERS:
        raise ValueError("one to eight tiers")
    into.tiers = len(prices)
    for tier in range(into.tiers):
        above, *row = prices[tier]
        if len(row) != LINES:
            raise ValueError("eleven lines")
        into.above[tier] = above
        lines = <long long *>&into.lines[tier]
        for index in range(LINES):
            lines[index] = max(0, row[index])
    return 0


cdef inline long long between(long long value, long long most) noexcept nogil:
    return 0 if value < 0 else min(value, most)


cdef long long cost_of(const Tokens *tokens, const Prices *prices) noexcept nogil:
    """Give the cost in nano-dollars; parts are clamped to their whole."""
    cdef long long rest = max(tokens.input, 0)
    cdef int tier = prices.tiers - 1
    while tier > 0 and rest <= prices.above[tier]:
        tier -= 1
    cdef const Lines *lines = &prices.lines[tier]
    cdef long long part = between(tokens.cached, rest)
    cdef long long total = add_line(part, lines.cached, 0)
    rest -= part
    part = between(tokens.cache_write, rest)
    rest -= part
    cdef long long hour = between(tokens.cache_write_1h, part)
    total = add_line(part - hour, lines.cache_write, total)
    total = add_line(hour, lines.cache_write_1h, total)
    part = between(tokens.audio_in, rest)
    rest -= part
    total = add_line(part, lines.audio_in, total)
    part = between(tokens.image_in, rest)
    total = add_line(part, lines.image_in, total)
    total = add_line(rest - part, lines.input, total)
    rest = max(tokens.output, 0)
    part = between(tokens.reasoning, rest)
    rest -= part
    total = add_line(part, lines.reasoning, total)
    part = between(tokens.audio_out, rest)
    rest -= part
    total = add_line(part, lines.audio_out, total)
    part = between(tokens.image_out, rest)
    total = add_line(part, lines.image_out, total)
    total = add_line(rest - part, lines.output, total)
    return add_line(1, lines.per_request, total)


cdef inline tuple counts_of(const Tokens *tokens):
    return (
        tokens.input, tokens.output, tokens.cached, tokens.cache_write, tokens.reasoning,
        tokens.cache_write_1h, tokens.audio_in, tokens.image_in, tokens.audio_out,
        tokens.image_out,
    )


def read(bytes payload not None):
    """Read a usage object; counts as the twin says, or None."""
    cdef Tokens tokens
    if not read_usage(payload, len(payload), &tokens):
        return None
    return counts_of(&tokens)


def read_event(bytes payload not None, bytes first=None):
    """Read the usage object in an event's payload; what it leaves out stands in `first`."""
    cdef Tokens tokens
    cdef const unsigned char *before = NULL
    if first is not None:
        before = first
    if not read_event_usage(
        payload, len(payload), before, len(first) if first is not None else 0, &tokens
    ):
        return None
    return counts_of(&tokens)


def cost(tuple counts not None, tuple prices not None):
    """Give the cost in nano-dollars, never negative, rounded half up once a price line."""
    cdef Tokens tokens
    cdef Prices known
    try:
        take_counts(counts, &tokens)
        take_prices(prices, &known)
    except (OverflowError, ValueError):
        return pure.cost(counts, prices)
    return cost_of(&tokens, &known)
