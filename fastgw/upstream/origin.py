# cython: language_level=3, annotation_typing=False, nonecheck=True
"""The connections to one target: idle ones, those being made, and the line of who waits for one.

Decides synchronously; sockets are made by the `connect` coroutine it is given. An idle connection
is taken from the top of a stack, so that the least used ones age out. Every failed connect fails
one attempt, the longest waiting: so a dead upstream is tried no more often than it is asked for,
and nobody waits longer than the own connect time-out.

One text: compiled when a compiler is there (`origin.pxd` holds the types), plain Python otherwise.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from fastgw.domain import Timeouts
from fastgw.errors import UpstreamConnectError, UpstreamFault, UpstreamTimeout
from fastgw.upstream.connection import Attempt, Connection, Owner, Pace, Sink
from fastgw.upstream.deadlines import Deadline, Deadlines, Line

Connect = Callable[[Callable[[], Connection]], Coroutine[Any, Any, Connection]]
"""Makes a verified connection with the given factory; raises `UpstreamFault`."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How many connections and waiting attempts one target may have."""

    connections: int = 16384
    idle: int = 256
    idle_s: float = 50.0
    """Below the 60 s and more of common load balancers; a `Keep-Alive: timeout` shortens it."""
    dials: int = 256
    """Connections being made at once."""
    waiting: int = 4096


class Wait(Deadline):
    """An attempt's time to get a connection."""

    __slots__ = ("attempt", "seconds")

    def __init__(self, attempt: Attempt, seconds: float) -> None:
        super().__init__()
        self.attempt = attempt
        self.seconds = seconds

    def expired(self) -> None:
        """Fail the attempt; nothing was sent."""
        attempt = self.attempt
        attempt.fail(
            UpstreamTimeout(
                f"no connection to {attempt.label} within {self.seconds:g} s (connect time-out)"
            )
        )


class Dial(Deadline):
    """One connection being made; for `attempt` alone if it has one, else for the line."""

    __slots__ = ("attempt", "task")

    def __init__(self, attempt: Attempt | None) -> None:
        super().__init__()
        self.attempt = attempt
        self.task: asyncio.Task[Connection] | None = None

    def expired(self) -> None:
        """Give it up; who waited for it has the same deadline."""
        if self.task is not None:
            self.task.cancel()


