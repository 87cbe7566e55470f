"""The scripted upstream plays its steps in order and notices what the client does."""

from __future__ import annotations

import asyncio

import pytest

from tests.scripted import Close, HalfClose, Hold, Pause, Request, Reset, Scripted, Wait

ASK = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"


async def connect(provider):
    reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
    writer.write(ASK)
    return reader, writer


async def test_bytes_then_close():
    """Exact bytes are played, then the connection is closed cleanly; the request is kept."""
    async with Scripted([Request(), b"odd \x00 bytes", Pause(0.001), b"!", Close()]) as provider:
        reader, writer = await connect(provider)
        assert await reader.read() == b"odd \x00 bytes!"
        assert [request.body for request in provider.requests] == [b"hi"]
        assert not provider.connections[0].gone.is_set()
        writer.close()


async def test_reset():
    """Reset is a TCP reset, after what was written before it."""
    async with Scripted([Request(), b"part", Reset()]) as provider:
        reader, writer = await connect(provider)
        assert await reader.readexactly(4) == b"part"
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_wait_and_hold():
    """Wait plays on when the test says so; Hold sees the client leave."""
    event = asyncio.Event()
    async with Scripted([Request(), b"a", Wait(event), b"b", Hold()]) as provider:
        reader, writer = await connect(provider)
        assert await reader.readexactly(1) == b"a"
        event.set()
        assert await reader.readexactly(1) == b"b"
        assert not provider.connections[0].gone.is_set()
        writer.close()
        await asyncio.wait_for(provider.connections[0].gone.wait(), 5)
        await asyncio.wait_for(provider.connections[0].finished.wait(), 5)


async def test_half_close_still_reads():
    """After HalfClose the client has its EOF and can still be heard."""
    async with Scripted([b"bye", HalfClose(), Request(), Hold()]) as provider:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        assert await reader.read() == b"bye"
        writer.write(ASK)
        writer.close()
        await asyncio.wait_for(provider.connections[0].gone.wait(), 5)
        assert provider.requests[0].body == b"hi"


async def test_client_leaves_inside_its_request():
    """A request that never becomes whole ends the script and leaves its bytes to see."""
    async with Scripted([Request(), b"never"]) as provider:
        reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(ASK[:-1])
        writer.write_eof()
        assert await reader.read() == b""
        assert provider.connections[0].gone.is_set()
        assert provider.connections[0].rest == ASK[:-1]
        assert provider.requests == []
        writer.close()


async def test_a_script_each():
    """Connections take scripts in order; the last serves the rest."""
    async with Scripted([b"1"], [b"2"]) as provider:
        seen = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
            seen.append(await reader.read())
            writer.close()
        assert seen == [b"1", b"2", b"2"]


async def test_leaving_ends_what_is_held():
    """The server goes down with connections held, blocked and waiting."""
    provider = Scripted([Hold()], [Wait(asyncio.Event())], [b"x" * (32 << 20)])
    async with provider:
        ends = [await asyncio.open_connection("127.0.0.1", provider.port) for _ in range(3)]
    for reader, writer in ends:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(64 << 20)
        writer.close()
