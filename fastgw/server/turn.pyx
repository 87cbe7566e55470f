# cython: language_level=3
"""One exchange in the fast lane: executes a plan, and decides nothing.

It is the sink of its one attempt. What it cannot finish as planned (another status, an answer that
is no JSON, a provider that fails before anything reached the client) it hands on with the attempt
to the standard lane, which goes on from there; an exchange whose head is out ends here, and is
accounted by the flow's own `account` unless it ended well.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_GET_LENGTH
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from fastgw._ext._estimate cimport Family, meter_tokens, picture_tokens
from fastgw._ext._http1 cimport Head
from fastgw._ext._journal cimport Closing
from fastgw._ext._limits cimport Amounts, Reservation, Slices, now_us
from fastgw._ext._request cimport read_request
from fastgw._ext._scan cimport FINE, Names, Span, compiled_names, find_spans, skip_space
from fastgw._ext._sse cimport Tap
from fastgw._ext._usage cimport Tokens, cost_of, read_event_usage, read_usage, take_prices
from fastgw.flow.plan cimport KeyPlans, Leg, Plan, Refusal
from fastgw.server.fastlane cimport Client, FastLane
from fastgw.upstream.connection cimport Sink

from fastgw._ext._sse import EventTooLarge
from fastgw.domain import UsageRecord
from fastgw.errors import ClientGone, UpstreamFault, UpstreamProtocolError, UpstreamTimeout
from fastgw.flow.account import account
from fastgw.flow.admit import POLICY_KEYS
from fastgw.flow.plan import exchange_of
from fastgw.flow.relay import HELD as HELD_BYTES
from fastgw.flow.relay import end_short as ending_of
from fastgw.providers.relay import LARGEST_EVENT as LARGEST
from fastgw.server.carry import Carry
from fastgw.server.refuse import refuse_key, refuse_limited, refuse_model, refuse_shared
from fastgw.wire.shapes import KEEP_ALIVE, shapes

cdef inline long long monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <long long>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef inline long long epoch_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <long long>now.tv_sec * 1000 + now.tv_nsec // 1_000_000


cdef enum:
    # Places in flow.plan.FIELDS.
    AUTHORIZATION = 0
    OTHER_KEYS = 4
    CONTENT_TYPE = 4
    CONTENT_ENCODING = 5
    REQUEST_ID = 6
    TAGS = 7
    FIRST_ODD = 8
    AFTER_ODD = 13

    LONGEST_LABEL = 128
    MOST_DIGITS = 9
    JOINED = 16384  # a request up to this size is one piece of memory; larger ones are not copied

cdef Py_ssize_t HELD = HELD_BYTES
cdef Py_ssize_t LARGEST_EVENT = LARGEST

cdef bytes ACCEPT_EVENTS = b"accept: text/event-stream\r\ncontent-length: "
cdef bytes ACCEPT_JSON = b"accept: application/json\r\ncontent-length: "
cdef bytes ASK = b'"stream_options":{"include_usage":true},'
cdef bytes ASKED = b'{"include_usage":true}'

cdef Names POLICY = compiled_names(POLICY_KEYS)
cdef Names USAGE = compiled_names(frozenset({b"usage"}))
cdef int MODEL = POLICY.keys.index(b"model")
cdef int STREAM = POLICY.keys.index(b"stream")
cdef int OPTIONS = POLICY.keys.index(b"stream_options")
cdef int[3] MOST
MOST[:] = [
    POLICY.keys.index(name)
    for name in (b"max_tokens", b"max_completion_tokens", b"max_output_tokens")
]
cdef int SERVICE = POLICY.keys.index(b"service_tier")
cdef int TOOLS = POLICY.keys.index(b"tools")
cdef int CHOICES = POLICY.keys.index(b"n")
cdef int BEST_OF = POLICY.keys.index(b"best_of")


cdef struct Order:
    # What policy reads of a body.
    Span model  # with its quotes
    Span options
    bint stream
    bint wants_usage
    bint tools
    long long most
    long long choices


cdef bytes COMMENT = b"%x\r\n%b\r\n" % (len(KEEP_ALIVE), KEEP_ALIVE)


# -- reading a request ------------------------------------------------------------------------


cdef bint read_count(const unsigned char *body, Span span, long long *into) noexcept:
    """Read a plain number; anything else is for the standard lane to judge."""
    cdef Py_ssize_t at
    cdef long long value = 0
    if not 0 < span.end - span.start <= MOST_DIGITS:
        return False
    for at in range(span.start, span.end):
        if not c'0' <= body[at] <= c'9':
            return False
        value = value * 10 + (body[at] - c'0')
    if value > into[0]:
        into[0] = value
    return True


cdef int read_options(const unsigned char *body, Span span) noexcept:
    """Tell what `{"include_usage": …}` says, -1 for any other object."""
    cdef const unsigned char *at = body + span.start
    cdef const unsigned char *end = body + span.end
    if end - at < 2 or at[0] != c'{':
        return -1
    at = skip_space(at + 1, end)
    if end - at < 16 or memcmp(at, b'"include_usage"', 15) != 0:
        return -1
    at = skip_space(at + 15, end)
    if at == end or at[0] != c':':
        return -1
    at = skip_space(at + 1, end)
    if end - at >= 5 and memcmp(at, b"true", 4) == 0:
        return 1 if skip_space(at + 4, end) == end - 1 else -1
    if end - at >= 6 and memcmp(at, b"false", 5) == 0:
        return 0 if skip_space(at + 5, end) == end - 1 else -1
    return -1


cdef bint read_order(const unsigned char *body, Py_ssize_t size, Order *order) noexcept:
    """Read a body in which everything policy reads is plainly written; False otherwise."""
    cdef Span[64] found
    cdef unsigned long long seen = 0
    cdef int fault = 0
    cdef int index
    if find_spans(body, size, POLICY, found, &seen, &fault) != FINE:
        return False
    if not seen >> MODEL & 1:
        return False
    order.model = found[MODEL]
    if order.model.end - order.model.start < 3 or body[order.model.start] != c'"':
        return False
    for at in range(order.model.start + 1, order.model.end - 1):
        if body[at] == c'\\' or body[at] < 32:
            return False
    order.stream = False
    if seen >> STREAM & 1:
        index = found[STREAM].start
        if found[STREAM].end - index == 4 and memcmp(body + index, b"true", 4) == 0:
            order.stream = True
        elif found[STREAM].end - index != 5 or memcmp(body + index, b"false", 5) != 0:
            return False
    order.wants_usage = False
    order.options = Span(0, 0)
    if seen >> OPTIONS & 1:
        order.options = found[OPTIONS]
        index = read_options(body, order.options)
        if index < 0:
            return False
        order.wants_usage = index == 1
    if seen >> SERVICE & 1:
        index = found[SERVICE].start
        if found[SERVICE].end - index != 6 or memcmp(body + index, b'"auto"', 6) != 0:
            return False
    order.tools = seen >> TOOLS & 1
    order.most = -1
    for index in range(3):
        if seen >> MOST[index] & 1 and not read_count(body, found[MOST[index]], &order.most):
            return False
    order.choices = 1
    if seen >> CHOICES & 1 and not read_count(body, found[CHOICES], &order.choices):
        return False
    return not seen >> BEST_OF & 1 or read_count(body, found[BEST_OF], &order.choices)


cdef bytes read_key(FastLane lane, const unsigned char *head):
    """Give the one key the head carries, None when it is not plainly there."""
    cdef int index, found = -1
    for index in range(OTHER_KEYS):
        if lane.request.start[index] >= 0:
            if found >= 0:
                return None
            found = index
    if found < 0:
        return None
    cdef Py_ssize_t start = lane.request.start[found]
    cdef Py_ssize_t end = lane.request.end[found]
    if found == AUTHORIZATION:
        if end - start < 8 or memcmp(head + start, b"Bearer ", 7) != 0 or head[start + 7] == c' ':
            return None
        start += 7
    return PyBytes_FromStringAndSize(<const char *>head + start, end - start)


cdef bint is_known(FastLane lane, const unsigned char *head):
    """Tell whether the key the head carries has plans."""
    cdef bytes key = read_key(lane, head)
    return key is not None and lane.plans.of_key(lane.sha256(key).digest()) is not None


cdef bint is_plain(FastLane lane, const unsigned char *head) noexcept:
    """Tell whether the head asks for nothing but what plans know."""
    cdef int index
    if lane.request.repeated or lane.request.start[CONTENT_ENCODING] >= 0:
        return False
    for index in range(FIRST_ODD, AFTER_ODD):
        if lane.request.start[index] >= 0:
            return False
    index = lane.request.start[CONTENT_TYPE]
    return (
        index >= 0
        and lane.request.end[CONTENT_TYPE] - index == 16
        and memcmp(head + index, b"application/json", 16) == 0
    )


cdef bytes kind_of(
    FastLane lane, bytes endpoint, const unsigned char *head, const unsigned char *body, Span model
):
    """Give what `flow.plan.kind_of` gives."""
    cdef Py_ssize_t start = lane.request.start[TAGS]
    lane.put_bytes(endpoint)
    lane.put(b"\0", 1)
    lane.put(body + model.start + 1, model.end - model.start - 2)
    lane.put(b"\0", 1)
    if start >= 0:
        lane.put(head + start, lane.request.end[TAGS] - start)
    return lane.taken()


cdef str read_label(FastLane lane, const unsigned char *head):
    """Give the client's request id if it is sane (`flow.accept.is_sane_label`), else None."""
    cdef Py_ssize_t at, start = lane.request.start[REQUEST_ID]
    cdef Py_ssize_t end = lane.request.end[REQUEST_ID]
    if start < 0 or not 0 < end - start <= LONGEST_LABEL:
        return None
    for at in range(start, end):
        if not 32 <= head[at] < 127:
            return None
    return (<bytes>head[start:end]).decode("ascii")


