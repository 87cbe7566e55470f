# cython: embedsignature=True
"""Find top-level values of one JSON object without building it. The twin is pure/scan.py.

What is checked, so that no two JSON readers can disagree on where a top-level value begins:

- At the top level everything but the text of string values: one object, nothing but whitespace
  around it, keys, colons, commas, number grammar, the three literals. A key must be valid UTF-8
  without control characters, bad escapes or lone surrogates.
- Below the top level: brackets match, at most 100 deep (the object itself is 1), strings end, and
  between strings only whitespace, ASCII letters and digits, and `,:+-.` occur; so no comment,
  no other quoting, no control character can hide a quote or a bracket. Grammar there ("[1 2,]",
  "nul", "01") is the provider's to judge, and so is the text of every string value: control
  characters, bad escapes and bad UTF-8 in it pass.

A wanted name may occur once: a second time, or beside a key that differs from it in letter case
only (Go's encoding/json folds case and takes the last one), is a duplicate. Such a look-alike
alone is an unknown key like any other.

Iterative and linear; knows bytes only.
"""

from libc.string cimport memcmp, memset


class ScanError(ValueError):
    """The body is not one JSON object that can be read in one way only.

    `reason` is not_json, not_object, trailing, too_deep, duplicate or escaped; `key` is the wanted
    name at fault with the last two, else None.
    """

    def __init__(self, reason: str, key: bytes | None = None) -> None:
        super().__init__(reason if key is None else f"{reason}: {key.decode()}")
        self.reason = reason
        self.key = key


cdef tuple REASONS = (
    "", "not_json", "not_object", "trailing", "too_deep", "duplicate", "escaped"
)

cdef enum:
    # Classes of bytes outside strings, below the top level.
    BAD = 0
    PLAIN = 1
    QUOTE = 2
    OPEN = 3
    CLOSE = 4

cdef unsigned char KIND[256]


cdef void fill_kinds() noexcept:
    cdef const char *plain = (
        b" \t\n\r,:+-.0123456789"
        b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    )
    memset(KIND, BAD, 256)
    while plain[0]:
        KIND[<unsigned char>plain[0]] = PLAIN
        plain += 1
    KIND[c'"'] = QUOTE
    KIND[c'['] = KIND[c'{'] = OPEN
    KIND[c']'] = KIND[c'}'] = CLOSE


fill_kinds()


cdef inline unsigned char lower(unsigned char byte) noexcept nogil:
    return byte | 0x20 if c'A' <= byte <= c'Z' else byte


cdef inline int name_slot(const unsigned char *key, Py_ssize_t size) noexcept nogil:
    # Bit 0x20 is the only difference that letter case makes.
    return ((key[0] | 0x20) + 7 * (key[size - 1] | 0x20) + 5 * <int>size) & 63


cdef class Names:
    """The wanted keys, compiled once for a set of names."""

    def __cinit__(self, frozenset names):
        if len(names) > MAX_NAMES:
            raise ValueError(f"more than {MAX_NAMES} names")
        self.keys = tuple(sorted(names))
        self.count = len(self.keys)
        memset(self.first, -1, sizeof(self.first))
        cdef bytes key
        cdef int index, slot
        for index, key in enumerate(self.keys):
            if not 0 < len(key) <= MAX_NAME or not key.isascii():
                raise ValueError(f"not a name to look for: {key!r}")
            self.texts[index] = <const unsigned char *>key
            self.sizes[index] = len(key)
            slot = name_slot(self.texts[index], self.sizes[index])
            self.following[index] = self.first[slot]
            self.first[slot] = index

    cdef int find(self, const unsigned char *key, Py_ssize_t size, bint *exact) noexcept:
        """Give the index of the name that `key` is, letter case aside, or -1."""
        cdef int index
        cdef Py_ssize_t at
        if not 0 < size <= MAX_NAME:
            return -1
        index = self.first[name_slot(key, size)]
        while index >= 0:
            if self.sizes[index] == size:
                if memcmp(self.texts[index], key, size) == 0:
                    exact[0] = True
                    return index
                at = 0
                while at < size and lower(key[at]) == lower(self.texts[index][at]):
                    at += 1
                if at == size:
                    exact[0] = False
                    return index
            index = self.following[index]
        return -1


cdef dict compiled = {}
cdef frozenset last_set = None
cdef Names last_names = None


cdef Names compiled_names(frozenset names):
    """Compile a set of names once; callers keep a handful of constant sets."""
    global last_set, last_names
    if names is not last_set:
        found = compiled.get(names)
        if found is None:
            if len(compiled) >= 64:
                compiled.clear()
            found = compiled[names] = Names(names)
        last_names = found
        last_set = names
    return last_names


cdef inline int hex_digit(unsigned char byte) noexcept nogil:
    if c'0' <= byte <= c'9':
        return byte - c'0'
    if c'a' <= byte | 0x20 <= c'f':
        return (byte | 0x20) - c'a' + 10
    return -1