class Origin(Owner):
    """The pool of one target."""

    __slots__ = (
        "_connect", "bounds", "closing", "connections", "deadlines", "dials", "gone", "idle",
        "idle_line", "idle_s", "label", "loop", "max_idle", "pace", "private_dials", "waits",
    )  # fmt: skip

    idle: list[Connection]
    connections: set[Connection]
    pace: Pace | None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        label: str,
        connect: Connect,
        bounds: Bounds,
    ) -> None:
        self.loop = loop
        self.deadlines = deadlines
        self.label = label
        self._connect = connect
        self.bounds = bounds
        self.idle_s = bounds.idle_s
        self.idle_line = Line(bounds.idle_s)
        self.max_idle = bounds.idle
        self.pace = None
        self.idle = []
        self.connections = set()
        self.dials: dict[asyncio.Task[Connection], Dial] = {}
        self.private_dials = 0
        self.waits: OrderedDict[Attempt, Wait] = OrderedDict()
        self.closing = False
        self.gone: asyncio.Future[None] = loop.create_future()

    def __repr__(self) -> str:
        return (
            f"<Origin {self.label}: {len(self.connections)} open, {len(self.idle)} idle,"
            f" {len(self.dials)} dialling, {len(self.waits)} waiting>"
        )

    # -- senders -----------------------------------------------------------------------------

    def send(
        self,
        head: bytes,
        parts: Sequence[bytes],
        sink: Sink,
        timeouts: Timeouts,
        replayable: bool,
    ) -> Attempt:
        """Send a request on an idle connection, or as soon as there is one; never blocks."""
        deadlines = self.deadlines
        pace = self.pace
        if pace is None or pace.timeouts is not timeouts:
            # an upstream's time-outs are nearly always the same object
            pace = self.pace = Pace(timeouts)
        attempt = Attempt.__new__(Attempt)
        attempt.begin(deadlines, self, self.label, head, parts, sink, pace, replayable)
        deadlines.read_clock()
        deadlines.arm_in(attempt, pace.total)
        while self.idle:
            connection = self.idle.pop()
            if connection.is_quiet():
                connection.start(attempt)
                return attempt
            connection.close()
        self.wait(attempt)
        return attempt

    def wait(self, attempt: Attempt) -> None:
        """Put an attempt into the line, or refuse it."""
        if self.closing:
            why = f"the connections to {self.label} are being closed"
        elif len(self.waits) >= self.bounds.waiting:
            why = f"{len(self.waits)} requests already wait for a connection to {self.label}"
        else:
            self.waits[attempt] = wait = Wait(attempt, attempt.pace.timeouts.connect_s)
            self.deadlines.arm(wait, wait.seconds)
            self.fill()
            return
        # the sink hears of it after `send` returned, as of everything
        self.loop.call_soon(self.turn_away, attempt, UpstreamConnectError(why))

    def turn_away(self, attempt: Attempt, fault: UpstreamFault) -> None:
        """End an attempt that got no place in the line."""
        attempt.fail(fault)

    def withdraw(self, attempt: Attempt) -> None:
        """Take an attempt that is over out of the line, or from its dial."""
        wait = self.waits.pop(attempt, None)
        if wait is not None:
            self.deadlines.disarm(wait)
            return
        for dial in self.dials.values():
            if dial.attempt is attempt:
                # the connection will find other work
                dial.attempt = None
                self.private_dials -= 1

    def next_attempt(self) -> Attempt:
        """Take the longest waiting attempt out of the line, which is not empty."""
        attempt, wait = self.waits.popitem(last=False)
        self.deadlines.disarm(wait)
        return attempt

    # -- connections (the Owner of `connection.py`) --------------------------------------------

    def released(self, connection: Connection) -> None:
        """Give a connection its next attempt, or its place on the stack."""
        if self.waits:
            self.deadlines.read_clock()
            connection.start(self.next_attempt())
        elif self.closing or len(self.idle) >= self.max_idle or self.idle_s <= 0.0:
            connection.close()
        else:
            if 0 <= connection.keep_s <= self.idle_s:
                # the upstream closes at that time: be away before
                if connection.keep_s <= 1:
                    connection.close()
                    return
                self.deadlines.arm(connection, connection.keep_s - 1.0)
            else:
                self.deadlines.arm_in(connection, self.idle_line)
            self.idle.append(connection)

    def discard(self, connection: Connection) -> None:
        """Take a dead connection off the stack."""
        if connection in self.idle:
            self.idle.remove(connection)

    def lost(self, connection: Connection) -> None:
        """Use the place of a closed connection."""
        self.connections.discard(connection)
        if self.closing:
            self.settle()
        else:
            self.fill()

    def replay(self, attempt: Attempt) -> None:
        """Send an attempt once more, on a connection made for it."""
        if self.closing:
            attempt.fail(UpstreamConnectError(f"the connections to {self.label} are being closed"))
        else:
            self.dial(attempt, attempt.pace.timeouts.connect_s)

    # -- dialling ----------------------------------------------------------------------------

    def fill(self) -> None:
        """Make connections while more wait than are being made, within the bounds."""
        bounds = self.bounds
        while (
            len(self.dials) - self.private_dials < len(self.waits)
            and len(self.dials) < bounds.dials
            and len(self.dials) + len(self.connections) < bounds.connections
        ):
            newest: Wait = next(reversed(self.waits.values()))
            self.dial(None, newest.seconds)

    def dial(self, attempt: Attempt | None, seconds: float) -> None:
        """Make a connection in the background."""
        dial = Dial(attempt)
        task = self.loop.create_task(self._connect(self.new_connection))
        dial.task = task
        if attempt is not None:
            self.private_dials += 1
        self.dials[task] = dial
        self.deadlines.arm(dial, seconds)
        task.add_done_callback(self.dialled)

    def new_connection(self) -> Connection:
        """Make the protocol of a new socket."""
        return Connection(self.deadlines, self, self.label)

    def dialled(self, task: asyncio.Task[Connection]) -> None:
        """Take the outcome of a dial."""
        dial = self.dials.pop(task)
        dial.task = None
        self.deadlines.disarm(dial)
        attempt = dial.attempt
        if attempt is not None:
            self.private_dials -= 1
        if task.cancelled():
            self.gave_up(attempt)
        elif (fault := task.exception()) is not None:
            self.failed(attempt, fault)
        else:
            self.opened(attempt, task.result())
        if self.closing:
            self.settle()
        else:
            self.fill()

    def gave_up(self, attempt: Attempt | None) -> None:
        """Take a cancelled dial: its deadline passed or the pool is closing."""
        if attempt is not None:
            Wait(attempt, attempt.pace.timeouts.connect_s).expired()

    def failed(self, attempt: Attempt | None, fault: BaseException) -> None:
        """Tell the attempt concerned, or the longest waiting one, that there is no connection."""
        if not isinstance(fault, UpstreamFault):
            # a defect of ours: the loop's handler logs it, the attempt ends all the same
            self.loop.call_exception_handler(
                {"message": f"connecting to {self.label} failed", "exception": fault}
            )
            fault = UpstreamConnectError(f"no connection to {self.label}")
        if attempt is None and self.waits:
            attempt = self.next_attempt()
        if attempt is not None:
            attempt.fail(fault)

    def opened(self, attempt: Attempt | None, connection: Connection) -> None:
        """Put a new connection to work."""
        if self.closing:
            connection.close()
        if connection.is_closed():
            self.failed(
                attempt, UpstreamConnectError(f"{self.label} closed the connection at once")
            )
            return
        self.connections.add(connection)
        if attempt is not None:
            self.deadlines.read_clock()
            connection.start(attempt)
        else:
            self.released(connection)

    def settle(self) -> None:
        """Say that nothing is left, once nothing is."""
        if not self.connections and not self.dials and not self.gone.done():
            self.gone.set_result(None)

    def close(self) -> None:
        """Drop everything; live attempts fail, dials are cancelled. `gone` says when it is done."""
        self.closing = True
        for task in list(self.dials):
            task.cancel()
        while self.waits:
            self.next_attempt().fail(
                UpstreamConnectError(f"the connections to {self.label} are being closed")
            )
        self.idle.clear()
        for connection in list(self.connections):
            if connection.is_idle():
                connection.close()
            else:
                connection.fail(
                    UpstreamConnectError(
                        f"the connections to {self.label} are being closed", billed=True
                    )
                )
        self.settle()