cdef Turn begin_turn(FastLane lane, Client client, bytes data):
    """Begin an exchange, or give None and say why the standard lane must serve it.

    No reason: the request has been refused, nothing is left to do.
    """
    cdef const unsigned char *head = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef const unsigned char *body = head + lane.request.size
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data) - lane.request.size
    cdef long long started = monotonic_ns()
    cdef Order order
    cdef bytes target = head[lane.request.target_start:lane.request.target_end]
    cdef bytes endpoint = lane.routes.get(target)
    if endpoint is None:
        lane.reason = "route"
        return None
    if not is_plain(lane, head):
        lane.reason = "headers"
        return None
    cdef bytes key = read_key(lane, head)
    if key is None:
        lane.reason = "headers"
        return None
    key = lane.sha256(key).digest()
    cdef long long now_ms = epoch_ms()
    cdef KeyPlans known = lane.plans.of_key(key)
    if known is None:
        lane.reason = "no_plan"
        if lane.context.keys.is_unknown(key):
            answer(lane, client, False, refuse_key(
                lane.context, target, read_label(lane, head), now_ms, started,
            ))
        return None
    if not read_order(body, size, &order):
        lane.reason = "body"
        return None
    found = known.plans.get(kind_of(lane, endpoint, head, body, order.model))
    if found is None:
        lane.reason = "no_plan"
        return None
    cdef Refusal refused
    if type(found) is Refusal:
        refused = found
        lane.reason = "stale_plan"
        if (
            refused.key_stamp.live
            and refused.directory_stamp.live
            and lane.freshness.until * 1e9 >= started
        ):
            answer(lane, client, True, refuse_model(
                lane.context, target, read_label(lane, head), now_ms, started, refused,
                order.stream,
            ))
        return None
    cdef Plan plan = found
    if (
        not plan.key_stamp.live
        or not plan.directory_stamp.live
        or not plan.rules_stamp.live
        or (plan.expires_at and plan.expires_at <= now_ms)
        or lane.freshness.until * 1e9 < started
    ):
        lane.reason = "stale_plan"
        return None
    if plan.peers is not None and client.address not in plan.peers:
        lane.reason = "address"
        return None
    if order.tools and not plan.plain:
        lane.reason = "body"
        return None
    cdef Reservation reservation = None
    cdef Amounts amounts = Amounts(0, 0)
    cdef long long estimated = -1, beside = 0
    cdef bint asks = plan.guard is not None and plan.guard.keeper is not None
    if plan.guard is not None:
        if plan.tariff is not None:
            estimated = (<Family>plan.family).estimate(body, size)
            beside = picture_tokens(body, size)
            amounts = plan.tariff.bound(
                estimated, beside, size, order.most, order.choices, order.stream
            )
        if not asks:
            reservation = plan.guard.reserve(now_us(), amounts.tokens, amounts.nano)
        if reservation is None and not asks:
            lane.reason = "limited"
            answer(lane, client, True, refuse_limited(
                lane.context, target, read_label(lane, head), now_ms, started, plan, order.stream,
                now_us(), amounts.tokens, amounts.nano,
            ))
            return None
    cdef Turn turn = Turn.__new__(Turn)
    turn.leg = choose(lane, plan)
    turn.id = lane.ids.next()
    turn.label = read_label(lane, head)
    turn.lane = lane
    turn.client = client
    turn.plan = plan
    if not turn.leg.ready:
        make_ready(turn.leg)
    turn.request = data
    turn.body = lane.request.size
    turn.stream = order.stream
    turn.asks_usage = turn.leg.asks_usage and order.stream and not order.wants_usage
    turn.reservation = reservation
    if reservation is not None and order.stream and plan.tariff is not None:
        turn.slices = Slices(reservation, plan.tariff, order.most, order.choices)
    turn.estimated = -1 if beside else estimated  # pictures say nothing about text
    turn.amounts = amounts
    turn.created_ms = now_ms
    turn.started = started
    if not asks and not turn.write_open_line():
        lane.reason = "journal"
        return None
    lane.gauge.add(1)
    lane.live += 1
    if asks:
        turn.admitting = True
        plan.guard.keeper.reserve(
            plan.guard, turn.id, amounts.tokens, amounts.nano, turn.admitted
        )
    else:
        turn.send(body, size, &order)
    return turn


