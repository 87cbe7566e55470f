"""What other compiled modules may use of the token estimator."""

cimport cython

cdef enum:
    RATIOS = 64

cdef struct Meter:
    unsigned long long units  # hundredths of a token, closed runs only
    Py_ssize_t run
    int kind

cdef void meter_text(
    Meter *meter, const unsigned char *at, const unsigned char *end
) noexcept nogil

# The text between the quotes of a JSON string, escapes undone.
cdef void meter_json(
    Meter *meter, const unsigned char *at, const unsigned char *end
) noexcept nogil

cdef void meter_close(Meter *meter) noexcept nogil

cdef unsigned long long meter_tokens(const Meter *meter) noexcept nogil


# `weights.Overheads`, in ten-thousandths of a token.
cdef struct Rates:
    unsigned long long text
    unsigned long long prompt
    unsigned long long message
    unsigned long long call
    unsigned long long toolset
    unsigned long long tool_text
    unsigned long long tool_key
    unsigned long long schema
    unsigned long long schema_text
    unsigned long long schema_key
    unsigned long long medium
    unsigned long long opaque


@cython.final
cdef class Family:
    """How one model family counts: what requests cost it, how far estimates have been off."""

    cdef Rates rates
    cdef unsigned int counts[RATIOS]
    cdef unsigned int total
    cdef unsigned int bound  # of them not seen, but what a family begins with
    cdef long long ratio
    cdef long long middle

    # `prompt` without objects.
    cdef long long estimate(self, const unsigned char *body, Py_ssize_t size) noexcept
    cpdef void observe(self, long long estimated, long long actual) noexcept
    cdef int bucket_above(self, unsigned int part) noexcept
    cpdef long long correct(self, long long estimated) noexcept
    cpdef long long expect(self, long long estimated) noexcept
