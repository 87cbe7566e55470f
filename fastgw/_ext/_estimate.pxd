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


@cython.final
cdef class Family:
    """How far the estimates of one model family are off, learnt from what providers report."""

    cdef unsigned int counts[RATIOS]
    cdef unsigned int total
    cdef long long ratio

    cpdef void observe(self, long long estimated, long long actual) noexcept
    cpdef long long correct(self, long long estimated) noexcept

# `prompt` without objects.
cdef unsigned long long prompt_tokens(const unsigned char *at, Py_ssize_t size) noexcept

# `pictures` without objects.
cdef long long picture_tokens(const unsigned char *at, Py_ssize_t size) noexcept
