"""What other compiled modules may use of the token estimator."""

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
