"""Deadlines fire when they are due and not before; the clock goes only when told.

The room's worst days: a silent provider holds a request for ever; a stall of our own loop kills
every healthy stream at once; a paused client is taken for a silent provider.
"""

from __future__ import annotations

import asyncio
import socket

import pytest

from fastgw.domain import Timeouts
from fastgw.errors import UpstreamTimeout
from tests.upstream.scripted import CANARY, Recorder, Upstream, answering, listening, settled

TIMEOUTS = Timeouts(connect_s=5, first_byte_s=60, idle_s=120, total_s=600)
HALF = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"


@pytest.fixture
async def timed(clients, clock):
    """A client whose clock is moved by hand."""
    client = clients(clock=clock)

    def advance(seconds):
        """Let time pass; a late sweep lets the loop read first, so it takes two."""
        clock.advance(seconds)
        client.pool.deadlines.sweep()
        client.pool.deadlines.sweep()

    client.advance = advance
    return client


# -- the mechanism -------------------------------------------------------------------------------


@pytest.fixture
def entries(room, clock):
    """Deadlines on the running loop, and a maker of entries that write down their names."""

    class Entry(room.deadlines.Deadline):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def expired(self):
            fired.append(self.name)
            if self.name == "defect":
                raise RuntimeError("a defect")

    fired = []
    return Entry, fired


async def test_entries_fire_in_the_order_they_are_due(room, clock, entries):
    """Durations do not wait for each other, and each entry fires once."""
    entry, fired = entries
    deadlines = room.deadlines.Deadlines(asyncio.get_running_loop(), clock)
    for name, seconds in (("c", 3), ("a", 1), ("b", 2), ("a2", 1)):
        deadlines.arm(entry(name), seconds)
    for _ in range(60):
        clock.advance(0.0625)
        deadlines.sweep()
    assert fired == ["a", "a2", "b", "c"]
    assert deadlines.is_quiet()


async def test_disarmed_and_rearmed_entries(room, clock, entries):
    """What was disarmed does not fire; what was armed again fires at the later time."""
    entry, fired = entries
    deadlines = room.deadlines.Deadlines(asyncio.get_running_loop(), clock)
    first, middle, last = (entry(name) for name in ("first", "middle", "last"))
    for one in (first, middle, last):
        deadlines.arm(one, 1)
    deadlines.disarm(middle)
    deadlines.disarm(middle)
    deadlines.arm(first, 1.5)
    assert [one.is_armed() for one in (first, middle, last)] == [True, False, True]
    for _ in range(20):
        clock.advance(0.0625)
        deadlines.sweep()
    assert fired == ["last"]
    for _ in range(10):
        clock.advance(0.0625)
        deadlines.sweep()
    assert fired == ["last", "first"]


async def test_the_timer_runs_only_while_something_is_armed(room, clock, entries):
    """It starts with the first entry and stops, by itself, with the last."""
    entry, fired = entries
    deadlines = room.deadlines.Deadlines(asyncio.get_running_loop(), clock)
    assert deadlines.is_quiet()
    one = entry("one")
    deadlines.arm(one, 1)
    assert not deadlines.is_quiet()
    clock.advance(1)
    await settled(deadlines.is_quiet)
    assert fired == ["one"]
    deadlines.arm(one, 1)
    deadlines.close()
    assert deadlines.is_quiet()
    assert not one.is_armed()


async def test_a_defect_does_not_stop_the_sweep(room, clock, entries):
    """An entry that raises is reported by the loop; the others still fire."""
    entry, fired = entries
    caught = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
    deadlines = room.deadlines.Deadlines(asyncio.get_running_loop(), clock)
    for name, seconds in (("defect", 1), ("same", 1), ("other", 0.5)):
        deadlines.arm(entry(name), seconds)
    clock.advance(2)
    await settled(lambda: len(fired) == 3 and deadlines.is_quiet())
    assert sorted(fired) == ["defect", "other", "same"]
    assert len(caught) == 1


async def test_a_late_sweep_lets_the_loop_read_first(room, clock, entries):
    """After a stall of the loop nothing fires until sockets were read once."""
    entry, fired = entries
    deadlines = room.deadlines.Deadlines(asyncio.get_running_loop(), clock)
    deadlines.arm(entry("one"), 1)
    clock.advance(5)
    deadlines.sweep()
    assert fired == []
    deadlines.sweep()
    assert fired == ["one"]


# -- the steps of an attempt -------------------------------------------------------------------