cdef int answer(FastLane lane, Client client, bint known, bytes refusal) except -1:
    """Send a refusal, if it is one: then there is no reason left for the standard lane."""
    if refusal is not None:
        client.write(refusal)
        lane.refused.add(1)
        if known:
            lane.key_hits.add(1)
        lane.reason = None
    return 0


cdef Leg choose(FastLane lane, Plan plan):
    """Draw a deployment by weight."""
    cdef Leg leg = plan.legs[0]
    if plan.weight <= 0 or len(plan.legs) == 1:
        return leg
    cdef long long drawn = lane.roll() % <unsigned long long>plan.weight
    for leg in plan.legs:
        drawn -= leg.weight
        if drawn < 0:
            return leg
    return leg


cdef int make_ready(Leg leg) except -1:
    """Take the prices over as C integers, once."""
    if leg.priced:
        take_prices(leg.prices, &leg.lines)
    leg.ready = True
    return 0


# -- small texts --------------------------------------------------------------------------------


cdef int put_ascii(FastLane lane, str text) except -1:
    """Append a text of ASCII characters and the end of its line."""
    lane.put(PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))
    return lane.put(b"\r\n", 2)


cdef bytes chunk(bytes data):
    """Give bytes as one chunk."""
    cdef char[16] digits
    cdef int at = 16
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t left = size
    while left:
        at -= 1
        digits[at] = b"0123456789abcdef"[left & 15]
        left >>= 4
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 16 - at + size + 4)
    cdef char *to = PyBytes_AS_STRING(made)
    memcpy(to, digits + at, 16 - at)
    to += 16 - at
    memcpy(to, b"\r\n", 2)
    memcpy(to + 2, PyBytes_AS_STRING(data), size)
    memcpy(to + 2 + size, b"\r\n", 2)
    return made


