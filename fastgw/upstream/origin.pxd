"""Types of `origin.py` for the compiled build."""

cimport cython

from fastgw.upstream.connection cimport Attempt, Connection, Owner, Pace, Sink
from fastgw.upstream.deadlines cimport Deadline, Deadlines, Line


cdef class Wait(Deadline):
    cdef Attempt attempt
    cdef double seconds


cdef class Dial(Deadline):
    cdef Attempt attempt
    cdef object task


cdef class Origin(Owner):
    cdef object __weakref__
    cdef object loop
    cdef Deadlines deadlines
    cdef readonly str label
    cdef object _connect
    cdef object bounds
    cdef double idle_s
    cdef Line idle_line
    cdef Pace pace
    cdef Py_ssize_t max_idle
    cdef readonly list idle
    cdef readonly set connections
    cdef readonly dict dials
    cdef Py_ssize_t private_dials
    cdef readonly object waits
    cdef bint closing
    cdef readonly object gone

    @cython.locals(deadlines=Deadlines, attempt=Attempt, connection=Connection, pace=Pace)
    cpdef Attempt send(
        self, bytes head, object parts, Sink sink, object timeouts, bint replayable
    )

    @cython.locals(wait=Wait)
    cpdef object wait(self, Attempt attempt)
    cpdef object turn_away(self, Attempt attempt, object fault)

    @cython.locals(wait=Wait, dial=Dial)
    cpdef object withdraw(self, Attempt attempt)
    cpdef Attempt next_attempt(self)

    cpdef object released(self, Connection connection)
    cpdef object discard(self, Connection connection)
    cpdef object lost(self, Connection connection)
    cpdef object replay(self, Attempt attempt)

    @cython.locals(newest=Wait)
    cpdef object fill(self)

    @cython.locals(dial=Dial)
    cpdef object dial(self, Attempt attempt, double seconds)
    cpdef Connection new_connection(self)

    @cython.locals(dial=Dial, attempt=Attempt)
    cpdef object dialled(self, object task)
    cpdef object gave_up(self, Attempt attempt)
    cpdef object failed(self, Attempt attempt, object fault)
    cpdef object opened(self, Attempt attempt, Connection connection)
    cpdef object settle(self)

    @cython.locals(connection=Connection)
    cpdef object close(self)
