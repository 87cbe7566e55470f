"""What other compiled modules may use of the top-level scan."""

cimport cython

cdef extern from *:
    """
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    /* Most strings end within a few dozen bytes, where a call of memchr costs more than the look;
       a long text is memchr's, which has the wider registers. */
    static inline const unsigned char *
    fgw_find(const unsigned char *at, const unsigned char *end, unsigned char wanted)
    {
    #if defined(__SSE2__)
        const __m128i all = _mm_set1_epi8((char)wanted);
        for (int block = 0; block < 4 && end - at >= 16; block++, at += 16) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)at);
            unsigned hits = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, all));
            if (hits)
                return at + __builtin_ctz(hits);
        }
    #endif
        return (const unsigned char *)memchr(at, wanted, (size_t)(end - at));
    }

    /* How many of the next bytes are a-z, 16 at most: a word's end costs no mispredicted branch. */
    static inline int
    fgw_lower(const unsigned char *at, const unsigned char *end)
    {
        int count = 0;
    #if defined(__SSE2__)
        if (end - at >= 16) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)at);
            __m128i is_lower = _mm_and_si128(
                _mm_cmpgt_epi8(bytes, _mm_set1_epi8('a' - 1)),
                _mm_cmplt_epi8(bytes, _mm_set1_epi8('z' + 1)));
            return __builtin_ctz(~(unsigned)_mm_movemask_epi8(is_lower));
        }
    #endif
        while (count < 16 && at + count < end && at[count] >= 'a' && at[count] <= 'z')
            count++;
        return count;
    }
    """
    const unsigned char *find_byte "fgw_find"(
        const unsigned char *at, const unsigned char *end, unsigned char wanted
    ) noexcept nogil
    int count_lower "fgw_lower"(const unsigned char *at, const unsigned char *end) noexcept nogil

cdef enum:
    MAX_NAMES = 64  # a set of names is one machine word
    MAX_NAME = 64
    MAX_DEPTH = 100

cdef enum Verdict:
    FINE
    NOT_JSON
    NOT_OBJECT
    TRAILING
    TOO_DEEP
    DUPLICATE
    ESCAPED

cdef struct Span:
    Py_ssize_t start
    Py_ssize_t end


@cython.final
cdef class Names:
    """The wanted keys, compiled once for a set of names."""

    cdef readonly tuple keys
    cdef int count
    cdef const unsigned char *texts[64]
    cdef unsigned char sizes[64]
    cdef signed char first[64]
    cdef signed char following[64]
    cdef int find(self, const unsigned char *key, Py_ssize_t size, bint *exact) noexcept

cdef Names compiled_names(frozenset names)

# Fill found[i] for names.keys[i] and set its bit in seen; on a DUPLICATE or ESCAPED verdict fault
# is the index of the name.
cdef Verdict find_spans(
    const unsigned char *body,
    Py_ssize_t size,
    Names names,
    Span *found,
    unsigned long long *seen,
    int *fault,
) noexcept

# Pass the container that opens at `at`, itself `depth` deep, or give NULL with a verdict.
cdef const unsigned char *skip_container(
    const unsigned char *at, const unsigned char *end, int depth, Verdict *verdict
) noexcept


cdef inline const unsigned char *close_quote(
    const unsigned char *start, const unsigned char *end
) noexcept nogil:
    """Find the quote that closes the string whose text begins at `start`, or NULL.

    Linear: a run of backslashes is counted once, by the one quote that follows it.
    """
    cdef const unsigned char *at = start
    cdef const unsigned char *quote
    cdef const unsigned char *run
    while at < end:
        quote = find_byte(at, end, c'"')
        if quote == NULL:
            return NULL
        if quote == start or (quote - 1)[0] != c'\\':
            return quote
        run = quote - 1
        while run > start and (run - 1)[0] == c'\\':
            run -= 1
        if (quote - run) & 1 == 0:
            return quote
        at = quote + 1
    return NULL


cdef inline const unsigned char *skip_space(
    const unsigned char *at, const unsigned char *end
) noexcept nogil:
    """Pass JSON whitespace."""
    while at < end and (at[0] == c' ' or at[0] == c'\n' or at[0] == c'\r' or at[0] == c'\t'):
        at += 1
    return at
