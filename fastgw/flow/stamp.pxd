"""Types of `stamp.py` for the compiled build."""


cdef class Stamp:
    cdef readonly bint live

    cpdef object kill(self)


cdef class Freshness:
    cdef readonly double until

    cpdef object extend(self, double until)
