"""aiohttp takes an answer that has already been written; should it ask for more, this says so."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web

from fastgw.flow.relay import visible
from fastgw.server.http import GatewayServer
from fastgw.server.reply import Reply


async def ask(handler, request: bytes) -> bytes:
    """Serve one connection with this handler; give all the bytes until it is quiet or closed."""
    app = web.Application()
    runner = web.AppRunner(app)
    await runner.setup()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(GatewayServer(app, {"/x": handler}), "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        return answer
    finally:
        server.close()
        await runner.cleanup()


def request(version: str = "1.1", *fields: str) -> bytes:
    lines = [f"POST /x HTTP/{version}", "host: x", "content-length: 0", *fields, "", ""]
    return "\r\n".join(lines).encode()


async def whole(incoming: web.Request) -> Reply:
    reply = Reply(incoming)
    reply.whole(200, b"x-a: 1\r\n", b"hello")
    return reply


async def pieces(incoming: web.Request) -> Reply:
    reply = Reply(incoming)
    reply.begin(200, b"x-a: 1\r\n")
    reply.write(b"one")
    reply.write(b"two")
    reply.end()
    return reply


async def broken(incoming: web.Request) -> Reply:
    reply = Reply(incoming)
    reply.begin(200, b"")
    reply.write(b"one")
    reply.break_off()
    return reply


async def test_two_answers_on_one_connection():
    """Whole answers are framed by length and the connection goes on; the last one closes it."""
    answer = await ask(whole, request() + request("1.1", "connection: close"))
    first, second = answer.split(b"hello")[:2]
    assert first.startswith(b"HTTP/1.1 200 OK\r\nx-a: 1\r\ndate: ")
    assert first.endswith(b"\r\ncontent-length: 5\r\n\r\n")
    assert b"connection" not in first
    assert b"connection: close\r\n" in second
    assert answer.endswith(b"hello")


async def test_pieces_are_chunks():
    """HTTP/1.1 clients get chunked framing, complete, and the connection goes on."""
    answer = await ask(pieces, request() + request("1.1", "connection: close"))
    assert answer.count(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n") == 2
    assert answer.count(b"transfer-encoding: chunked\r\n") == 2


async def test_a_client_of_http_1_0_gets_bare_pieces_until_the_end():
    """It knows no chunks: the end of the connection is the end of the body."""
    answer = await ask(pieces, request("1.0"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"onetwo"
    assert b"chunked" not in head


async def test_an_answer_broken_off_never_looks_complete():
    """What was written arrives, the last chunk does not, the next request is not answered."""
    answer = await ask(broken, request() + request())
    assert answer.endswith(b"3\r\none\r\n")
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_client_that_left_is_noticed():
    """Writing to nobody is a ConnectionError, which the lane takes for a client that left."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    theirs.close()

    class Gone:
        protocol = None
        transport = writer.transport
        version = (1, 1)
        keep_alive = True

    writer.close()
    await writer.wait_closed()
    assert reader is not None
    with pytest.raises(ConnectionResetError):
        Reply(Gone()).whole(200, b"", b"x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("gpt-5", "gpt-5"), ("a\r\nx: y", "a??x: y"), ("é\x00\x7f", "???"), ("", "")],
)
def test_no_text_ends_a_header_line(text, shown):
    """Model names come from clients."""
    assert visible(text) == shown
