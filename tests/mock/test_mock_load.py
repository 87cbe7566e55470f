"""Many streams at once, and clients that do not read."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from fastgw.mock import Options, create_app, start
from fastgw.mock.app import MOCK
from tests.mock.conftest import ask
from tests.mock.wire import send, talk
from tests.waiting import eventually


async def test_200_streams(mock):
    """200 concurrent paced streams all end whole, in order, each with its own text."""
    model = "mock?chunks=30&delay_ms=5"
    seen = await asyncio.gather(
        *(talk(mock.url, ask(model, f"q {n}", stream=True)) for n in range(200))
    )
    assert {one.end for one in seen} == {"whole"}
    assert {len(one.text.split()) for one in seen} == {30}
    again = await talk(mock.url, ask(model, "q 7", stream=True))
    assert again.body == seen[7].body
    assert len({one.text for one in seen}) == 200
    await eventually(lambda: len(mock.log) == 201)
    assert {line["sent"]["completion"] for line in mock.log} == {30}
    assert mock.log.open == []


async def test_slow_reader_blocks_the_mock(mock):
    """A client that stops reading holds its stream; a gigabyte does not pile up in the mock."""
    model = "mock?chunks=1000000&chunk_bytes=1000"
    _, writer = await send(mock.url, ask(model, stream=True))
    other = await talk(mock.url, ask(stream=True))
    assert other.end == "whole"
    await eventually(lambda: mock.log.open)
    writer.transport.abort()
    line = await eventually(lambda: len(mock.log) == 2 and mock.log[1])
    assert line["ended"] == "client_gone"
    assert line["bytes"] < 32 << 20


async def test_unpaced_streams_share_the_loop(mock):
    """Endless unpaced streams do not keep others from being served."""
    model = "mock?chunks=100000000"
    readers = []
    for _ in range(3):
        reader, writer = await send(mock.url, ask(model, stream=True))
        readers.append((asyncio.create_task(drain(reader)), writer))
    for _ in range(5):
        assert (await talk(mock.url, ask(stream=True), 20)).end == "whole"
    for task, writer in readers:
        writer.transport.abort()
        await task
    await eventually(lambda: len(mock.log) == 8)


async def test_http_10(mock):
    """A client of HTTP/1.0 has its stream unframed, ended by the connection."""
    host, port = mock.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(ask(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    framed = await talk(mock.url, ask(stream=True))
    assert answer.partition(b"\r\n\r\n")[2] == framed.body
    writer.close()


async def test_bare_application():
    """The application alone, in a runner that cancels nothing, notices leaving clients too."""
    app = create_app(Options(chunks=8))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://{}:{}".format(*runner.addresses[0])
    try:
        assert (await talk(url, ask(stream=True))).end == "whole"
        reader, writer = await send(url, ask("mock?delay_ms=20&chunks=100000", stream=True))
        await reader.readuntil(b'"content":"')
        writer.transport.abort()
        log = app[MOCK].log
        line = await eventually(lambda: len(log) == 2 and log[1])
        assert line["ended"] == "client_gone"
        assert line["sent"]["completion"] < 100000
    finally:
        await runner.cleanup()


async def test_taken_port(mock):
    """A port that is taken is an OSError, and leaves nothing behind."""
    with pytest.raises(OSError, match="in use"):
        await start(Options(port=int(mock.url.rsplit(":", 1)[1])))


async def test_unwritable_log(tmp_path):
    """So is a log that cannot be written."""
    with pytest.raises(OSError, match="missing"):
        await start(Options(log=str(tmp_path / "missing" / "log")))


async def drain(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(1 << 16):
            pass
    except ConnectionError:
        return
