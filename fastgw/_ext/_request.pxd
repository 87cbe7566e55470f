"""What other compiled modules may use of the request-head reader."""

cimport cython

cdef extern from *:
    """
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    /* The first byte that is not HTAB, SP, VCHAR or obs-text (RFC 9110 section 5.5): the CR of a
       well-formed line, or what makes it ill-formed. Looking for the end is checking the text. */
    static inline const unsigned char *
    fgw_text_end(const unsigned char *at, const unsigned char *end)
    {
    #if defined(__SSE2__)
        const __m128i low = _mm_set1_epi8(31);
        const __m128i tab = _mm_set1_epi8(9);
        const __m128i del = _mm_set1_epi8(127);
        for (; end - at >= 16; at += 16) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)at);
            __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, low), bytes);
            control = _mm_andnot_si128(_mm_cmpeq_epi8(bytes, tab), control);
            control = _mm_or_si128(control, _mm_cmpeq_epi8(bytes, del));
            unsigned hits = (unsigned)_mm_movemask_epi8(control);
            if (hits)
                return at + __builtin_ctz(hits);
        }
    #endif
        while (at < end && (*at >= 32 ? *at != 127 : *at == 9))
            at++;
        return at;
    }

    /* The first byte that is no letter, digit or `-`, of which nearly every field name is made. */
    static inline const unsigned char *
    fgw_name_end(const unsigned char *at, const unsigned char *end)
    {
    #if defined(__SSE2__)
        const __m128i fold = _mm_set1_epi8(32);
        for (; end - at >= 16; at += 16) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)at);
            __m128i letter = _mm_sub_epi8(_mm_or_si128(bytes, fold), _mm_set1_epi8('a'));
            __m128i digit = _mm_sub_epi8(bytes, _mm_set1_epi8('0'));
            __m128i plain = _mm_cmpeq_epi8(_mm_min_epu8(letter, _mm_set1_epi8(25)), letter);
            plain = _mm_or_si128(
                plain, _mm_cmpeq_epi8(_mm_min_epu8(digit, _mm_set1_epi8(9)), digit));
            plain = _mm_or_si128(plain, _mm_cmpeq_epi8(bytes, _mm_set1_epi8('-')));
            unsigned misses = ~(unsigned)_mm_movemask_epi8(plain) & 0xffff;
            if (misses)
                return at + __builtin_ctz(misses);
        }
    #endif
        while (at < end && ((unsigned char)((*at | 32) - 'a') < 26 ||
                            (unsigned char)(*at - '0') < 10 || *at == '-'))
            at++;
        return at;
    }
    """
    const unsigned char *text_end "fgw_text_end"(
        const unsigned char *at, const unsigned char *end
    ) noexcept nogil
    const unsigned char *name_end "fgw_name_end"(
        const unsigned char *at, const unsigned char *end
    ) noexcept nogil

cdef enum:
    WANTED = 64  # a set of wanted fields is one machine word
    WANTED_NAME = 64
    HEAD_BYTES = 65536
    LINE_BYTES = 8192  # with its CR LF
    FIELDS = 100
    LENGTH_DIGITS = 18
    EMPTY_LINES = 2  # before the request line, left behind by some clients (RFC 9112 section 2.2)

cdef enum Method:
    GET
    HEAD
    POST
    PUT
    DELETE
    OPTIONS
    TRACE
    PATCH

# Offsets count from the first byte of the head. To begin a head set `looked` to 0; the rest is
# written by `read_request`. The ends of the target and of the wanted values are exclusive.
cdef struct Request:
    int size                    # bytes of the head, empty line included
    int target_start
    int target_end
    int method                  # a Method
    int minor                   # of the version, 0 or 1
    long long length            # Content-Length, -1 without
    bint chunked
    bint close                  # this is the connection's last request
    bint keep_alive             # HTTP/1.0 asking for more
    bint expect                 # 100-continue
    bint upgrade                # has an Upgrade field
    int fields                  # how many there are
    unsigned long long repeated  # bit i: the wanted field i occurs more than once
    int[64] start               # of the value of the wanted field i, the first one; -1 without
    int[64] end
    # Where the reader stands; its own.
    int looked
    int line
    int empty_lines
    int seen
    int host_start
    int host_end


@cython.final
cdef class Fields:
    """The wanted field names, compiled once."""

    cdef readonly tuple names
    cdef int count
    cdef unsigned char[64][64] texts
    cdef unsigned char[64] sizes
    cdef signed char[64] first
    cdef signed char[64] following
    cdef int find(self, const unsigned char *name, Py_ssize_t size) noexcept


# Read the head that `at` begins with: 1 complete, 0 incomplete, negative: -(index in `faults`).
# After 0 call again with at least the same bytes, wherever they lie now: no byte is read twice.
cdef int read_request(
    const unsigned char *at, Py_ssize_t size, Fields fields, Request *out
) noexcept