# -- the exchange -------------------------------------------------------------------------------


cdef class Turn(Sink):
    """One exchange, the sink of its attempt.

    As a deadline it is the silence towards the client: while a stream is silent for so long, a
    comment line is sent.
    """

    cdef bint write_open_line(self):
        """Tell whether the journal has taken the exchange; if it has no room nothing is held."""
        self.kept = self.lane.journal.c_open(
            self.leg.who, self.id, self.label, self.created_ms, self.stream, self.amounts.nano,
            self.amounts.tokens, max(self.estimated, 0),
        )
        if not self.kept and self.reservation is not None:
            self.reservation.release(now_us())
            self.reservation = None
        self.noted = self.amounts.tokens
        return self.kept

    cdef object note_more(self):
        """Tell the journal what the stream has reserved by now: so much is held if we die."""
        self.noted = self.reservation.tokens
        self.kept += self.lane.journal.c_open(
            self.leg.who, self.id, self.label, self.created_ms, self.stream,
            self.reservation.nano, self.reservation.tokens, max(self.estimated, 0),
        )

    def admitted(self, outcome):
        """Go on with what the keeper of limits and budgets answered."""
        cdef FastLane lane = self.lane
        cdef const unsigned char *head = <const unsigned char *>PyBytes_AS_STRING(self.request)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.request)
        cdef Order order
        if not self.admitting:  # the client has left
            if type(outcome) is Reservation:
                (<Reservation>outcome).release(now_us())
            return
        self.admitting = False
        if type(outcome) is Reservation:
            self.reservation = outcome
            if self.write_open_line():
                # others have used the scratch meanwhile
                lane.request.looked = 0
                read_request(head, size, lane.fields, &lane.request)
                read_order(head + self.body, size - self.body, &order)
                if self.stream and self.plan.tariff is not None:
                    self.slices = Slices(
                        outcome, self.plan.tariff, order.most, order.choices
                    )
                self.send(head + self.body, size - self.body, &order)
                if self.client.full:
                    self.pause()
                return
        lane.gauge.add(-1)
        lane.live -= 1
        refusal = None
        if self.reservation is None and type(outcome) is not Reservation:
            refusal = refuse_shared(
                lane.context, self.plan, self.id, self.label, self.created_ms, self.started,
                self.stream, self.amounts.tokens, self.amounts.nano, outcome,
            )
        if refusal is None:  # budgets have to be read, or the journal has no room
            self.client.surrender(self.request, None, "limits")
            return
        self.client.write(refusal)
        lane.refused.add(1)
        lane.key_hits.add(1)
        self.client.turn_over(False)

    cdef object send(self, const unsigned char *at, Py_ssize_t size, void *given):
        """Send the request: the body as it is but for the model's name and the wish for usage."""
        cdef Order *order = <Order *>given
        cdef FastLane lane = self.lane
        cdef Leg leg = self.leg
        cdef const unsigned char *head = <const unsigned char *>PyBytes_AS_STRING(self.request)
        cdef Edit[2] edits
        cdef int count = 0
        cdef int index
        cdef Py_ssize_t length = size
        cdef bytes label, default
        cdef object parts = ()
        if leg.model_json is not None:
            edits[0] = Edit(order.model.start, order.model.end, <void *>leg.model_json)
            count = 1
        if self.asks_usage and order.options.end:
            edits[count] = Edit(order.options.start, order.options.end, <void *>ASKED)
            count += 1
        elif self.asks_usage:
            index = skip_space(at, at + size) - at + 1  # after the opening brace
            edits[count] = Edit(index, index, <void *>ASK)
            count += 1
        if count == 2 and edits[1].start < edits[0].start:
            edits[0], edits[1] = edits[1], edits[0]
        for index in range(count):
            length += PyBytes_GET_SIZE(<bytes>edits[index].new) - edits[index].end
            length += edits[index].start
        lane.put_bytes(leg.prefix)
        for index, label, default in leg.forward:
            if lane.request.start[index] >= 0:
                lane.put_bytes(label)
                lane.put(head + lane.request.start[index],
                         lane.request.end[index] - lane.request.start[index])
                lane.put(b"\r\n", 2)
            elif default:
                lane.put_bytes(label)
                lane.put_bytes(default)
                lane.put(b"\r\n", 2)
        lane.put_bytes(ACCEPT_EVENTS if self.stream else ACCEPT_JSON)
        lane.put_number(length)
        lane.put(b"\r\n\r\n", 4)
        if length <= JOINED:
            self.put_body(at, size, edits, count)
        else:
            parts = self.body_parts(edits, count)
        self.attempt = leg.origin.send(lane.taken(), parts, self, leg.timeouts, leg.replay)
        self.sent = monotonic_ns()
        if self.stream:
            lane.deadlines.arm_in(self, lane.commit_line)

    cdef int put_body(
        self, const unsigned char *at, Py_ssize_t size, Edit *edits, int count
    ) except -1:
        """Append the body, edited."""
        cdef Py_ssize_t start = 0
        cdef int index
        for index in range(count):
            self.lane.put(at + start, edits[index].start - start)
            self.lane.put_bytes(<bytes>edits[index].new)
            start = edits[index].end
        return self.lane.put(at + start, size - start)

    cdef list body_parts(self, Edit *edits, int count):
        """Give the same in parts, without a copy of what is large."""
        cdef object body = memoryview(self.request)
        cdef Py_ssize_t start = self.body
        cdef list parts = []
        cdef int index
        for index in range(count):
            parts.append(body[start:self.body + edits[index].start])
            parts.append(<bytes>edits[index].new)
            start = self.body + edits[index].end
        parts.append(body[start:])
        return parts

    # -- the client's side ----------------------------------------------------------------------

    cdef object pause(self):
        """The client does not keep up."""
        if self.attempt is not None:
            self.attempt.pause()

    cdef object resume(self):
        """The client has caught up."""
        if self.attempt is not None:
            self.attempt.resume()

    cdef object leave(self):
        """The client has left."""
        self.admitting = False
        if self.attempt is not None:
            self.attempt.cancel()
        self.close_slowly(ClientGone("the client left"))

    cdef object stop(self, object error):
        """End it from our side."""
        if self.admitting:
            self.admitting = False
            self.lane.gauge.add(-1)
            self.lane.live -= 1
            self.client.surrender(self.request, None, "stopped")
        elif self.opening is None:
            self.attempt.cancel()
            self.hand_on("stopped", "stop", (error,))
        else:
            self.attempt.cancel()
            self.break_off(error)

    cpdef object expired(self):
        """Give the client a sign of life, or let the standard lane commit the head."""
        cdef FastLane lane = self.lane
        cdef double left
        if self.opening is None:
            if self.tap is not None or self.head is None:
                self.hand_on("slow", None, ())
            return
        if self.attempt.paused:  # it is the client that is slow
            self.heard = lane.deadlines.now
        if self.heard + lane.stream_idle_s <= lane.deadlines.now:
            self.attempt.cancel()
            self.break_off(UpstreamTimeout("the stream was silent for too long", billed=True))
            return
        left = self.written + lane.comment_line.seconds - lane.deadlines.now
        if left <= 0:
            self.client.write(COMMENT)
            self.written = lane.deadlines.now
            left = lane.comment_line.seconds
        lane.deadlines.arm(self, min(left, self.heard + lane.stream_idle_s - lane.deadlines.now))

    # -- the sink -------------------------------------------------------------------------------

    cpdef object upstream_head(self, Head head):
        """Take the provider's head."""
        if head.status != 200 or (head.length < 0 and not head.chunked):
            self.hand_on("answer", "upstream_head", (head,))
            return
        if head.is_of(b"text/event-stream", 17):
            self.tap = Tap(self.asks_usage, LARGEST_EVENT)
        elif head.is_of(b"application/json", 16):
            self.parts = []
        else:
            self.hand_on("answer", "upstream_head", (head,))
            return
        self.head = head

    cpdef object upstream_data(self, bytes data):
        """Take body bytes; pass on what is whole."""
        cdef bytes out
        if self.tap is None:
            self.parts.append(data)
            self.held += PyBytes_GET_SIZE(data)
            if self.held > HELD:
                self.hand_on("large", None, ())
            return
        try:
            out = self.tap.feed(data)
        except EventTooLarge as exc:
            error = UpstreamProtocolError("the provider sent too large an event", billed=True)
            if exc.passed:
                self.pass_on(exc.passed, None)
            self.stop(error)
            return
        if self.slices is not None:
            if (
                <long long>meter_tokens(&self.tap.meter) >= self.slices.line
                and not self.slices.go_on(now_us(), meter_tokens(&self.tap.meter))
            ):
                self.end_short(out)
                return
            if self.reservation.tokens > self.noted:
                self.note_more()
        if out is not None:
            self.pass_on(out, self.attempt.wrapped if out is data else None)

    cpdef object upstream_end(self):
        """Take the clean end."""
        cdef bytes tail
        if self.tap is None:
            self.answer_whole()
            return
        tail = self.tap.finish()
        if tail:
            self.pass_on(tail, None)
        if self.opening is None:
            self.opening = self.opening_lines()
            self.client.write(self.opening)
        self.finish_stream()

    cpdef object upstream_failed(self, object error):
        """Take the other end."""
        if self.opening is None:
            self.hand_on("fault", "upstream_failed", (error,))
        else:
            self.break_off(error)

    # -- inside ---------------------------------------------------------------------------------

    cdef object hand_on(self, str reason, str event, tuple values):
        """Let the standard lane go on: it gets the request, the attempt and what came so far."""
        cdef FastLane lane = self.lane
        carry = Carry(
            self.id, self.created_ms, self.started, self.sent, self.leg.deployment, self.attempt,
            self.plan.tariff, self.reservation, self.slices, self.kept, self.forsake,
        )
        if self.head is not None:
            carry.upstream_head(self.head)
        for part in self.parts or ():
            carry.upstream_data(part)
        if self.tap is not None and event is None:
            rest = self.tap.finish()
            if rest:
                carry.upstream_data(rest)
        if event is not None:
            getattr(carry, event)(*values)
        if not self.attempt.is_over():
            self.attempt.sink = carry
        lane.deadlines.disarm(self)
        lane.gauge.add(-1)
        lane.live -= 1
        self.client.surrender(self.request, carry, reason)
        self.attempt = None

    cdef object pass_on(self, bytes out, bytes came):
        """Write whole events; `came` is the same in whole chunks, as the provider sent it."""
        if self.plan.numbered:
            self.last = out
        if came is None and PyBytes_GET_SIZE(out) <= JOINED:
            came = chunk(out)
        if self.opening is None:
            self.first = monotonic_ns()
            self.opening = self.opening_lines()
            if self.slices is not None and self.plan.endpoint == "responses":
                self.first_events = out
            self.lane.deadlines.arm_in(self, self.lane.comment_line)
            if came is not None:
                came = self.opening + came
            else:
                self.client.write(self.opening)
        if came is not None:
            self.client.write(came)
        else:  # what is large is not copied
            self.client.write(b"%x\r\n" % len(out))
            self.client.write(out)
            self.client.write(b"\r\n")
        self.written = self.heard = self.lane.deadlines.now

    cdef object end_short(self, bytes out):
        """End a stream that has used up all it could reserve, as its own maximum would end it."""
        self.attempt.cancel()
        if out is not None:
            self.pass_on(out, None)
        exchange = self.exchange_now(None)
        events = ending_of(exchange, out or b"")
        account(exchange, self.lane.context)
        self.client.write(chunk(events) + b"0\r\n\r\n")
        self.over()
        self.client.turn_over(False)

    cdef object break_off(self, object error):
        """End a stream that cannot go on: an event says why, and it has no clean end."""
        if isinstance(error, UpstreamFault):
            self.lane.context.metrics.upstream_error(self.leg.provider, error.code)
        shape = shapes(self.plan.client_api, self.plan.endpoint)
        self.client.write(chunk(shape.error_event(error, self.label or self.id, self.last or b"")))
        self.close_slowly(error)
        self.client.turn_over(True)

    cdef object finish_stream(self):
        """Account for a stream that came to its end, and only then let the client see the end."""
        cdef Tokens tokens
        cdef long long cost
        cdef Tap tap = self.tap
        cdef bytes first = tap.first_usage if self.leg.tells_twice else None
        if tap.error is not None:
            self.close_slowly(UpstreamFault("the provider reported an error inside the stream"))
        elif tap.usage is None or tap.usage is first or not read_event_usage(
            <const unsigned char *>PyBytes_AS_STRING(tap.usage), PyBytes_GET_SIZE(tap.usage),
            <const unsigned char *>PyBytes_AS_STRING(first) if first is not None else NULL,
            PyBytes_GET_SIZE(first) if first is not None else 0, &tokens,
        ):
            self.close_slowly(None)
        else:
            cost = cost_of(&tokens, &self.leg.lines) if self.leg.priced else 0
            self.settle(&tokens, cost)
            self.close_books(&tokens, cost)
        self.client.write(b"0\r\n\r\n")
        self.client.turn_over(False)

    cdef object answer_whole(self):
        """Send a whole answer in one write."""
        cdef bytes body = <bytes>self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(body)
        cdef Span[64] found
        cdef unsigned long long seen = 0
        cdef int fault = 0
        cdef Tokens tokens
        cdef long long cost = 0
        cdef bytes answer
        if (
            find_spans(at, PyBytes_GET_SIZE(body), USAGE, found, &seen, &fault) != FINE
            or not seen
            or not read_usage(at + found[0].start, found[0].end - found[0].start, &tokens)
        ):
            self.hand_on("answer", "upstream_end", ())
            return
        self.first = monotonic_ns()
        if self.leg.priced:
            cost = cost_of(&tokens, &self.leg.lines)
        self.settle(&tokens, cost)
        self.put_lines()
        if self.leg.priced:
            self.lane.put(b"x-fastgw-cost: ", 15)
            self.lane.put_usd(cost)
            self.lane.put(b"\r\n", 2)
        self.lane.put(b"content-length: ", 16)
        self.lane.put_number(PyBytes_GET_SIZE(body))
        self.lane.put(b"\r\n\r\n", 4)
        self.lane.put_bytes(body)
        answer = self.lane.taken()
        self.close_books(&tokens, cost)
        self.client.write(answer)
        self.client.turn_over(False)

    cdef bytes opening_lines(self):
        """Give the head of a stream."""
        self.put_lines()
        self.lane.put(b"transfer-encoding: chunked\r\n\r\n", 30)
        return self.lane.taken()

    cdef int put_lines(self) except -1:
        """Append the head of a 200, but for what says how the body is framed."""
        cdef FastLane lane = self.lane
        cdef Plan plan = self.plan
        cdef str label = self.label if self.label is not None else self.id
        cdef bytes start
        lane.put(b"HTTP/1.1 200 OK\r\n", 17)
        lane.put_bytes(self.head.relabel(self.leg.labels))
        lane.put(b"content-type: ", 14)
        lane.put_bytes(self.head.content_type)
        lane.put(b"\r\n", 2)
        for start in plan.label_starts:
            lane.put_bytes(start)
            put_ascii(lane, label)
        lane.put(b"x-fastgw-id: ", 13)
        put_ascii(lane, self.id)
        lane.put_bytes(self.leg.signature)
        if plan.guard is not None:
            lane.put_bytes(plan.guard.fields(now_us()))
        lane.put_bytes(lane.date_field(epoch_ms()))
        if lane.draining:
            lane.put(b"connection: close\r\n", 19)
        return 0

    # -- the books ------------------------------------------------------------------------------

    cdef void settle(self, Tokens *tokens, long long cost) noexcept:
        """Settle what was reserved, as `flow.account.count` does."""
        cdef Reservation held = self.reservation
        cdef long long now
        cdef Py_ssize_t place
        if held is None:
            return
        now = now_us()
        for place in self.leg.forgone:
            held.forgo(place, now)
        held.settle(now, tokens.input + tokens.output, cost)
        if self.plan.tariff is not None:
            self.plan.tariff.family.observe(self.estimated, tokens.input)
            if self.slices is not None:
                self.plan.tariff.learn_answer(
                    meter_tokens(&self.tap.meter), tokens.output, tokens.reasoning,
                    self.slices.choices,
                )
        if held.guard.wants_money and cost > held.nano:
            self.lane.overrun_nano.add(cost - held.nano)

    cdef object close_books(self, Tokens *tokens, long long cost):
        """Account for an exchange that ended well and whose usage the provider reported.

        The same that `flow.account.account` does of it; the differential test compares both.
        """
        cdef Leg leg = self.leg
        cdef Plan plan = self.plan
        cdef FastLane lane = self.lane
        cdef long long ended = monotonic_ns()
        cdef Closing closing
        leg.requests.add(1)
        leg.duration.observe((ended - self.started) / 1e9)
        leg.upstream.observe((ended - self.sent) / 1e9)
        leg.overhead.observe((self.sent - self.started) / 1e9)
        if self.stream:
            leg.first_token.observe((self.first - self.sent) / 1e9)
        leg.input.add(tokens.input)
        leg.output.add(tokens.output)
        leg.cached.add(tokens.cached)
        leg.cache_write.add(tokens.cache_write)
        leg.reasoning.add(tokens.reasoning)
        leg.cost_nano.add(cost)
        closing.status = 200
        closing.attempts = 1
        closing.stream = self.stream
        closing.source = 0
        closing.input = tokens.input
        closing.output = tokens.output
        closing.cached = tokens.cached
        closing.cache_write = tokens.cache_write
        closing.reasoning = tokens.reasoning
        closing.nano = cost
        closing.duration_ms = (ended - self.started) // 1_000_000
        closing.ttft_ms = (self.first - self.sent) // 1_000_000 if self.first else -1
        closing.overhead_us = (self.sent - self.started) // 1000
        lane.journal.c_close(
            self.kept, leg.who, self.id, self.label, self.created_ms, &closing, None
        )
        if lane.record is not None:
            lane.record(UsageRecord(
                self.id,
                self.label if self.label is not None else self.id,
                self.created_ms,
                plan.key_id,
                plan.user_id,
                plan.team_id,
                plan.org_id,
                plan.tags,
                plan.endpoint,
                plan.requested_model,
                leg.provider,
                leg.model,
                200,
                1,
                self.stream,
                tokens.input,
                tokens.output,
                tokens.cached,
                tokens.cache_write,
                tokens.reasoning,
                cost,
                "reported",
                (ended - self.started) // 1_000_000,
                (self.first - self.sent) // 1_000_000 if self.first else None,
                (self.sent - self.started) // 1000,
                None,
            ))
        self.over()

    cdef object close_slowly(self, object error):
        """Account for any other end, by the stages' own rules."""
        self.account_for(error)
        self.over()

    def forsake(self):
        """Account for an exchange that was handed on, and whose client left before it was taken."""
        self.account_for(ClientGone("the client left"))

    cdef object account_for(self, object error):
        account(self.exchange_now(error), self.lane.context)

    cdef object exchange_now(self, object error):
        """Give the exchange as the stages know it."""
        return exchange_of(
            self.plan,
            self.leg,
            reservation=self.reservation,
            slices=self.slices,
            kept=self.kept,
            first_events=self.first_events or b"",
            id=self.id,
            label=self.label,
            created_at=self.created_ms,
            times=(self.started, self.sent, self.first),
            status=0 if self.opening is None else 200,
            stream=self.stream,
            body=self.request[self.body:],
            tap=self.tap,
            error=error,
        )

    cdef object over(self):
        cdef FastLane lane = self.lane
        lane.served.add(1)
        lane.key_hits.add(1)
        lane.gauge.add(-1)
        lane.live -= 1
        lane.deadlines.disarm(self)
