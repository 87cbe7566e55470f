"""Requests that meet a dead connection: replayed once when nobody can have read them, else failed.

The room's worst days: a request that the provider ran is run again; a connection that died at rest
becomes an error the client sees; a dead connection is handed out twice.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct

import pytest

from fastgw.errors import UpstreamClosed
from tests.upstream.scripted import CANARY, PATIENT, Recorder, Upstream, request, settled


class Wire:
    """An upstream of plain sockets, whose closes are in our receive queue when they return."""

    def __init__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.accepted = []

    async def accept(self):
        """Take the next connection."""
        sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        sock.setblocking(False)
        self.accepted.append(sock)
        return sock

    async def serve(self, sock):
        """Read one request and answer it."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            asked = await loop.sock_recv(sock, 65536)
        assert asked.endswith(b"{}")
        sock.send(CANARY)

    def close(self):
        for sock in [*self.accepted, self.listener]:
            sock.close()


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


ENDS = {
    "close": socket.socket.close,
    "half-close": lambda sock: sock.shutdown(socket.SHUT_WR),
    "reset": reset,
    "bytes": lambda sock: sock.send(b"HTTP/1.1 408 Timeout\r\ncontent-length: 0\r\n\r\n"),
}


@pytest.fixture
async def wire():
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
async def reused(clients, clock, wire):
    """A client with one idle connection to `wire`, and the other end of it."""
    client = clients(clock=clock)
    sink = client.send(wire)
    sock = await wire.accept()
    await wire.serve(sock)
    await sink.finished()
    return client, sock


@pytest.mark.parametrize("end", ENDS)
async def test_an_end_in_the_receive_queue_is_seen_before_writing(reused, wire, clock, end):
    """The loop has not polled yet: the request goes to a fresh connection all the same."""
    client, sock = reused
    clock.advance(1)
    ENDS[end](sock)
    sink = client.send(wire)
    assert sink.attempt.reused is False
    await wire.serve(await wire.accept())
    await sink.finished()
    assert (sink.outcome, sink.body, sink.attempt.reused) == ("end", b"canary", False)
    origin = client.origin(wire)
    await settled(lambda: len(origin.connections) == 1)


async def test_a_request_written_to_a_closed_connection_is_replayed(reused, wire):
    """Within a millisecond of the answer nobody looks: none of the bytes is acknowledged."""
    client, sock = reused
    sock.close()
    sink = client.send(wire)
    assert sink.attempt.reused is True
    await wire.serve(await wire.accept())
    await sink.finished()
    assert (sink.outcome, sink.body, sink.attempt.reused) == ("end", b"canary", False)


@pytest.mark.parametrize("end", ["close", "half-close", "reset"])
async def test_a_request_the_upstream_may_have_read_is_not_replayed(reused, wire, end):
    """It may have been run, however the connection ended: a 502 that may be billed."""
    client, sock = reused
    sink = client.send(wire)
    await settled(lambda: readable(sock))
    sock.recv(65536)
    ENDS[end](sock)
    await sink.finished()
    assert isinstance(sink.error, UpstreamClosed)
    assert sink.error.message == "the provider closed the connection without an answer"
    assert sink.error.billed
    assert len(wire.accepted) == 1


async def test_a_provider_that_allows_it_is_asked_again(reused, wire):
    """`replayable` says that asking twice does no harm."""
    client, sock = reused
    sink = client.send(wire, replayable=True)
    await settled(lambda: readable(sock))
    sock.recv(65536)
    sock.close()
    await wire.serve(await wire.accept())
    assert (await sink.finished()).body == b"canary"


async def test_once_an_answer_began_nothing_is_replayed(reused, wire):
    """One byte of an answer, an interim one too, is proof that the request was read."""
    client, sock = reused
    sink = client.send(wire, replayable=True)
    await settled(lambda: readable(sock))
    sock.recv(65536)
    sock.send(b"H")
    sock.close()
    await sink.finished()
    assert isinstance(sink.error, UpstreamClosed)
    assert "in its response head" in sink.error.message


