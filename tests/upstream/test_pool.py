"""Keep-alive, the line for connections, cancelling, backpressure, and what must not be left.

The room's worst days: a stalled client lets the gateway swallow what the provider offers; a
connection that is out of step answers the wrong request; a client that left is billed on.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import pytest

from fastgw.domain import Timeouts
from fastgw.errors import UpstreamClosed, UpstreamConnectError
from tests.upstream.scripted import (
    CANARY,
    PATIENT,
    Recorder,
    Upstream,
    answering,
    listening,
    request,
    settled,
)

MIB = 1 << 20


async def test_a_request_and_its_answer(client):
    """The upstream gets the head and the parts unchanged; the sink gets head, body and end."""
    script = answering(b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 5\r\n\r\nhello")
    async with Upstream(script) as upstream:
        sink = await client.ask(upstream, parts=[b'{"a":', b"1", b"}"])
        assert (sink.outcome, sink.body) == ("end", b"hello")
        assert sink.heads[0].headers == [(b"x-a", b"b"), (b"content-length", b"5")]
        head, body = script.seen[0]
        assert body == b'{"a":1}'
        assert head == request(body)
        assert sink.attempt.reused is False
        assert sink.attempt.sent_at > 0
        assert sink.attempt.is_over()


async def test_connections_are_reused(client):
    """One connection serves one request after the other."""
    async with Upstream(answering(CANARY)) as upstream:
        for turn in range(5):
            sink = await client.ask(upstream)
            assert sink.body == b"canary"
            assert sink.attempt.reused is (turn > 0)
        assert len(upstream.peers) == 1
        assert len(client.origin(upstream).idle) == 1
        assert repr(client.origin(upstream).idle[0]) == "<Connection the provider IDLE reused>"


async def test_equal_targets_share_connections(client):
    """A target is its values, whoever made it; another host name is another target."""
    async with Upstream(answering(CANARY)) as upstream:
        await client.ask(upstream)
        assert (await client.ask(upstream)).attempt.reused
        assert not (await client.ask(upstream, host="localhost")).attempt.reused


@pytest.mark.parametrize(
    "sizes", [[0], [], [MIB], [10, MIB, 10], [16384] * 4, [40000, 10, 10, 40000, 5], [1] * 50]
)
async def test_bodies_of_any_shape_arrive_whole(client, sizes):
    """Small parts are joined and large ones are not; the upstream sees one body in order."""
    script = answering(CANARY)
    parts = [bytes([65 + number % 26]) * size for number, size in enumerate(sizes)]
    async with Upstream(script) as upstream:
        for _ in range(2):
            assert (await client.ask(upstream, parts=parts)).body == b"canary"
        assert [body for _, body in script.seen] == [b"".join(parts)] * 2


async def test_the_newest_idle_connection_is_taken(client):
    """The stack keeps few connections warm; the others age out."""
    async with Upstream(answering(CANARY)) as upstream:
        await asyncio.gather(*(client.ask(upstream) for _ in range(4)))
        origin = client.origin(upstream)
        await settled(lambda: len(origin.idle) == 4)
        bottom = origin.idle[:3]
        for _ in range(5):
            await client.ask(upstream)
        assert origin.idle[:3] == bottom


async def test_idle_connections_are_bounded(clients, room):
    """More idle connections than the bound are closed, not kept."""
    client = clients(bounds=room.origin.Bounds(idle=2))
    async with Upstream(answering(CANARY)) as upstream:
        await asyncio.gather(*(client.ask(upstream) for _ in range(6)))
        origin = client.origin(upstream)
        await settled(lambda: not origin.dials and len(origin.connections) == 2)
        assert len(origin.idle) == 2


@pytest.mark.parametrize(("hint", "kept_s"), [(b"", 50), (b"timeout=5", 4), (b"timeout=900", 50)])
async def test_idle_connections_age_out(clients, clock, hint, kept_s):
    """An idle connection is closed before the upstream closes it; a hint shortens its rest."""
    client = clients(clock=clock)
    answer = b"HTTP/1.1 200 OK\r\nkeep-alive: %b\r\ncontent-length: 2\r\n\r\nok" % hint
    async with Upstream(answering(answer)) as upstream:
        await client.ask(upstream)
        origin = client.origin(upstream)
        clock.advance(kept_s - 0.01)
        client.pool.deadlines.sweep()
        client.pool.deadlines.sweep()
        assert len(origin.idle) == 1
        clock.advance(0.02)
        await settled(lambda: not origin.idle and not origin.connections)
        await upstream.peers[0].over.wait()
        await settled(client.pool.deadlines.is_quiet)


async def test_a_keep_alive_of_no_time_is_none(client):
    """`timeout=0` and 1 leave nothing to rest."""
    answer = b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 2\r\n\r\nok"
    async with Upstream(answering(answer)) as upstream:
        await client.ask(upstream)
        assert not client.origin(upstream).idle
        assert not (await client.ask(upstream)).attempt.reused


@pytest.mark.parametrize("idle_event", ["bytes", "close", "half-close", "reset"])
async def test_a_connection_disturbed_while_idle_is_dropped(client, idle_event):
    """Bytes nobody asked for, or an end: the next request goes to a fresh connection."""

    async def script(peer):
        await peer.request()
        await peer.send(CANARY)
        if peer.number == 0:
            await disturb.wait()
            match idle_event:
                case "bytes":
                    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
                case "close":
                    peer.close()
                case "half-close":
                    peer.close_sending()
                case "reset":
                    peer.reset()

    disturb = asyncio.Event()
    async with Upstream(script) as upstream:
        await client.ask(upstream)
        origin = client.origin(upstream)
        assert len(origin.idle) == 1
        disturb.set()
        await settled(lambda: not origin.idle)
        sink = await client.ask(upstream)
        assert (sink.body, sink.attempt.reused) == (b"canary", False)
        await settled(lambda: len(origin.connections) <= 1)


# -- the line ------------------------------------------------------------------------------------


async def test_many_requests_through_few_connections(clients, room):
    """200 concurrent requests over at most 4 connections all complete, in the order they came."""
    client = clients(bounds=room.origin.Bounds(connections=4))
    script = answering(CANARY)
    async with Upstream(script) as upstream:
        sinks = [client.send(upstream, body=b"%d" % number) for number in range(200)]
        for sink in sinks:
            assert (await sink.finished()).body == b"canary"
        assert len(upstream.peers) == 4
        assert len(client.origin(upstream).connections) == 4
        order = [int(body) for _, body in script.seen]
        assert sorted(order) == list(range(200))
        # four abreast: nobody is overtaken by more than the others that were under way
        assert all(abs(number - place) < 8 for place, number in enumerate(order))


async def test_the_line_is_bounded(clients, room):
    """A request that finds the line full fails, after `send` returned and with nothing sent."""
    bounds = room.origin.Bounds(connections=1, waiting=2)
    client = clients(bounds=bounds)
    release = asyncio.Event()

    async def script(peer):
        while True:
            await peer.request()
            await release.wait()
            await peer.send(CANARY)

    async with Upstream(script) as upstream:
        busy = client.send(upstream)
        await settled(lambda: busy.attempt.sent_at)
        sinks = [client.send(upstream) for _ in range(4)]
        assert [sink.outcome for sink in sinks] == ["open"] * 4
        await asyncio.gather(sinks[2].finished(), sinks[3].finished())
        assert [sink.outcome for sink in sinks] == ["open"] * 2 + ["UpstreamConnectError"] * 2
        assert sinks[2].error.billed is False
        assert "2 requests already wait" in sinks[2].error.message
        release.set()
        assert (await sinks[1].finished()).body == b"canary"


async def test_a_cancelled_request_leaves_the_line(clients, room):
    """Who gives up while waiting is never sent, even when refused in the same breath."""
    client = clients(bounds=room.origin.Bounds(connections=1, waiting=2))
    script = answering(CANARY)
    async with Upstream(script) as upstream:
        sinks = [client.send(upstream, body=b"%d" % number) for number in range(4)]
        sinks[1].attempt.cancel()
        sinks[3].attempt.cancel()
        sinks[3].attempt.cancel()
        await sinks[0].finished()
        assert (await client.ask(upstream, body=b"5")).outcome == "end"
        assert [sink.outcome for sink in sinks] == ["end", "open", "UpstreamConnectError", "open"]
        assert [body for _, body in script.seen] == [b"0", b"5"]
        assert not client.origin(upstream).waits


async def test_a_connection_nobody_waits_for_any_more_is_kept(client):
    """Cancelling while a connection is made leaves a warm one behind."""
    async with Upstream(answering(CANARY)) as upstream:
        client.send(upstream).attempt.cancel()
        origin = client.origin(upstream)
        await settled(lambda: len(origin.idle) == 1)
        assert (await client.ask(upstream)).body == b"canary"
        assert len(upstream.peers) == 1


# -- cancelling ----------------------------------------------------------------------------------


async def test_cancelling_is_seen_by_the_upstream(client):
    """Before the answer or within it: the connection ends at once and is not reused."""

    async def script(peer):
        await peer.request()
        if peer.number == 1:
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await peer.gone()
        gone.append(peer.number)

    gone = []
    async with Upstream(script) as upstream:
        for number in range(2):
            sink = client.send(upstream)
            if number:
                await settled(lambda: sink.chunks)
            else:
                await settled(lambda: upstream.peers)
            sink.attempt.cancel()
            assert sink.attempt.is_over()
            await settled(lambda: len(gone) == number + 1)
            assert sink.outcome == "open"
        origin = client.origin(upstream)
        await settled(lambda: not origin.connections)


@pytest.mark.parametrize("where", ["on_head", "on_data", "on_end"])
async def test_a_sink_may_cancel_from_inside(client, where):
    """Cancelling in any callback is the last word."""
    sink = Recorder(**{where: lambda sink: sink.attempt.cancel()})
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    async with Upstream(answering(answer)) as upstream:
        client.send(upstream, sink=sink)
        await settled(sink.attempt.is_over)
        assert (await client.ask(upstream)).body == b"canary"
        assert sink.outcome == ("end" if where == "on_end" else "open")
        assert len(upstream.peers) == (1 if where == "on_end" else 2)


async def test_a_sink_may_send_from_inside_its_end(client):
    """The connection is free before the sink hears of the end."""
    async with Upstream(answering(CANARY)) as upstream:
        second = Recorder()
        first = Recorder(on_end=lambda _: client.send(upstream, sink=second))
        client.send(upstream, sink=first)
        await second.finished()
        assert second.attempt.reused


async def test_a_sink_that_raises_loses_its_connection_only(client):
    """A defect in a sink ends its attempt; others go on."""
    caught = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))

    def fail(_):
        raise RuntimeError("a defect")

    async with Upstream(answering(CANARY)) as upstream:
        sink = await client.ask(upstream, sink=Recorder(on_data=fail))
        assert isinstance(sink.error, UpstreamClosed)
        assert (await client.ask(upstream)).body == b"canary"
    assert [type(context["exception"]) for context in caught] == [RuntimeError]


# -- backpressure --------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_paused_sink_stops_the_upstream(client, framing):
    """64 MiB are offered: while paused little is read, afterwards all of it arrives."""
    block = b"x" * 65536
    total = 64 * MIB

    async def script(peer):
        await peer.request()
        heads = {
            "length": b"content-length: %d\r\n\r\n" % total,
            "chunked": b"transfer-encoding: chunked\r\n\r\n",
            "close": b"connection: close\r\n\r\n",
        }
        await peer.send(b"HTTP/1.1 200 OK\r\n" + heads[framing])
        for _ in range(total // len(block)):
            await peer.send(b"10000\r\n" + block + b"\r\n" if framing == "chunked" else block)
            sent.append(len(block))
        await peer.send(b"0\r\n\r\n" if framing == "chunked" else b"")
        if framing == "close":
            peer.close_sending()
        else:
            await peer.request()
            await peer.send(CANARY)

    def pause_once(sink):
        if sink.size > MIB and not paused:
            paused.append(sink.size)
            sink.attempt.pause()
            sink.attempt.pause()
        sink.chunks.clear()

    sent, paused = [], []
    async with Upstream(script) as upstream:
        sink = client.send(upstream, sink=Recorder(on_data=pause_once))
        await settled(lambda: paused)
        quiet = []
        while quiet[-50:] != [len(sent)] * 50:  # the upstream has come to a stand
            quiet.append(len(sent))
            await asyncio.sleep(0.001)
        assert sink.size <= paused[0] + MIB // 2
        assert sum(sent) < 24 * MIB
        sink.attempt.resume()
        await sink.finished()
        assert (sink.outcome, sink.size) == ("end", total)
        sink.attempt.resume()
        if framing != "close":
            assert (await client.ask(upstream)).attempt.reused


async def test_a_paused_connection_reads_again_in_the_pool(client):
    """Pausing with the last bytes does not make the next request hang."""
    async with Upstream(answering(CANARY)) as upstream:
        sink = Recorder(on_data=lambda sink: sink.attempt.pause())
        await client.ask(upstream, sink=sink)
        assert sink.outcome == "end"
        again = await client.ask(upstream)
        assert (again.body, again.attempt.reused) == (b"canary", True)


async def test_pausing_before_there_is_a_connection(client):
    """A pause while waiting holds the answer back until the resume."""
    async with Upstream(answering(CANARY)) as upstream:
        sink = client.send(upstream)
        sink.attempt.pause()
        await settled(lambda: sink.attempt.sent_at)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not sink.heads
        sink.attempt.resume()
        assert (await sink.finished()).body == b"canary"


async def test_an_answer_before_the_request_was_read(client):
    """A refusal of a large body arrives; the connection with the unsent rest is not reused."""

    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(CANARY)
        await peer.gone()

    async with Upstream(script) as upstream:
        for _ in range(2):
            sink = await client.ask(upstream, body=b"x" * (24 * MIB))
            assert (sink.body, sink.attempt.reused) == (b"canary", False)


# -- nothing is left -----------------------------------------------------------------------------


async def test_closing_ends_everything(clients, room):
    """Live, waiting, dialling and idle: all end with one error each, and nothing stays."""
    client = clients(bounds=room.origin.Bounds(connections=2))

    async def script(peer):
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await peer.gone()

    async with Upstream(script) as upstream:
        sinks = [client.send(upstream) for _ in range(4)]
        await settled(lambda: sinks[0].chunks and sinks[1].chunks)
        dialling = client.send(upstream, host="localhost")
        await client.pool.close()
        assert [sink.outcome for sink in [*sinks, dialling]] == ["UpstreamConnectError"] * 5
        assert [sink.error.billed for sink in sinks] == [True, True, False, False]
        assert not client.origin(upstream).connections
        assert client.pool.deadlines.is_quiet()
        late = client.send(upstream)
        assert late.outcome == "open"
        await late.finished()
        assert isinstance(late.error, UpstreamConnectError)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nothing_is_left_behind(clients):
    """Answers, failures, cancels: no task, descriptor or cycle survives them."""

    async def script(peer):
        for _ in range(3):
            _, body = await peer.request()
            if body == b"die":
                peer.close()
            elif body == b"garbage":
                await peer.send(b"garbage\r\n\r\n")
            elif body != b"silent":
                await peer.send(CANARY)

    async with Upstream(script) as upstream:
        client = clients()
        await client.ask(upstream)
        await client.pool.close()
        await settled(lambda: len(upstream.peers) == 1)
        gc.collect()
        tasks, files = len(asyncio.all_tasks()), open_files()
        gc.disable()
        try:
            client = clients()
            sinks = [client.send(upstream, body=body) for body in (b"ok", b"die", b"garbage") * 5]
            for sink in sinks:
                await sink.finished()
            silent = [client.send(upstream, body=b"silent") for _ in range(3)]
            await settled(lambda: all(sink.attempt.sent_at for sink in silent))
            origin = client.origin(upstream)
            watched = [weakref.ref(one) for one in origin.connections]
            watched += [weakref.ref(sink.attempt) for sink in [*sinks, *silent]]
            for sink in silent:
                sink.attempt.cancel()
            await client.pool.close()
            for sink in [*sinks, *silent]:
                sink.attempt = None
            del sink
            await settled(lambda: not any(one() for one in watched), "attempts in a cycle")
        finally:
            gc.enable()
        for peer in upstream.peers:
            peer.close()
        await settled(lambda: len(asyncio.all_tasks()) <= tasks, "tasks are left")
        await settled(lambda: open_files() <= files, "files are left open")


def test_requests_need_no_loop_objects(room):
    """With an idle connection a request makes no task, future or timer."""

    async def run():
        loop = asyncio.get_running_loop()
        pool = room.pool.Pool(loop)
        target = None
        async with Upstream(answering(CANARY)) as upstream:
            target = room.pool.Target(scheme="http", host="127.0.0.1", port=upstream.port)
            first, sink = Recorder(), Recorder()
            listener = listening(room, sink)
            pool.send(target, request(), [b"{}"], listening(room, first), PATIENT)
            await first.finished()
            made = []
            for name in ("create_task", "create_future", "call_later", "call_at", "call_soon"):
                original = getattr(loop, name)
                setattr(
                    loop,
                    name,
                    lambda *given, _name=name, _original=original, **named: (
                        made.append(_name),
                        _original(*given, **named),
                    )[1],
                )
            pool.send(target, request(), [b"{}"], listener, Timeouts())
            assert made == []
            await sink.finished()
            assert pool.origin(target).idle
            await pool.close()

    asyncio.run(run())
