"""What other compiled modules may use of the usage reader: no Python object on the way."""

cdef struct Tokens:
    long long input  # cache reads and writes included
    long long output  # reasoning included
    long long cached
    long long cache_write
    long long reasoning

cdef struct Prices:
    # Pico-dollars a unit, none negative.
    long long input
    long long output
    long long cached
    long long cache_write
    long long reasoning
    long long per_request

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

# Take prices over from a tuple (input, output, cached, cache_write, reasoning, per_request).
# OverflowError for one beyond 64 bits.
cdef int take_prices(tuple prices, Prices *into) except -1

# The cost in nano-dollars.
cdef long long cost_of(const Tokens *tokens, const Prices *prices) noexcept nogil