async def test_a_replay_happens_once(reused, wire):
    """A fresh connection that dies too is the end of it."""
    client, sock = reused
    sink = client.send(wire, replayable=True)
    await settled(lambda: readable(sock))
    sock.close()
    second = await wire.accept()
    await settled(lambda: readable(second))
    second.close()
    await sink.finished()
    assert isinstance(sink.error, UpstreamClosed)
    assert len(wire.accepted) == 2


async def test_a_fresh_connection_that_dies_is_not_replayed(client, wire):
    """The retry of a fresh attempt is the flow's to decide; what was not read is not billed."""
    sink = client.send(wire)
    sock = await wire.accept()
    await settled(lambda: readable(sock))
    sock.close()
    await sink.finished()
    assert isinstance(sink.error, UpstreamClosed)
    assert sink.error.billed
    assert len(wire.accepted) == 1


async def test_cancelling_during_a_replay(reused, wire):
    """The replay's connection, once made, is kept for others."""
    client, sock = reused
    sock.close()
    sink = client.send(wire)
    origin = client.origin(wire)
    for _ in range(50):
        if origin.dials:
            break
        await asyncio.sleep(0)
    sink.attempt.cancel()
    await wire.accept()
    await settled(lambda: len(origin.idle) == 1)
    assert sink.outcome == "open"
    assert not origin.waits


async def test_a_replay_that_finds_nobody(reused, wire):
    """When the fresh connection is refused, nothing was sent at all."""
    client, sock = reused
    wire.listener.close()
    sock.close()
    sink = await client.send(wire).finished()
    assert sink.outcome == "UpstreamConnectError"
    assert not sink.error.billed


async def test_a_large_request_is_replayed_whole(reused, wire):
    """Part of the body never left user space; the second connection gets all of it."""
    client, sock = reused
    body = b"x" * (4 << 20)
    sock.close()
    sink = client.send(wire, body=body)
    second = await wire.accept()
    left = len(request(body)) + len(body)
    loop = asyncio.get_running_loop()
    while left:
        left -= len(await loop.sock_recv(second, 1 << 20))
    second.send(CANARY)
    assert (await sink.finished()).body == b"canary"


@pytest.mark.parametrize("replayable", [True, False])
async def test_the_keep_alive_race(client, replayable):
    """200 requests against a provider that closes each connection some turns after its answer.

    No request is answered twice. None fails that may be replayed; without that leave only those
    fail whose bytes reached the provider's side before its close.
    """
    dice = random.Random(7)
    asked = []

    async def script(peer):
        while True:
            _, body = await peer.request()
            asked.append(int(body))
            await peer.send(CANARY)
            if dice.random() < 0.7:
                for _ in range(dice.randrange(6)):
                    await asyncio.sleep(0)
                peer.close()
                return

    async with Upstream(script) as upstream:
        outcomes = []
        for number in range(200):
            sink = client.send(upstream, body=b"%d" % number, replayable=replayable)
            await sink.finished()
            outcomes.append(sink.outcome)
            if sink.error:
                assert isinstance(sink.error, UpstreamClosed)
                assert sink.error.billed
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)
        assert len(asked) == len(set(asked))
        assert outcomes.count("end") == len(asked)
        if replayable:
            assert outcomes == ["end"] * 200
        else:
            assert outcomes.count("end") >= 150


async def test_a_dead_connection_is_handed_out_once(client, wire, room):
    """Many idle connections die together: each next request finds a live one."""
    sinks = [client.send(wire) for _ in range(8)]
    socks = [await wire.accept() for _ in sinks]
    for sock in socks:
        await wire.serve(sock)
    for sink in sinks:
        await sink.finished()
    origin = client.origin(wire)
    assert len(origin.idle) == 8
    for sock in socks:
        sock.close()
    again = [Recorder() for _ in range(4)]
    for sink in again:
        client.send(wire, sink=sink, timeouts=PATIENT)
    fresh = [await wire.accept() for _ in again]
    await settled(lambda: all(sink.attempt.sent_at and not sink.attempt.reused for sink in again))
    for sock in fresh:
        await wire.serve(sock)
    for sink in again:
        assert (await sink.finished()).body == b"canary"
    await settled(lambda: len(origin.connections) == len(origin.idle) == 4)


def readable(sock):
    """Tell whether the upstream's kernel holds bytes of ours."""
    try:
        return sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return b""