cdef int hex_quad(const unsigned char *at, const unsigned char *end) noexcept nogil:
    """Read four hexadecimal digits, or -1."""
    cdef int value = 0, digit, count
    if end - at < 4:
        return -1
    for count in range(4):
        digit = hex_digit(at[count])
        if digit < 0:
            return -1
        value = value * 16 + digit
    return value


cdef int utf8_point(const unsigned char *at, const unsigned char *end, int *size) noexcept nogil:
    """Read one code point of two bytes or more, strictly (RFC 3629), or -1."""
    cdef int lead = at[0], point, least, count
    if 0xC2 <= lead <= 0xDF:
        size[0], point, least = 2, lead & 0x1F, 0x80
    elif 0xE0 <= lead <= 0xEF:
        size[0], point, least = 3, lead & 0x0F, 0x800
    elif 0xF0 <= lead <= 0xF4:
        size[0], point, least = 4, lead & 0x07, 0x10000
    else:
        return -1
    if end - at < size[0]:
        return -1
    for count in range(1, size[0]):
        if at[count] & 0xC0 != 0x80:
            return -1
        point = point << 6 | at[count] & 0x3F
    if point < least or point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
        return -1
    return point


cdef int escaped_point(const unsigned char *at, const unsigned char *end, int *size) noexcept nogil:
    """Read the code point of one escape that begins at a backslash, or -1."""
    cdef int point, low
    if end - at < 2:
        return -1
    size[0] = 2
    if at[1] != c'u':
        if at[1] == c'"' or at[1] == c'\\' or at[1] == c'/':
            return at[1]
        if at[1] == c'b' or at[1] == c'f' or at[1] == c'n' or at[1] == c'r' or at[1] == c't':
            return 1  # some control character: no name holds one
        return -1
    point = hex_quad(at + 2, end)
    size[0] = 6
    if 0xD800 <= point <= 0xDBFF:
        if end - at < 12 or at[6] != c'\\' or at[7] != c'u':
            return -1
        low = hex_quad(at + 8, end)
        if not 0xDC00 <= low <= 0xDFFF:
            return -1
        size[0] = 12
        return 0x10000 + ((point - 0xD800) << 10) + low - 0xDC00
    if 0xDC00 <= point <= 0xDFFF:
        return -1
    return point


cdef Verdict odd_key(
    const unsigned char *key, const unsigned char *end, Names names, int *index
) noexcept:
    """Judge a key with escapes or non-ASCII text; `index` is the name it folds to, or -1.

    U+017F and U+212A are the two characters outside ASCII that fold to ASCII letters.
    """
    cdef unsigned char text[64]
    cdef Py_ssize_t length = 0
    cdef int point, size = 1
    cdef bint ignored, escaped = False
    while key < end:
        if key[0] == c'\\':
            escaped = True
            point = escaped_point(key, end, &size)
        elif key[0] >= 0x80:
            point = utf8_point(key, end, &size)
        else:
            point, size = key[0], 1
        if point < 0:
            return NOT_JSON
        key += size
        if point == 0x17F:
            point = c's'
        elif point == 0x212A:
            point = c'k'
        if length < MAX_NAME and point < 0x80:
            text[length] = point
        else:
            length = MAX_NAME  # cannot be a name any more
        length += 1
    index[0] = names.find(text, length, &ignored)
    return ESCAPED if escaped and index[0] >= 0 else FINE


cdef Verdict take_key(
    const unsigned char *key, const unsigned char *end, Names names, int *index, bint *exact
) noexcept:
    """Judge one top-level key; `index` is the name that it is or looks like, or -1."""
    cdef const unsigned char *at = key
    while at < end:
        if at[0] < 0x20:
            return NOT_JSON
        if at[0] == c'\\' or at[0] >= 0x80:
            # Control characters further on are still to be refused.
            while at < end:
                if at[0] < 0x20:
                    return NOT_JSON
                at += 1
            exact[0] = False
            return odd_key(key, end, names, index)
        at += 1
    index[0] = names.find(key, end - key, exact)
    return FINE


cdef const unsigned char *skip_container(
    const unsigned char *at, const unsigned char *end, int depth, Verdict *verdict
) noexcept:
    """Pass the container that opens at `at`, itself `depth` deep, or give NULL with a verdict."""
    cdef unsigned char closers[101]
    cdef int base = depth
    cdef unsigned char kind
    depth -= 1
    while at < end:
        kind = KIND[at[0]]
        if kind == PLAIN:
            at += 1
            continue
        if kind == QUOTE:
            at = close_quote(at + 1, end)
            if at == NULL:
                break
        elif kind == OPEN:
            depth += 1
            if depth > MAX_DEPTH:
                verdict[0] = TOO_DEEP
                return NULL
            closers[depth] = at[0] + 2  # "[" and "]", "{" and "}" are two apart
        elif kind == CLOSE:
            if closers[depth] != at[0]:
                break
            depth -= 1
            if depth < base:
                return at + 1
        else:
            break
        at += 1
    verdict[0] = NOT_JSON
    return NULL


