# cython: language_level=3, annotation_typing=False, nonecheck=True
"""One HTTP/1.1 connection to an upstream and the attempt it carries. Touches its socket only.

A connection is a callback state machine: no task, no future and no timer of its own. Its states,
with what moves it on:

    IDLE --start--> HEAD --final head--> LENGTH | CHUNKED | UNTIL_CLOSE --end of body--> IDLE
    HEAD --head without a body--> IDLE
    any --close, cancel, failure, a deadline--> CLOSED

One text: compiled when a compiler is there (`connection.pxd` holds the types), plain Python
otherwise. Sinks are called as plain Python objects; each call may cancel the attempt, so after each
the connection looks whether it still carries it.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import select
import socket
import ssl
import struct
import termios
from collections.abc import Sequence
from enum import IntEnum

from fastgw._ext import http1
from fastgw.domain import Timeouts
from fastgw.errors import (
    UpstreamClosed,
    UpstreamFault,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from fastgw.upstream.deadlines import TICK_S, Deadline, Deadlines, Line

JOIN_BYTES = 16384
"""Parts up to this size are joined to one write; a copy costs less than a second iovec entry."""
WHOLE_BYTES = 65536
"""A request larger than this may still be leaving when its answer is complete."""
FRESH_S = 0.02
"""A connection that was read from this short a time ago is taken to be open."""
BYTES_ACKED_AT = 120
"""Offset of tcpi_bytes_acked in struct tcp_info (linux/tcp.h, since Linux 4.1)."""
MAX_INTERIM = 8
"""1xx answers before the final one; nobody needs more than a 100 and a few early hints."""
IDLE_STEPS = 64
"""An idle deadline is re-armed in steps of this part of itself, so that few durations exist."""


class State(IntEnum):
    """What a connection waits for."""

    IDLE = 0
    HEAD = 1
    LENGTH = 2
    CHUNKED = 3
    UNTIL_CLOSE = 4
    CLOSED = 5


MAX_HEAD = http1.MAX_HEAD
parse_head = http1.parse_head
new_dechunker = http1.Dechunker

# The same as C integers in the compiled build.
_IDLE = int(State.IDLE)
_HEAD = int(State.HEAD)
_LENGTH = int(State.LENGTH)
_CHUNKED = int(State.CHUNKED)
_UNTIL_CLOSE = int(State.UNTIL_CLOSE)
_CLOSED = int(State.CLOSED)


class Sink(Deadline):
    """Who receives an answer: one head, data, then exactly one of end and failed.

    Nothing is called before `send` returned or after `cancel`. Up to one read of data (and the
    end) may still come after `pause`. As a deadline it is its own patience.
    """

    __slots__ = ()

    def upstream_head(self, head: http1.Head) -> None:
        """Take the final response head."""
        raise NotImplementedError

    def upstream_data(self, data: bytes) -> None:
        """Take body bytes, framing removed."""
        raise NotImplementedError

    def upstream_end(self) -> None:
        """Take the end: the answer is complete."""
        raise NotImplementedError

    def upstream_failed(self, error: UpstreamFault) -> None:
        """Take the failure; part of the answer may have been delivered."""
        raise NotImplementedError


class Owner:
    """Who keeps connections; the base of `fastgw.upstream.origin.Origin`."""

    __slots__ = ()

    def released(self, connection: Connection) -> None:
        """Take a connection whose answer is complete; it can carry another request."""
        raise NotImplementedError

    def discard(self, connection: Connection) -> None:
        """Forget an idle connection: it is of no more use."""
        raise NotImplementedError

    def lost(self, connection: Connection) -> None:
        """Forget a connection whose socket is closed."""
        raise NotImplementedError

    def replay(self, attempt: Attempt) -> None:
        """Send an attempt on a fresh connection: the old one was dead already."""
        raise NotImplementedError

    def withdraw(self, attempt: Attempt) -> None:
        """Let an attempt wait no longer for a connection."""
        raise NotImplementedError


class Pace:
    """The time-outs of an attempt, with the lines their deadlines stand in."""

    __slots__ = ("first_byte", "idle", "timeouts", "total")

    timeouts: Timeouts
    first_byte: Line
    idle: Line
    total: Line

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self.first_byte = Line(timeouts.first_byte_s)
        self.idle = Line(timeouts.idle_s)
        self.total = Line(timeouts.total_s)


class Attempt(Deadline):
    """One request on its way, as its sender holds it. As a deadline it is the total time.

    `reused` says that the connection had carried a request before; `sent_at` is the time on the
    pool's clock at which the request was written, 0.0 before. `wrapped`, while the sink takes data,
    is the same data in whole chunks as they came, if that is how they came.
    """

    __slots__ = (
        "__weakref__", "connection", "deadlines", "head", "label", "owner", "pace", "parts",
        "paused", "replayable", "replayed", "reused", "sent_at", "sink", "wrapped",
    )  # fmt: skip

    deadlines: Deadlines
    owner: Owner
    label: str
    connection: Connection | None
    head: bytes | None
    parts: Sequence[bytes] | None
    sink: Sink | None
    pace: Pace
    wrapped: bytes | None

    def begin(
        self,
        deadlines: Deadlines,
        owner: Owner,
        label: str,
        head: bytes,
        parts: Sequence[bytes],
        sink: Sink,
        pace: Pace,
        replayable: bool,
    ) -> None:
        """Fill a new attempt; a constructor's arguments would cost as much as all the rest."""
        self.line = self.before = self.after = None
        self.deadlines = deadlines
        self.owner = owner
        self.label = label
        self.connection = None
        self.head = head
        self.parts = parts
        self.sink = sink
        self.pace = pace
        self.replayable = replayable
        self.replayed = False
        self.reused = False
        self.paused = False
        self.sent_at = 0.0
        self.wrapped = None

    def is_over(self) -> bool:
        """Tell whether its sink was told the end, or does not want to hear it."""
        return self.sink is None

    def pause(self) -> None:
        """Stop reading from the upstream: the client does not keep up."""
        if self.sink is not None and not self.paused:
            self.paused = True
            if self.connection is not None:
                self.connection.pause()

    def resume(self) -> None:
        """Read on."""
        if self.paused:
            self.paused = False
            if self.connection is not None:
                self.connection.resume()

    def cancel(self) -> None:
        """Give up: the connection is dropped at once and the sink hears nothing more."""
        if self.sink is None:
            return
        connection = self.connection
        if connection is None:
            self.owner.withdraw(self)
        self.detach()
        if connection is not None:
            connection.attempt = None
            connection.close()

    def fail(self, error: UpstreamFault) -> None:
        """End it with an error, unless it is over."""
        if self.connection is not None:
            self.connection.fail(error)
        elif self.sink is not None:
            self.owner.withdraw(self)
            self.detach().upstream_failed(error)

    def detach(self) -> Sink:
        """End it: give the sink for its last call, let go of everything else."""
        sink = self.sink
        assert sink is not None
        self.sink = None
        self.connection = None
        self.head = None
        self.parts = None
        self.deadlines.disarm(self)
        return sink

    def expired(self) -> None:
        """Fail: the whole attempt took too long."""
        seconds = self.pace.total.seconds
        self.fail(
            UpstreamTimeout(
                f"{self.label} did not finish its answer within {seconds:g} s (total time-out)",
                billed=self.sent_at > 0.0,
            )
        )


