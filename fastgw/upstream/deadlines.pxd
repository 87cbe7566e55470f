"""Types of `deadlines.py` for the compiled build."""

cimport cython


cdef class Deadline:
    cdef Line line
    cdef Deadline before
    cdef Deadline after
    cdef double due

    cpdef bint is_armed(self)
    cpdef object expired(self)


cdef class Line:
    cdef readonly double seconds
    cdef Deadline first
    cdef Deadline last
    cdef bint listed

    cdef void append(self, Deadline entry)
    cdef void remove(self, Deadline entry)


cdef class Deadlines:
    cdef object _loop
    cdef object _clock
    cdef list _lines
    cdef dict _known
    cdef object _timer
    cdef bint _excused
    cdef double _swept
    cdef readonly double now

    cpdef double read_clock(self)

    @cython.locals(line=Line)
    cpdef object arm(self, Deadline entry, double seconds)
    cpdef object arm_in(self, Deadline entry, Line line)
    cpdef object disarm(self, Deadline entry)
    cpdef bint is_quiet(self)

    @cython.locals(line=Line, entry=Deadline, now=double, late=bint)
    cpdef object sweep(self)

    @cython.locals(line=Line)
    cpdef object close(self)
