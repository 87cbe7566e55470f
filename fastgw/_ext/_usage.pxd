"""What other compiled modules may use of the usage reader: no Python object on the way."""

cdef struct Tokens:
    long long input  # cache reads and writes included
    long long output  # reasoning included
    long long cached
    long long cache_write
    long long reasoning
    # Parts of these again.
    long long cache_write_1h
    long long audio_in
    long long image_in
    long long audio_out
    long long image_out

cdef enum:
    LINES = 11
    TIERS = 8

cdef struct Lines:
    # Pico-dollars a unit, none negative.
    long long input
    long long output
    long long cached
    long long cache_write
    long long reasoning
    long long cache_write_1h
    long long audio_in
    long long image_in
    long long audio_out
    long long image_out
    long long per_request

cdef struct Prices:
    # What a request costs whose input is above so many tokens, in rising order; the first holds
    # for all others.
    int tiers
    long long above[TIERS]
    Lines lines[TIERS]

# Read one usage object; 0 when it reports nothing.
cdef int read_usage(const unsigned char *at, Py_ssize_t size, Tokens *tokens) except -1

# Read the usage object in an event's payload, which is known to be JSON; what it leaves out stands
# in the event `first`, unless that is NULL.
cdef int read_event_usage(
    const unsigned char *event,
    Py_ssize_t size,
    const unsigned char *first,
    Py_ssize_t first_size,
    Tokens *tokens,
) except -1

# Take prices over from tuples (above, input, output, … in the order of Lines), one a tier.
# OverflowError for a price beyond 64 bits, ValueError for more tiers than there is room for.
cdef int take_prices(tuple prices, Prices *into) except -1

# The cost in nano-dollars.
cdef long long cost_of(const Tokens *tokens, const Prices *prices) noexcept nogil
