# cython: language_level=3
"""A client connection: takes canonical requests itself, lends all others to aiohttp.

    RESTING --a head--> a turn (TURN) | aiohttp (LENT) | the rest of a body (BODY)
    BODY --complete--> TURN | LENT
    TURN --its end--> RESTING
    LENT --exactly one request answered, and aiohttp rests--> RESTING
    LENT --anything else--> GIVEN, for good

aiohttp's protocol object is made beside it when it is first needed, and sees a request's own bytes
and no others. What arrives meanwhile waits here, at most `MOST_WAITING` and one read of it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc

from fastgw._ext._request cimport POST, Request, read_request
from fastgw.server.fastlane cimport Client, FastLane
from fastgw.server.turn cimport Turn, begin_turn, is_known

from fastgw.errors import RequestTimeout
from fastgw.server.door import address_of, descriptor_of, reset
from fastgw.server.protocol import LEAST_RATE as LEAST

cdef enum State:
    RESTING
    BODY
    TURN
    LENT
    GIVEN

cdef enum:
    MOST_WAITING = 65536
    MOST_LOOKS = 8  # turns of the loop that aiohttp gets to come to rest


cdef Py_ssize_t LEAST_RATE = LEAST


cdef class Front(Client):
    """An `asyncio.Protocol` by its methods.

    As a deadline it is the client's current time-out: for a head, for the next bytes of a body,
    between requests, or for reading what was written.
    """

    def __init__(self, FastLane lane not None):
        self.lane = lane
        self.rest = b""

    def __dealloc__(self):
        free(self.partial)

    # -- the loop's side ------------------------------------------------------------------------

    def connection_made(self, transport):
        """Take a new connection."""
        cdef str address = address_of(transport)
        self.transport = transport
        if not self.lane.door.enter(address, descriptor_of(transport)):
            self.state = GIVEN
            transport.abort()
            return
        self.address = address
        self.lane.fronts.add(self)
        self.lane.deadlines.arm_in(self, self.lane.header_line)

    def connection_lost(self, exc):
        """Take the end of the connection, whoever ended it."""
        cdef Turn turn = self.turn
        if self.address is not None:
            self.lane.door.leave(self.address)
            self.address = None
        self.lane.fronts.discard(self)
        self.lane.deadlines.disarm(self)
        self.turn = None
        self.state = GIVEN
        self.rest = b""
        self.parts = None
        if turn is not None:
            turn.leave()
        if self.handler is not None:
            self.handler.connection_lost(exc)
            self.handler = None
        self.transport = None

    def eof_received(self):
        """Take a half-close: who closes is not answered, but for half a request."""
        if self.has_half():
            self.give_what_came()
        if self.handler is not None and not self.has_it():
            return self.handler.eof_received()
        return False

    def pause_writing(self):
        """The client does not keep up."""
        self.full = True
        if self.turn is not None:
            self.turn.pause()
            self.lane.deadlines.arm_in(self, self.lane.stall_line)
        elif self.state == LENT or self.state == GIVEN:
            self.tell()

    def resume_writing(self):
        """The client has caught up."""
        self.full = False
        if self.turn is not None:
            self.lane.deadlines.disarm(self)
            self.turn.resume()
        elif self.state == RESTING and self.partial == NULL:
            self.lane.deadlines.arm_in(self, self.lane.keepalive_line)
        elif self.told:
            self.told = False
            self.handler.resume_writing()

    def data_received(self, bytes data not None):
        """Take bytes of the client."""
        if self.state == RESTING:
            self.take(data)
        elif self.state == BODY:
            self.take_part(data)
        elif self.state == GIVEN:
            if self.handler is not None:
                self.handler.data_received(data)
        elif self.owed:
            if PyBytes_GET_SIZE(data) > self.owed:
                self.keep(data[self.owed:])
                data = data[:self.owed]
            self.owed -= PyBytes_GET_SIZE(data)
            self.handler.data_received(data)
        else:
            self.keep(data)

    cpdef object expired(self):
        """Close, or have it said that half a request took too long."""
        if self.state == TURN or self.has_unsent():
            reset(self.transport)  # what it did not read for so long it will not read
        elif self.state == BODY and self.came >= LEAST_RATE * self.lane.body_line.seconds:
            self.came = 0
            self.lane.deadlines.arm_in(self, self.lane.body_line)
        elif self.has_half():
            what = "body" if self.state == BODY else "head of the request"
            self.give_what_came()
            self.handler.refuse(RequestTimeout(f"the {what} did not arrive in time"))
        else:
            self.transport.close()

    cdef bint has_half(self):
        """Tell whether a request has begun to arrive."""
        return self.state == BODY or (self.state == RESTING and self.partial != NULL)

    # -- requests -------------------------------------------------------------------------------

    cdef object take(self, bytes data):
        """Take bytes while nothing else is under way."""
        if self.rest:
            data = self.rest + data
            self.rest = b""
        self.take_head(data)

    cdef object take_head(self, bytes data):
        """Read the head that `data` begins with, and find out who serves the request."""
        cdef FastLane lane = self.lane
        cdef Request *request = &lane.request
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t whole
        cdef int read
        if self.partial != NULL:
            request[0] = self.partial[0]
        else:
            request.looked = 0
        read = read_request(
            <const unsigned char *>PyBytes_AS_STRING(data), size, lane.fields, request
        )
        if read == 0:
            if self.partial == NULL:
                self.partial = <Request *>malloc(sizeof(Request))
                if self.partial == NULL:
                    raise MemoryError
                lane.deadlines.arm_in(self, lane.header_line)
            self.partial[0] = request[0]
            self.rest = data
            return
        if self.partial != NULL:
            free(self.partial)
            self.partial = NULL
        lane.deadlines.disarm(self)
        if read < 0 or request.chunked or request.upgrade:
            # whether and where it ends is not ours to say
            self.give(data)
            return
        whole = request.size + (request.length if request.length > 0 else 0)
        if (
            request.method != POST
            or request.minor != 1
            or request.length < 0
            or request.length > lane.max_body
            or request.close
            or request.expect
            or lane.draining
        ):
            self.lend(data, whole, "draining" if lane.draining else "request")
        elif size >= whole:
            if size > whole:
                self.rest = data[whole:]
                data = data[:whole]
            self.serve(data)
        elif not is_known(lane, <const unsigned char *>PyBytes_AS_STRING(data)):
            # who is refused is refused before the body is there
            self.lend(data, whole, "no_plan")
        else:
            self.parts = [data]
            self.missing = whole - size
            self.came = 0
            self.state = BODY
            lane.deadlines.arm_in(self, lane.body_line)

    cdef object take_part(self, bytes data):
        """Take the next bytes of a body."""
        cdef FastLane lane = self.lane
        if PyBytes_GET_SIZE(data) > self.missing:
            self.rest = data[self.missing:]
            data = data[:self.missing]
        self.parts.append(data)
        self.missing -= PyBytes_GET_SIZE(data)
        self.came += PyBytes_GET_SIZE(data)
        if self.missing:
            return
        lane.deadlines.disarm(self)
        data = b"".join(self.parts)
        self.parts = None
        # others have used the scratch meanwhile; the head was read before and is complete
        lane.request.looked = 0
        read_request(
            <const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), lane.fields,
            &lane.request,
        )
        self.serve(data)

    cdef object serve(self, bytes data):
        """Begin a turn for a whole request, or lend it."""
        cdef Turn turn
        self.state = TURN
        turn = begin_turn(self.lane, self, data)
        if turn is None:
            if self.lane.reason is None:
                self.go_on()
            else:
                self.lend(data, PyBytes_GET_SIZE(data), self.lane.reason)
            return
        self.turn = turn
        if self.full:
            self.pause_writing()

    cdef object keep(self, bytes data):
        """Let bytes wait for their turn; of too many no more are read."""
        self.rest = self.rest + data if self.rest else data
        if PyBytes_GET_SIZE(self.rest) > MOST_WAITING and not self.deaf:
            self.deaf = True
            self.transport.pause_reading()

    cdef object go_on(self):
        """Rest, or take the next requests, which have waited."""
        cdef bytes data
        self.state = RESTING
        if self.deaf:
            self.deaf = False
            self.transport.resume_reading()
        if self.looping:
            return  # to the loop below: requests that are refused at once must not pile up calls
        self.looping = True
        while self.rest and self.state == RESTING and self.partial == NULL:
            data = self.rest
            self.rest = b""
            self.take_head(data)
        self.looping = False
        if self.state == RESTING and self.partial == NULL:
            self.lane.deadlines.arm_in(
                self, self.lane.stall_line if self.full else self.lane.keepalive_line
            )

    # -- aiohttp's side -------------------------------------------------------------------------

    cdef object call_handler(self):
        if self.handler is None:
            self.handler = self.lane.make_handler()
            self.handler.front = self
            self.handler.connection_made(self.transport)
        if self.full:
            self.tell()

    cdef object tell(self):
        """Tell aiohttp that the client does not keep up."""
        if not self.told and self.handler is not None:
            self.told = True
            self.handler.pause_writing()

    cdef object lend(self, bytes data, Py_ssize_t size, str reason):
        """Let aiohttp serve one request of `size` bytes, which `data` begins with."""
        self.call_handler()
        self.handler.reason = reason
        self.state = LENT
        self.looks = 0
        if PyBytes_GET_SIZE(data) > size:
            self.keep(data[size:])
            data = data[:size]
        self.owed = size - PyBytes_GET_SIZE(data)
        self.handler.data_received(data)

    cdef object give(self, bytes data):
        """Let aiohttp have the connection for good."""
        self.call_handler()
        self.handler.keeps_idle = True
        self.handler.reason = "request"
        self.state = GIVEN
        if self.deaf:
            self.deaf = False
            self.transport.resume_reading()
        if data:
            self.handler.data_received(data)

    cdef object give_what_came(self):
        """Let aiohttp have the connection with half a request."""
        cdef bytes data = self.rest
        if self.parts is not None:
            data = b"".join(self.parts)
        self.parts = None
        self.rest = b""
        self.lane.deadlines.disarm(self)
        self.give(data)

    def answered(self):
        """Take the connection back, if aiohttp has come to rest: it has just answered."""
        cdef bytes data
        if self.state != LENT:
            return
        if not self.owed and self.handler.is_resting():
            self.go_on()
            return
        self.looks += 1
        if not self.owed and self.looks < MOST_LOOKS:
            self.lane.loop.call_soon(self.answered)
            return
        data = self.rest
        self.rest = b""
        self.give(data)

    # -- the turn's side ------------------------------------------------------------------------

    cdef object write(self, bytes data):
        if self.transport is not None:  # one that is closing takes it and does nothing
            self.transport.write(data)

    cdef object turn_over(self, bint last):
        self.turn = None
        if self.transport is None:
            return
        self.lane.deadlines.disarm(self)
        if last or self.lane.draining:
            self.state = GIVEN  # to nobody: what still comes is not read
            if self.has_unsent():
                self.lane.deadlines.arm_in(self, self.lane.stall_line)
            self.transport.close()
        else:
            self.go_on()

    cdef object surrender(self, bytes request, object carry, str reason):
        self.turn = None
        if self.transport is None:
            return
        self.call_handler()
        self.handler.carry = carry
        self.lend(request, PyBytes_GET_SIZE(request), reason)

    def has_it(self):
        """Tell whether the connection is not lent to aiohttp, let alone given."""
        return self.state != LENT and self.state != GIVEN

    # -- the worker's side ----------------------------------------------------------------------

    def has_unsent(self):
        """Tell whether the client has not taken all of its answer yet."""
        return self.transport is not None and self.transport.get_write_buffer_size() > 0

    def close_if_idle(self):
        """Close, unless an exchange is under way."""
        if self.transport is not None and self.state in (RESTING, BODY):
            self.transport.close()

    def stop(self, error):
        """End the exchange that is under way with an error."""
        if self.turn is not None:
            self.turn.stop(error)
