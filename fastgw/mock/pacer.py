"""Plays answers onto connections in time: one timer steps every stream that is due.

A sleeping task per chunk and stream would cost more than the chunks. A stream that is late (a busy
core) catches up by writing several chunks at once, so pace is kept on average and order always.
A connection that does not take its bytes is asked again until it does: nothing piles up here.
"""

from __future__ import annotations

import asyncio
import heapq
import socket
import struct
from collections.abc import Iterator
from itertools import islice

from fastgw.mock.behaviour import Fault
from fastgw.mock.event import Ended, Event
from fastgw.mock.exchange import Exchange

GRAIN = 0.001
"""Streams due within so many seconds are stepped together."""
SLICE = 64
"""Streams stepped in one turn of the loop: clients that come and go must not wait for the rest."""
RECHECK = 0.002
HIGH_WATER = 256 << 10
BURST_CHUNKS = 64
BURST_BYTES = 64 << 10
AHEAD = 16


class Play:
    """One body on its way. `transport` None plays to nobody: billed, not delivered.

    `done` gives how the body ended, once all of it was handed to the connection. A `late` play goes
    on when its client leaves.
    """

    def __init__(
        self,
        transport: asyncio.Transport | None,
        events: Iterator[Event],
        exchange: Exchange,
        *,
        interval: float = 0.0,
        chunked: bool = True,
        late: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Ended] = loop.create_future()
        self.due = loop.time()
        self._transport = transport
        self._events = _made_ahead(events)
        self._exchange = exchange
        self._interval = interval
        self._chunked = chunked
        self._late = late
        self._next = next(self._events, None)
        self._break: Ended | None = None

    def step(self, now: float) -> bool:
        """Write what is due; False when there is nothing left to do."""
        if self.done.done() or self._is_left():
            return False
        transport = self._transport
        if transport is not None and transport.get_write_buffer_size() > HIGH_WATER:
            self.due = now + RECHECK
            return True
        if self._break is None:
            self._write(self._take(now))
        if self._break is not None:
            return self._break_off(self._break, now)
        if self._next is None:
            self.done.set_result(Ended.COMPLETE)
            return False
        # A stall is a stream that waits for nothing.
        return self._next.then is not Fault.STALL

    def _is_left(self) -> bool:
        """See whether the client has gone; a late play takes no notice."""
        if self._transport is None or not self._transport.is_closing():
            return False
        self._exchange.leave()
        self._transport = None
        if not self._late:
            self.done.set_result(Ended.CLIENT_GONE)
        return not self._late

    def fail(self, error: Exception) -> None:
        """Hand a defect to whoever waits for the end."""
        if not self.done.done():
            self.done.set_exception(error)

    def _take(self, now: float) -> list[Event]:
        """Take the events that are due."""
        taken: list[Event] = []
        chunks = size = 0
        while (event := self._next) is not None and event.then is not Fault.STALL:
            if event.paced:
                if chunks:
                    self.due = self.due + self._interval if self._interval else now
                    if self.due > now or chunks >= BURST_CHUNKS or size >= BURST_BYTES:
                        break
                chunks += 1
            size += len(event.data)
            taken.append(event)
            if isinstance(event.then, Ended):
                self._break = event.then
                break
            self._next = next(self._events, None)
        return taken

    def _write(self, taken: list[Event]) -> None:
        self._exchange.bill(taken)
        if self._transport is None or not taken:
            return
        self._exchange.deliver(taken)
        bodies = [event.data for event in taken]
        if self._chunked:
            bodies = [b"%x\r\n%b\r\n" % (len(body), body) for body in bodies]
        self._transport.write(b"".join(bodies))

    def _break_off(self, how: Ended, now: float) -> bool:
        """End the connection the hard way, but not before what was written is on its way."""
        transport = self._transport
        if transport is not None:
            if transport.get_write_buffer_size():
                self.due = now + RECHECK
                return True
            if how is Ended.RESET:
                linger = struct.pack("ii", 1, 0)
                transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
                transport.abort()
            else:
                transport.close()
        self.done.set_result(how)
        return False


def _made_ahead(events: Iterator[Event]) -> Iterator[Event]:
    """Make some events at a time: a thousand streams in turn would each find a cold cache."""
    while batch := list(islice(events, AHEAD)):
        yield from batch


class Pacer:
    """Steps plays when they are due."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Play]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0.0

    def start(self, play: Play) -> None:
        """Begin a play at once, or when it is due."""
        loop = asyncio.get_running_loop()
        if play.due > loop.time() or self._step(play, loop.time()):
            self._push(play)
            self._arm(loop)

    def stop(self) -> None:
        """Forget every play."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _step(self, play: Play, now: float) -> bool:
        try:
            return play.step(now)
        except Exception as error:  # noqa: BLE001 - handed to the task that waits for the play
            play.fail(error)
            return False

    def _push(self, play: Play) -> None:
        self._count += 1
        heapq.heappush(self._heap, (play.due, self._count, play))

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._heap:
            return
        due = self._heap[0][0]
        if self._timer is not None:
            if self._armed <= due:
                return
            self._timer.cancel()
        self._armed = due
        self._timer = loop.call_at(due, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        heap, again = self._heap, []
        for _ in range(SLICE):
            if not heap or heap[0][0] > now + GRAIN:
                break
            play = heapq.heappop(heap)[2]
            if self._step(play, now):
                again.append(play)
        for play in again:
            self._push(play)
        self._arm(loop)