async def test_connect(timed, room):
    """A connection that is not made in time: 504, nothing billed, the dial given up."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(4):  # a full backlog swallows further SYNs
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    try:
        target = room.pool.Target(scheme="http", host="127.0.0.1", port=listener.getsockname()[1])
        sink = Recorder()
        heard = listening(room, sink)
        attempt = timed.pool.send(target, b"GET / HTTP/1.1\r\n\r\n", [], heard, TIMEOUTS)
        for _ in range(5):
            await asyncio.sleep(0)
        timed.advance(4.9)
        assert sink.outcome == "open"
        timed.advance(0.2)
        assert isinstance(sink.error, UpstreamTimeout)
        assert sink.error.message == ("no connection to the provider within 5 s (connect time-out)")
        assert (sink.error.billed, attempt.sent_at) == (False, 0.0)
        await settled(lambda: not timed.pool.origin(target).dials)
        assert timed.pool.deadlines.is_quiet()
    finally:
        for one in [listener, *fillers]:
            one.close()


async def test_waiting_in_line_counts_as_connecting(clients, clock, room):
    """Who gets no connection because all are busy is not left waiting."""
    client = clients(clock=clock, bounds=room.origin.Bounds(connections=1))
    async with Upstream(answering(HALF)) as upstream:
        busy = client.send(upstream, timeouts=TIMEOUTS)
        await settled(lambda: busy.chunks)
        sink = client.send(upstream, timeouts=TIMEOUTS)
        clock.advance(5.1)
        await sink.finished()
        assert "(connect time-out)" in sink.error.message
        assert not sink.error.billed
        assert busy.outcome == "open"


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nx: y\r\n", b"HTTP/1.1 102 P\r\n\r\n"])
async def test_first_byte(timed, start):
    """The final head must be whole in time; a part of it or an interim one does not count."""
    async with Upstream(answering(start)) as upstream:
        sink = timed.send(upstream, timeouts=TIMEOUTS)
        await settled(lambda: sink.attempt.sent_at)
        for _ in range(20):
            await asyncio.sleep(0)
        timed.advance(59.9)
        assert sink.outcome == "open"
        timed.advance(0.2)
        assert isinstance(sink.error, UpstreamTimeout)
        assert sink.error.message == (
            "the provider sent no answer within 60 s (first-byte time-out)"
        )
        assert sink.error.billed
        await upstream.peers[0].over.wait()


async def test_idle(timed):
    """Silence within an answer is measured from the last read, to 2 % and a tick."""
    async with Upstream(answering(HALF)) as upstream:
        sink = timed.send(upstream, timeouts=TIMEOUTS)
        await settled(lambda: sink.chunks)
        for turn in range(3):
            for _ in range(7):
                timed.advance(15)
            await upstream.peers[0].send(b"1\r\n.\r\n")
            await settled(lambda: len(sink.chunks) == turn + 2)
        silent = 0.0
        while sink.error is None:
            timed.advance(0.125)
            silent += 0.125
        assert 120 <= silent <= 120 * (1 + 1 / 64) + 0.25
        assert sink.error.message == "the provider was silent for 120 s (idle time-out)"
        assert sink.error.billed
        await upstream.peers[0].over.wait()


async def test_total(timed):
    """A provider that is never silent is cut at the total time all the same."""
    async with Upstream(answering(HALF)) as upstream:
        sink = timed.send(upstream, timeouts=TIMEOUTS)
        await settled(lambda: sink.chunks)
        for turn in range(11):
            timed.advance(54)
            await upstream.peers[0].send(b"1\r\n.\r\n")
            await settled(lambda: len(sink.chunks) == turn + 2)
        assert sink.outcome == "open"
        timed.advance(6.1)
        assert sink.error.message == (
            "the provider did not finish its answer within 600 s (total time-out)"
        )
        assert sink.error.billed
        await upstream.peers[0].over.wait()


async def test_total_while_waiting_for_a_connection(clients, clock, room):
    """The total time includes the line; nothing was sent, nothing is billed."""
    client = clients(clock=clock, bounds=room.origin.Bounds(connections=1))
    short = Timeouts(connect_s=30, first_byte_s=30, idle_s=30, total_s=2)
    async with Upstream(answering(HALF)) as upstream:
        busy = client.send(upstream, timeouts=TIMEOUTS)
        await settled(lambda: busy.chunks)
        sink = client.send(upstream, timeouts=short)
        clock.advance(2.1)
        await sink.finished()
        assert "(total time-out)" in sink.error.message
        assert not sink.error.billed
        assert not client.origin(upstream).waits


async def test_a_paused_client_is_not_a_silent_provider(timed):
    """While we do not read, the idle time does not run; it starts anew with the resume."""
    async with Upstream(answering(HALF)) as upstream:
        sink = timed.send(upstream, timeouts=TIMEOUTS)
        await settled(lambda: sink.chunks)
        sink.attempt.pause()
        for _ in range(3):
            timed.advance(119)
        assert sink.outcome == "open"
        sink.attempt.resume()
        timed.advance(100)
        assert sink.outcome == "open"
        timed.advance(23)
        assert "(idle time-out)" in sink.error.message


async def test_nothing_stays_armed_after_an_answer(clients, clock):
    """Once the idle connection has aged out the timer stops."""
    client = clients(clock=clock)
    async with Upstream(answering(CANARY)) as upstream:
        await client.ask(upstream, timeouts=TIMEOUTS)
        clock.advance(1000)
        await settled(client.pool.deadlines.is_quiet)
        assert not client.origin(upstream).idle


async def test_a_large_request_has_its_time_to_leave(timed):
    """The time to the first byte counts from when the request has left us."""
    release = asyncio.Event()

    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        await release.wait()
        await peer.reader.readexactly(size)
        received.set()

    size = 32 << 20
    received = asyncio.Event()
    async with Upstream(script) as upstream:
        sink = timed.send(upstream, body=b"x" * size, timeouts=TIMEOUTS)
        await settled(lambda: sink.attempt.sent_at)
        timed.advance(40)
        release.set()
        await received.wait()
        timed.advance(40)
        assert sink.outcome == "open"
        timed.advance(20.1)
        assert "(first-byte time-out)" in sink.error.message
