"""Types of `turn.pyx`: one exchange in the fast lane."""

from fastgw._ext._http1 cimport Head
from fastgw._ext._limits cimport Amounts, Reservation, Slices
from fastgw._ext._sse cimport Tap
from fastgw._ext._usage cimport Tokens
from fastgw.flow.plan cimport Leg, Plan
from fastgw.server.fastlane cimport Client, FastLane
from fastgw.upstream.connection cimport Attempt, Sink


cdef struct Edit:
    # A span of the body and what stands there instead, a bytes object.
    Py_ssize_t start
    Py_ssize_t end
    void *new


cdef class Turn(Sink):
    cdef FastLane lane
    cdef Client client
    cdef Plan plan
    cdef Leg leg
    cdef Attempt attempt
    cdef Head head
    cdef Tap tap
    cdef Reservation reservation
    cdef Slices slices
    cdef bytes first_events
    cdef Amounts amounts
    cdef bint admitting  # limits and budgets are kept elsewhere, and the answer is not there yet
    cdef Py_ssize_t kept  # of the journal, for the closing line
    cdef long long noted  # tokens reserved, as the journal knows
    cdef long long estimated
    cdef bytes request
    cdef Py_ssize_t body
    cdef str id
    cdef str label
    cdef list parts
    cdef Py_ssize_t held
    cdef bytes opening
    cdef bytes last  # events that were passed on last, where they are numbered
    cdef bint stream
    cdef bint asks_usage
    cdef double written  # when the client was last sent something
    cdef double heard  # when the provider last sent an event
    cdef long long created_ms
    cdef long long started
    cdef long long sent
    cdef long long first

    cdef object pause(self)
    cdef object resume(self)
    cdef object leave(self)
    cdef object stop(self, object error)

    cdef bint write_open_line(self)
    cdef object note_more(self)
    cdef object send(self, const unsigned char *at, Py_ssize_t size, void *order)
    cdef int put_body(
        self, const unsigned char *at, Py_ssize_t size, Edit *edits, int count
    ) except -1
    cdef list body_parts(self, Edit *edits, int count)
    cdef object hand_on(self, str reason, str event, tuple values)
    cdef object pass_on(self, bytes out, bytes came)
    cdef object end_short(self, bytes out)
    cdef object break_off(self, object error)
    cdef object answer_whole(self)
    cdef bytes opening_lines(self)
    cdef int put_lines(self) except -1
    cdef object finish_stream(self)
    cdef void settle(self, Tokens *tokens, long long cost) noexcept
    cdef object close_books(self, Tokens *tokens, long long cost)
    cdef object close_slowly(self, object error)
    cdef object account_for(self, object error)
    cdef object exchange_now(self, object error)
    cdef object over(self)


# Begin an exchange for the request that lane.request describes and that `data` holds whole (and
# nothing else); None when the standard lane must serve it, with the reason in lane.reason, or when
# it has been refused, with no reason there.
cdef Turn begin_turn(FastLane lane, Client client, bytes data)

# Whether the key the head carries has plans: only then is it worth while to wait for the body.
cdef bint is_known(FastLane lane, const unsigned char *head)
