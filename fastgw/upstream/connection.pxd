"""Types of `connection.py` for the compiled build; what other compiled modules may call."""

cimport cython

from fastgw._ext._http1 cimport Dechunker, Head
from fastgw.upstream.deadlines cimport Deadline, Deadlines, Line

cdef Py_ssize_t MAX_HEAD
cdef object parse_head
cdef object new_dechunker
cdef double FRESH_S
cdef int _IDLE
cdef int _HEAD
cdef int _LENGTH
cdef int _CHUNKED
cdef int _UNTIL_CLOSE
cdef int _CLOSED


cdef class Sink(Deadline):
    cpdef object upstream_head(self, Head head)
    cpdef object upstream_data(self, bytes data)
    cpdef object upstream_end(self)
    cpdef object upstream_failed(self, object error)


cdef class Owner:
    cpdef object released(self, Connection connection)
    cpdef object discard(self, Connection connection)
    cpdef object lost(self, Connection connection)
    cpdef object replay(self, Attempt attempt)
    cpdef object withdraw(self, Attempt attempt)


cdef class Pace:
    cdef readonly object timeouts
    cdef Line first_byte
    cdef Line idle
    cdef Line total


cdef class Attempt(Deadline):
    cdef object __weakref__
    cdef Deadlines deadlines
    cdef Owner owner
    cdef str label
    cdef Connection connection
    cdef bytes head
    cdef object parts
    cdef public Sink sink
    cdef Pace pace
    cdef bint replayable
    cdef bint replayed
    cdef bint paused
    cdef readonly bytes wrapped
    cdef readonly bint reused
    cdef readonly double sent_at

    cpdef object begin(
        self,
        Deadlines deadlines,
        Owner owner,
        str label,
        bytes head,
        object parts,
        Sink sink,
        Pace pace,
        bint replayable,
    )
    cpdef bint is_over(self)
    cpdef object pause(self)
    cpdef object resume(self)
    cpdef object cancel(self)
    cpdef object fail(self, object error)

    @cython.locals(sink=Sink)
    cpdef Sink detach(self)


cdef class Connection(Deadline):
    cdef object __weakref__
    cdef Deadlines deadlines
    cdef Owner owner
    cdef readonly str label
    cdef object transport
    cdef Attempt attempt
    cdef Head head
    cdef Dechunker dechunker
    cdef object poll
    cdef readonly int state
    cdef bytes pending
    cdef long long left
    cdef long long earlier
    cdef Py_ssize_t written
    cdef int interim
    cdef int keep_s
    cdef double last
    cdef bint heard
    cdef bint bodyless
    cdef bint used
    cdef bint paused
    cdef bint secure

    cpdef bint is_idle(self)
    cpdef bint is_closed(self)
    cpdef bint is_quiet(self)
    cpdef bint is_unacknowledged(self)
    cpdef bint is_clean_end(self)

    cpdef object start(self, Attempt attempt)

    @cython.locals(size=Py_ssize_t, small=list)
    cpdef object write(self, bytes head, object parts)
    cpdef object pause(self)
    cpdef object resume(self)

    @cython.locals(attempt=Attempt)
    cpdef object fail(self, object error)
    cpdef object close(self)

    @cython.locals(seconds=double, left=double, step=double)
    cpdef object check_idle(self, Attempt attempt)

    cpdef object connection_made(self, object transport)
    cpdef object data_received(self, bytes data)
    cpdef object eof_received(self)
    cpdef object connection_lost(self, object exc)
    cpdef object pause_writing(self)

    @cython.locals(attempt=Attempt)
    cpdef object resume_writing(self)

    @cython.locals(grown=bytes, head=Head)
    cpdef object take_head(self, bytes data)

    @cython.locals(attempt=Attempt, rest=bytes)
    cpdef object take_final(self, Head head, bytes data)

    @cython.locals(attempt=Attempt, size=Py_ssize_t, excess=bint)
    cpdef object take_length(self, bytes data)

    @cython.locals(attempt=Attempt, dechunker=Dechunker, pieces=list)
    cpdef object take_chunked(self, bytes data)
    cpdef bint is_final_word(self)

    @cython.locals(attempt=Attempt, head=Head, sink=Sink, reusable=bint)
    cpdef object complete(self, bint excess)
    cpdef object refuse(self, str why)

    @cython.locals(attempt=Attempt, unread=bint)
    cpdef object broken(self, bint finished)