class Connection(Deadline):
    """A connection to one upstream; an `asyncio.Protocol` by its methods.

    As a deadline it is the current step's: first byte, idle, or the rest in the pool.
    """

    __slots__ = (
        "__weakref__", "attempt", "bodyless", "deadlines", "dechunker", "earlier", "head", "heard",
        "interim", "keep_s", "label", "last", "left", "owner", "paused", "pending", "poll",
        "secure", "state", "transport", "used", "written",
    )  # fmt: skip

    deadlines: Deadlines
    owner: Owner
    transport: asyncio.Transport | None
    attempt: Attempt | None
    head: http1.Head | None
    dechunker: http1.Dechunker | None
    poll: select.poll | None
    state: int

    def __init__(self, deadlines: Deadlines, owner: Owner, label: str) -> None:
        super().__init__()
        self.deadlines = deadlines
        self.owner = owner
        self.label = label
        self.transport = None
        self.attempt = None
        self.head = None
        self.dechunker = None
        self.poll = None
        self.state = _IDLE
        self.pending = b""
        self.left = 0
        self.earlier = 0
        self.written = 0
        self.secure = False
        self.interim = 0
        self.keep_s = -1
        self.last = 0.0
        self.heard = False
        self.bodyless = False
        self.used = False
        self.paused = False

    def __repr__(self) -> str:
        kind = "reused" if self.used else "fresh"
        return f"<Connection {self.label} {State(self.state).name} {kind}>"

    # -- predicates --------------------------------------------------------------------------

    def is_idle(self) -> bool:
        """Tell whether it can carry a request."""
        return self.state == _IDLE

    def is_closed(self) -> bool:
        """Tell whether it is of no more use."""
        return self.state == _CLOSED

    def is_quiet(self) -> bool:
        """Tell whether nothing, a close least of all, waits in the receive queue.

        One poll(2), some 0.5 us: the loop sees a close only when it polls next, and a request
        written in between could not be told from one the upstream has read. Just after an answer
        it is not worth that much; `is_unacknowledged` still guards the request.
        """
        if self.deadlines.now - self.last < FRESH_S:
            return True
        return self.poll is not None and not self.poll.poll(0)

    def is_unacknowledged(self) -> bool:
        """Tell whether the upstream's kernel acknowledged no byte of the request.

        Proof that nobody read it only together with the upstream's FIN, which acknowledges all
        that came before it. A RST acknowledges nothing: a request read a moment ago looks the same
        as one that was never delivered, because acknowledgements are delayed.

        Acknowledgements are cumulative: no more than what earlier requests wrote (and the SYN, one
        byte) means nothing of this one. Under TLS we do not know what was written; there, as many
        bytes in the send queue as the request has mean that at most the overhead of its records,
        22 bytes in 16 KiB, was acknowledged: never a complete request. A socket that was reset
        still answers both questions (tcp(7): TCP_INFO, SIOCOUTQ).
        """
        if self.transport is None:
            return False
        sock = self.transport.get_extra_info("socket")
        try:
            if self.secure:
                queue = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
                queued: int = struct.unpack("i", queue)[0]
                return queued >= self.written
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED_AT + 8)
        except (OSError, ValueError):
            # no such descriptor any more: nothing is known
            return False
        acked: int = struct.unpack_from("Q", info, BYTES_ACKED_AT)[0]
        return acked <= self.earlier + 1

    def is_clean_end(self) -> bool:
        """Tell whether a close is the upstream's: under TLS it says so by close_notify.

        Without that anybody on the way may have cut the body (RFC 9112 section 9.8). uvloop fails
        the connection then; plain asyncio reports an end like any other.
        """
        if not self.secure or self.transport is None:
            return True
        try:
            rest: bytes = self.transport.get_extra_info("ssl_object").read(1)
        except ssl.SSLError:
            return False
        return not rest

    # -- the owner's side --------------------------------------------------------------------

    def start(self, attempt: Attempt) -> None:
        """Write the attempt's request; the connection is idle and `deadlines.now` exact."""
        assert self.state == _IDLE
        assert attempt.head is not None
        assert attempt.parts is not None
        self.attempt = attempt
        attempt.connection = self
        attempt.reused = self.used
        attempt.sent_at = self.deadlines.now
        self.used = True
        self.heard = False
        self.interim = 0
        self.earlier += self.written
        self.bodyless = attempt.head.startswith(b"HEAD ")
        self.state = _HEAD
        self.deadlines.arm_in(self, attempt.pace.first_byte)
        if attempt.paused:
            self.pause()
        self.write(attempt.head, attempt.parts)

    def write(self, head: bytes, parts: Sequence[bytes]) -> None:
        """Write a request: neighbours joined while they are small, large parts as they are."""
        transport = self.transport
        assert transport is not None
        size = len(head)
        for part in parts:
            size += len(part)
        self.written = size
        if not parts:
            transport.write(head)
            return
        if size <= JOIN_BYTES:
            transport.write(b"".join((head, *parts)))
            return
        small = [head]
        size = len(head)
        for part in parts:
            if size + len(part) > JOIN_BYTES:
                if small:
                    transport.write(b"".join(small))
                small = []
                size = 0
            if len(part) > JOIN_BYTES:
                transport.write(part)
            else:
                small.append(part)
                size += len(part)
        if small:
            transport.write(b"".join(small))

    def pause(self) -> None:
        """Stop reading."""
        if not self.paused and self.transport is not None:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on; the upstream was not silent meanwhile, we were deaf."""
        if self.paused and self.transport is not None:
            self.paused = False
            self.last = self.deadlines.now
            self.transport.resume_reading()

    def fail(self, error: UpstreamFault) -> None:
        """End the attempt with an error; the connection is not used again."""
        attempt = self.attempt
        self.attempt = None
        self.close()
        if attempt is not None and attempt.sink is not None:
            attempt.detach().upstream_failed(error)

    def close(self) -> None:
        """Close the socket at once, unsent bytes dropped."""
        self.state = _CLOSED
        self.head = None
        self.dechunker = None
        self.pending = b""
        self.deadlines.disarm(self)
        if self.transport is not None:
            self.transport.abort()

    def expired(self) -> None:
        """Act on the deadline of the current step."""
        attempt = self.attempt
        if attempt is None:
            self.owner.discard(self)
            self.close()
        elif self.state == _HEAD:
            seconds = attempt.pace.first_byte.seconds
            self.fail(
                UpstreamTimeout(
                    f"{self.label} sent no answer within {seconds:g} s (first-byte time-out)",
                    billed=True,
                )
            )
        else:
            self.check_idle(attempt)

    def check_idle(self, attempt: Attempt) -> None:
        """Fail when the upstream was silent for too long, else come back when it might be."""
        seconds = attempt.pace.idle.seconds
        # reads are stamped with the time of the last sweep, up to a tick early
        left = self.last + seconds + TICK_S - self.deadlines.now
        if self.paused:
            left = seconds
        if left > 0:
            step = seconds / IDLE_STEPS
            self.deadlines.arm(self, math.ceil(left / step) * step)
            return
        self.fail(
            UpstreamTimeout(
                f"{self.label} was silent for {seconds:g} s (idle time-out)", billed=True
            )
        )

    # -- the loop's side ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take the connected (and, under TLS, verified) transport."""
        self.transport = transport
        self.secure = transport.get_extra_info("ssl_object") is not None
        self.poll = select.poll()
        self.poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        self.heard = True
        self.last = self.deadlines.now
        if self.state == _CHUNKED:
            self.take_chunked(data)
        elif self.state == _LENGTH:
            self.take_length(data)
        elif self.state == _HEAD:
            self.take_head(data)
        elif self.state == _UNTIL_CLOSE:
            if self.attempt is not None and self.attempt.sink is not None:
                self.attempt.sink.upstream_data(data)
        elif self.state == _IDLE:
            # nobody asked: whatever it is, it must not become the answer to the next request
            self.owner.discard(self)
            self.close()

    def eof_received(self) -> None:
        """Take the upstream's close: the end of some bodies, the loss of all others."""
        if self.state == _UNTIL_CLOSE and self.is_clean_end():
            self.complete(False)
        elif self.attempt is not None:
            self.broken(True)
        elif self.state == _IDLE:
            self.owner.discard(self)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the socket, whoever ended it."""
        if self.attempt is not None:
            # a write after the upstream's FIN fails as EPIPE, after a bare RST as ECONNRESET
            self.broken(isinstance(exc, BrokenPipeError))
        elif self.state == _IDLE:
            self.owner.discard(self)
        self.state = _CLOSED
        self.deadlines.disarm(self)
        self.transport = None
        self.poll = None
        self.owner.lost(self)

    def pause_writing(self) -> None:
        """Do nothing: a request is handed over whole, there is nobody to slow down."""

    def resume_writing(self) -> None:
        """Count the time to the first byte from when a large request has left."""
        attempt = self.attempt
        if attempt is not None and self.state == _HEAD:
            self.deadlines.arm_in(self, attempt.pace.first_byte)

    # -- reading an answer -------------------------------------------------------------------

    def take_head(self, data: bytes) -> None:
        """Read heads until the final one."""
        if self.pending:
            grown = self.pending + data
            if b"\n" not in data and len(grown) < MAX_HEAD:
                # only whole lines can change the verdict: judging each piece would be quadratic
                self.pending = grown
                return
            data = grown
        while data:
            try:
                head = parse_head(data)
            except ValueError as bad:
                self.refuse(str(bad))
                return
            if head is None:
                break
            if head.status >= 200:
                self.pending = b""
                self.take_final(head, data)
                return
            self.interim += 1
            if head.status == 101 or self.interim > MAX_INTERIM:
                self.refuse("an interim answer nobody asked for")
                return
            data = data[head.size :]
        self.pending = data

    def take_final(self, head: http1.Head, data: bytes) -> None:
        """Take the final head and the bytes behind it."""
        attempt = self.attempt
        assert attempt is not None
        assert attempt.sink is not None
        rest = head.rest(data)
        self.head = head
        # the request can no more be replayed: let go of it
        attempt.head = attempt.parts = None
        self.left = 0
        if self.bodyless or head.status == 204 or head.status == 304:  # noqa: PLR1714 - compiled
            self.state = _LENGTH
        elif head.chunked:
            self.state = _CHUNKED
            self.dechunker = new_dechunker()
        elif head.length >= 0:
            self.state = _LENGTH
            self.left = head.length
        else:
            self.state = _UNTIL_CLOSE
        self.deadlines.arm_in(self, attempt.pace.idle)
        attempt.sink.upstream_head(head)
        if self.attempt is not attempt:
            return
        if self.state == _LENGTH:
            self.take_length(rest)
        elif rest:
            self.data_received(rest)

    def take_length(self, data: bytes) -> None:
        """Take body bytes up to the announced length."""
        attempt = self.attempt
        assert attempt is not None
        assert attempt.sink is not None
        size = len(data)
        excess = size > self.left
        if excess and self.is_final_word():
            self.refuse("bytes after the end of its answer")
            return
        if size and self.left:
            if excess:
                data = data[: self.left]
                size = self.left
            self.left -= size
            attempt.sink.upstream_data(data)
            if self.attempt is not attempt:
                return
        if not self.left:
            self.complete(excess)

    def take_chunked(self, data: bytes) -> None:
        """Take chunks; those of one read go on together."""
        attempt = self.attempt
        assert attempt is not None
        assert attempt.sink is not None
        dechunker = self.dechunker
        assert dechunker is not None
        try:
            pieces = dechunker.feed(data)
        except ValueError as bad:
            self.refuse(str(bad))
            return
        if dechunker.excess and self.is_final_word():
            self.refuse("bytes after the end of its answer")
            return
        if pieces:
            attempt.wrapped = data if dechunker.was_whole() else None
            attempt.sink.upstream_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            attempt.wrapped = None
            if self.attempt is not attempt:
                return
        if dechunker.done:
            self.complete(bool(dechunker.excess))

    def is_final_word(self) -> bool:
        """Tell whether the upstream said that nothing follows this answer.

        Bytes that follow all the same mean that its framing is wrong (a length too short), not
        that it talks out of turn.
        """
        return self.head is not None and not self.head.keep_alive

    def complete(self, excess: bool) -> None:
        """End the attempt well; keep the connection unless something speaks against it."""
        attempt = self.attempt
        head = self.head
        assert attempt is not None
        assert head is not None
        reusable = self.state != _UNTIL_CLOSE and head.keep_alive and not excess
        if self.written > WHOLE_BYTES and self.transport is not None:
            # answered before it was read: the rest of the request is still on its way
            reusable = reusable and self.transport.get_write_buffer_size() == 0
        self.attempt = None
        sink = attempt.detach()
        if reusable:
            self.keep_s = head.idle_s
            self.head = None
            self.dechunker = None
            self.state = _IDLE
            self.deadlines.disarm(self)
            self.resume()
            self.owner.released(self)
        else:
            self.close()
        sink.upstream_end()

    def refuse(self, why: str) -> None:
        """Fail: the answer is not HTTP we accept."""
        self.fail(UpstreamProtocolError(f"{self.label} sent a bad answer: {why}", billed=True))

    def broken(self, finished: bool) -> None:
        """Replay or fail: the connection ended before the answer did, `finished` by a FIN."""
        attempt = self.attempt
        assert attempt is not None
        if self.state != _HEAD or self.heard:
            where = "in its response head" if self.state == _HEAD else "in the middle of its answer"
            self.fail(UpstreamClosed(f"{self.label} closed the connection {where}", billed=True))
            return
        unread = finished and self.is_unacknowledged()
        if attempt.reused and not attempt.replayed and (unread or attempt.replayable):
            self.attempt = None
            attempt.connection = None
            attempt.replayed = True
            self.close()
            self.owner.replay(attempt)
            return
        self.fail(
            UpstreamClosed(
                f"{self.label} closed the connection without an answer", billed=not unread
            )
        )
