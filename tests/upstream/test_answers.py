"""What upstreams answer: every framing, every public bad answer, every byte they can die at.

The room's worst days: a broken answer hangs until nobody waits any more; the rest of one answer
becomes the next request's; a cut answer passes for a whole one.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest

from fastgw.domain import Timeouts
from fastgw.errors import UpstreamClosed, UpstreamProtocolError
from tests.corpora import shared
from tests.upstream.scripted import CANARY, Recorder, Upstream, answering, request, settled

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("answer", "body", "reused"),
    [
        (OK + b"content-length: 5\r\n\r\nhello", b"hello", True),
        (OK + b"content-length: 0\r\n\r\n", b"", True),
        (
            OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n",
            b"hello",
            True,
        ),
        (OK + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"", True),
        (OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok", b"ok", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 2\r\n\r\nok", b"ok", True),
        (
            b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" * 8 + OK + b"content-length: 2\r\n\r\nok",
            b"ok",
            True,
        ),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy", b"busy", True),
        (b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", b"", True),
    ],
)
async def test_framings(client, answer, body, reused, bytewise):
    """Each framing gives its body, and the connection back where the upstream keeps it."""

    async def script(peer):
        while True:
            _, asked = await peer.request()
            answered = CANARY if asked == b"next" else answer
            await (peer.send_bytewise if bytewise else peer.send)(answered)

    async with Upstream(script) as upstream:
        for turn in range(2):
            sink = await client.ask(upstream)
            assert (sink.outcome, sink.body) == ("end", body)
            assert sink.attempt.reused is (reused and turn > 0)
        assert (await client.ask(upstream, body=b"next")).body == b"canary"


async def test_a_head_request_has_no_body(client):
    """Framing fields of an answer to HEAD describe a body that does not come."""
    answer = OK + b"content-length: 500\r\n\r\n"
    async with Upstream(answering(answer)) as upstream:
        sink = await client.ask(upstream, head=request(method=b"HEAD"), body=b"{}")
        assert (sink.outcome, sink.body) == ("end", b"")
        again = await client.ask(upstream)
        assert (again.body, again.attempt.reused) == (b"canary", True)


async def test_read_until_close(client):
    """Without framing the close is the end; half-close or close, the connection is gone."""

    async def script(peer):
        await peer.request()
        await peer.send(OK + b"\r\nhel")
        await peer.send(b"lo")
        peer.close_sending()
        await peer.gone()

    async with Upstream(script) as upstream:
        for _ in range(2):
            sink = await client.ask(upstream)
            assert (sink.outcome, sink.body, sink.attempt.reused) == ("end", b"hello", False)


async def test_a_reset_is_no_end(client):
    """A body that only a close could end fails when the connection is reset."""

    async def script(peer):
        await peer.request()
        await peer.send(OK + b"\r\nhello")
        await heard.wait()
        peer.reset()

    heard = asyncio.Event()
    async with Upstream(script) as upstream:
        sink = await client.ask(upstream, sink=Recorder(on_data=lambda _: heard.set()))
        assert (sink.outcome, sink.body) == ("UpstreamClosed", b"hello")
        assert sink.error.billed


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", "interim"),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 9, "interim"),
        (b"HTTP/1.1 100 Continue\r\n\r\n\r\n" + OK, "status line"),
        (b"<html>we are sorry</html>", "status line"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "status line"),
        (OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", "both"),
        (OK + b"a: " + b"x" * 70000, "64 KiB"),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nx", "chunk size"),
        (OK + b"transfer-encoding: chunked\r\n\r\n0\r\nx-trailer: 1\r\n\r\n", "trailers"),
    ],
    ids=["101", "flood", "empty-line", "html", "tls", "both", "large", "chunk", "trailer"],
)
async def test_bad_answers_fail_at_once(client, answer, why, bytewise):
    """The upstream keeps the connection open: the failure does not wait for a time-out."""
    script = answering(b"")
    async with Upstream(script) as upstream:
        sink = client.send(upstream)
        await settled(lambda: script.seen)  # sooner, it would be bytes that nobody asked for
        peer = upstream.peers[0]
        with suppress(ConnectionError):
            await (peer.send_bytewise if bytewise else peer.send)(answer)
        await sink.finished()
        assert isinstance(sink.error, UpstreamProtocolError)
        assert why in sink.error.message
        assert sink.error.message.startswith("the provider sent a bad answer: ")
        assert sink.error.billed
        assert (await client.ask(upstream)).body == b"canary"


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"content-length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        OK + b"content-length: 5\r\n\r\nhello\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_bytes_after_the_answer_cost_the_connection(client, answer):
    """The answer stands, what follows it is never read as another."""
    async with Upstream(answering(answer)) as upstream:
        sink = await client.ask(upstream)
        assert (sink.outcome, sink.body) == ("end", b"hello")
        again = await client.ask(upstream)
        assert (again.body, again.attempt.reused) == (b"canary", False)


# -- the public corpus ---------------------------------------------------------------------------

FINAL_WORD = {
    "llhttp/response_connection_http_1_1_with_keep_alive_disabled_and_20",
    "llhttp/response_connection_http_1_1_with_keep_alive_disabled_conten",
}
"""Bytes after an answer that announced `connection: close`. In one read with its end they are
refused; later the answer has ended already, and they can do no harm on a closed connection."""


@pytest.mark.parametrize("ending", ["open", "close"])
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_the_public_corpus(clients, clock, bytewise, ending):
    """61 provider answers: bad ones fail, none hangs, none touches the next request."""
    folder = shared("http_public")
    cases = json.loads((folder / "upstream.json").read_text())
    assert len(cases) == 61
    client = clients(clock=clock)
    timeouts = Timeouts(connect_s=60, first_byte_s=60, idle_s=60, total_s=90)
    wrong = []

    async def script(peer):
        while True:
            _, body = await peer.request()
            if body == b"canary?":
                await peer.send(CANARY)
                continue
            try:
                await (peer.send_bytewise if bytewise else peer.send)(raw)
                if ending == "close":
                    peer.close_sending()
            finally:
                played.set()

    for case in cases:
        raw = (folder / case["file"]).read_bytes()
        played = asyncio.Event()
        async with Upstream(script) as upstream:
            sink = client.send(upstream, timeouts=timeouts)
            await played.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            while not sink.done.is_set():
                clock.advance(61)
                client.pool.deadlines.sweep()
                client.pool.deadlines.sweep()
            refused = "end" if bytewise and case["id"] in FINAL_WORD else "failed"
            if case["expected"] == "reject" and refused == "failed" and sink.error is None:
                wrong.append((case["id"], sink.outcome))
            canary = await client.ask(upstream, body=b"canary?")
            if canary.body != b"canary":
                wrong.append((case["id"], "desync", canary.outcome))
    assert wrong == []


# -- dying providers -----------------------------------------------------------------------------

CONTENT = b'{"id":"x","choices":[{"message":{"content":"' + b"y" * 300 + b'"}}]}'
ANSWERS = {
    "length": OK + b"content-type: application/json\r\nx-request-id: req_0123456789\r\n"
    b"content-length: %d\r\n\r\n" % len(CONTENT) + CONTENT,
    "chunked": OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in [b"data: {}\n\n" * 8] * 4)
    + b"0\r\n\r\n",
}  # fmt: skip
BODIES = {"length": CONTENT, "chunked": b"data: {}\n\n" * 32}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_provider_dies_at_every_byte(clients, room, framing, how):
    """Short of its last byte the answer fails, billed; what was delivered is a prefix."""
    client = clients(bounds=room.origin.Bounds(idle=0))
    answer, body = ANSWERS[framing], BODIES[framing]

    async def script(peer):
        _, asked = await peer.request()
        await peer.send(answer[: int(asked)])
        if how == "close":
            peer.close()
        else:
            peer.reset()

    async with Upstream(script) as upstream:
        for start in range(0, len(answer) + 1, 16):
            offsets = range(start, min(start + 16, len(answer) + 1))
            sinks = [client.send(upstream, body=b"%d" % offset) for offset in offsets]
            for offset, sink in zip(offsets, sinks, strict=True):
                await sink.finished()
                if offset == len(answer):
                    assert (sink.outcome, sink.body) == ("end", body)
                    continue
                assert isinstance(sink.error, UpstreamClosed), offset
                assert sink.error.billed
                assert body.startswith(sink.body)
                if not offset:
                    assert "without an answer" in sink.error.message


async def test_every_cut_of_an_answer_reads_the_same(client):
    """Two reads with any boundary between them give the same head, body and end."""
    for framing, answer in ANSWERS.items():

        async def script(peer, answer=answer):
            while True:
                _, asked = await peer.request()
                await peer.send(answer[: int(asked)])
                for _ in range(3):
                    await asyncio.sleep(0)
                await peer.send(answer[int(asked) :])

        async with Upstream(script) as upstream:
            for start in range(1, len(answer), 32):
                cuts = range(start, min(start + 32, len(answer)))
                sinks = [client.send(upstream, body=b"%d" % cut) for cut in cuts]
                for sink in sinks:
                    await sink.finished()
                    assert (sink.outcome, sink.body) == ("end", BODIES[framing])