cdef const unsigned char *skip_digits(
    const unsigned char *at, const unsigned char *end
) noexcept nogil:
    while at < end and c'0' <= at[0] <= c'9':
        at += 1
    return at


cdef const unsigned char *skip_number(
    const unsigned char *at, const unsigned char *end
) noexcept nogil:
    """Pass one number (RFC 8259 §6), or NULL."""
    cdef const unsigned char *digits
    if at < end and at[0] == c'-':
        at += 1
    digits = at
    at = skip_digits(at, end)
    if at == digits or (digits[0] == c'0' and at > digits + 1):
        return NULL
    if at < end and at[0] == c'.':
        digits = at + 1
        at = skip_digits(digits, end)
        if at == digits:
            return NULL
    if at < end and at[0] | 0x20 == c'e':
        at += 1
        if at < end and (at[0] == c'+' or at[0] == c'-'):
            at += 1
        digits = at
        at = skip_digits(digits, end)
        if at == digits:
            return NULL
    return at


cdef const unsigned char *skip_word(
    const unsigned char *at, const unsigned char *end, const char *word, Py_ssize_t size
) noexcept nogil:
    if end - at < size or memcmp(at, word, size) != 0:
        return NULL
    return at + size


cdef const unsigned char *skip_value(
    const unsigned char *at, const unsigned char *end, int depth, Verdict *verdict
) noexcept:
    """Pass the value at `at`; a container in it is `depth` deep. NULL with a verdict on a fault."""
    verdict[0] = NOT_JSON
    if at == end:
        return NULL
    if at[0] == c'"':
        at = close_quote(at + 1, end)
        if at == NULL:
            return NULL
        return at + 1
    if at[0] == c'{' or at[0] == c'[':
        return skip_container(at, end, depth, verdict)
    if at[0] == c't':
        return skip_word(at, end, b"true", 4)
    if at[0] == c'f':
        return skip_word(at, end, b"false", 5)
    if at[0] == c'n':
        return skip_word(at, end, b"null", 4)
    return skip_number(at, end)


cdef Verdict other_value(const unsigned char *at, const unsigned char *end) noexcept:
    """Say what is wrong with a body that does not begin with an object."""
    cdef Verdict verdict = NOT_JSON
    at = skip_value(at, end, 1, &verdict)
    if at == NULL:
        return verdict
    return NOT_OBJECT if skip_space(at, end) == end else TRAILING


cdef Verdict find_spans(
    const unsigned char *body,
    Py_ssize_t size,
    Names names,
    Span *found,
    unsigned long long *seen,
    int *fault,
) noexcept:
    """Fill found[i] for names.keys[i] and set its bit in `seen`."""
    cdef const unsigned char *end = body + size
    cdef const unsigned char *at = skip_space(body, end)
    cdef const unsigned char *key
    cdef unsigned long long exactly = 0, alike = 0, bit
    cdef Verdict verdict
    cdef int index = -1
    cdef bint exact = False
    seen[0] = 0
    if at == end or at[0] != c'{':
        return other_value(at, end)
    at = skip_space(at + 1, end)
    if at < end and at[0] == c'}':
        return FINE if skip_space(at + 1, end) == end else TRAILING
    while True:
        if at == end or at[0] != c'"':
            return NOT_JSON
        key = at + 1
        at = close_quote(key, end)
        if at == NULL:
            return NOT_JSON
        index = -1
        verdict = take_key(key, at, names, &index, &exact)
        fault[0] = index
        if verdict != FINE:
            return verdict
        if index >= 0:
            bit = 1ULL << index
            if exact and (exactly | alike) & bit or exactly & bit:
                return DUPLICATE
            if exact:
                exactly |= bit
            else:
                alike |= bit
        at = skip_space(at + 1, end)
        if at == end or at[0] != c':':
            return NOT_JSON
        key = skip_space(at + 1, end)
        at = skip_value(key, end, 2, &verdict)
        if at == NULL:
            return verdict
        if index >= 0 and exact:
            found[index].start = key - body
            found[index].end = at - body
        at = skip_space(at, end)
        if at == end or at[0] != c',':
            break
        at = skip_space(at + 1, end)
    if at == end or at[0] != c'}':
        return NOT_JSON
    seen[0] = exactly
    return FINE if skip_space(at + 1, end) == end else TRAILING


def top_level(bytes body not None, frozenset names not None):
    """Give the spans (start, end) of the values of the wanted top-level keys, or ScanError."""
    cdef Names wanted = compiled_names(names)
    cdef Span found[64]
    cdef unsigned long long seen = 0
    cdef int index = -1
    cdef Verdict verdict = find_spans(
        <const unsigned char *>body, len(body), wanted, found, &seen, &index
    )
    if verdict != FINE:
        at_fault = wanted.keys[index] if verdict == DUPLICATE or verdict == ESCAPED else None
        raise ScanError(REASONS[<int>verdict], at_fault)
    cdef dict spans = {}
    for index in range(wanted.count):
        if seen >> index & 1:
            spans[wanted.keys[index]] = (found[index].start, found[index].end)
    return spans
