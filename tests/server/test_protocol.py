"""One client connection: what is refused is answered in its turn, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import pytest
from aiohttp.http_parser import HttpRequestParserPy
from aiohttp.web_protocol import RequestHandler

from fastgw._ext import request as heads
from fastgw.errors import CannotStart
from fastgw.server.protocol import check_parser
from tests.scripted import Hold, Request, Scripted, Wait
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("small_catalogue")

GET = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
LOGIN = b"POST /admin/auth/login HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
BAD = b"GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"
QUICK = {"header_timeout_s": 0.3, "body_timeout_s": 0.3, "keepalive_timeout_s": 0.3}


async def connect(served):
    """Open a connection to the first address."""
    return await asyncio.open_connection("127.0.0.1", urlsplit(served.url).port)


async def heard(reader, writer):
    """Give the statuses and bodies of all answers up to the end."""
    found = []
    async with asyncio.timeout(10):
        while line := await reader.readline():
            fields = {}
            while (field := await reader.readline()) != b"\r\n":
                name, _, value = field.decode().partition(":")
                fields[name.lower()] = value.strip()
            found.append((int(line.split()[1]), await body(reader, fields)))
    writer.close()
    return found


async def body(reader, fields):
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    data = b""
    while size := int(await reader.readline(), 16):
        data += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return data


def test_a_lax_parser_is_not_served_with():
    """The pure-Python parser of aiohttp, and old releases, are refused at the start."""
    check_parser()
    with pytest.raises(CannotStart, match=r"3\.14\.0"):
        check_parser(version="3.14.0")
    with pytest.raises(CannotStart, match="compiled"):
        check_parser(HttpRequestParserPy)


async def test_a_fault_is_answered_in_its_turn(serve, sqlite_url, caplog):
    """After the requests before it, as the last answer, in JSON, and quietly."""
    served = await serve(sqlite_url)
    reader, writer = await connect(served)
    writer.write(GET + GET + BAD + GET)
    answers = await heard(reader, writer)
    assert [status for status, _ in answers] == [200, 200, 400]
    error = json.loads(answers[-1][1])["error"]
    assert error["message"] == "there is more than one Host header"
    assert error["code"] == "invalid_request"
    assert not caplog.records


async def test_a_refused_head_has_no_body(serve, sqlite_url):
    """RFC 9110 9.3.2: a client that asked for a head would take a body for the next answer."""
    served = await serve(sqlite_url)
    reader, writer = await connect(served)
    writer.write(BAD.replace(b"GET", b"HEAD"))
    answer = await reader.read()
    writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-length: " in head.lower()
    assert rest == b""


SHAPES = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic"}
WRONG = {
    "two hosts": (b"POST %b HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
    "no route": (b"POST %b/nothing HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", 404),
    "other method": (b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n", 405),
    "expectation": (b"POST %b HTTP/1.1\r\nhost: a\r\nexpect: x\r\ncontent-length: 0\r\n\r\n", 417),
}


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("path", SHAPES)
async def test_faults_have_the_shape_of_the_client_api(serve, sqlite_url, path, fault):
    """Whoever finds them, ours or aiohttp."""
    served = await serve(sqlite_url)
    request, status = WRONG[fault]
    reader, writer = await connect(served)
    writer.write(request % path.encode() + BAD)
    (answer, *_) = await heard(reader, writer)
    told = json.loads(answer[1])
    assert answer[0] == status
    assert (told.get("type") == "error") == (SHAPES[path] == "anthropic")
    assert ("code" in told["error"]) == (SHAPES[path] == "openai")


@pytest.mark.parametrize("path", SHAPES)
async def test_what_aiohttp_cannot_read_has_it_too(serve, sqlite_url, path, monkeypatch):
    """It names no path then; the framing has seen it."""
    served = await serve(sqlite_url, server={"fast_lane": False})
    receive = RequestHandler.data_received

    def garble(handler, data):
        receive(handler, data.replace(b"fine:", b"not fine:"))

    monkeypatch.setattr(RequestHandler, "data_received", garble)
    reader, writer = await connect(served)
    writer.write(b"POST %b HTTP/1.1\r\nhost: a\r\nfine: x\r\n\r\n" % path.encode())
    ((status, body),) = await heard(reader, writer)
    assert status == 400
    assert (json.loads(body).get("type") == "error") == (SHAPES[path] == "anthropic")


async def test_a_fault_waits_for_a_stream(serve, sqlite_url, tmp_path):
    """A bad request behind a live answer does not break it off."""
    event = asyncio.Event()
    script = [
        Request(),
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n",
        b"transfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
        Wait(event),
        b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
        Hold(),
    ]
    async with Scripted(script) as slow:
        account = {
            "name": "slow",
            "type": "openai_compatible",
            "base_url": slow.url + "/v1",
            "models": ["s"],
        }
        served = await serve(sqlite_url, providers=[account])
        key = await served.create_key()
        asked = json.dumps({"model": "s", "messages": [], "stream": True}).encode()
        reader, writer = await connect(served)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %b\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (key.encode(), len(asked), asked)
        )
        await eventually(lambda: slow.requests)
        writer.write(BAD)
        event.set()
        answers = await heard(reader, writer)
    assert [status for status, _ in answers] == [200, 400]
    assert answers[0][1] == b"data: 1\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", []),
        (GET[:-2], [408]),
        (GET, [200]),
        (GET + GET[:9], [200, 408]),
        (LOGIN + b"content-length: 9\r\n\r\n{", [408]),
        (LOGIN + b"transfer-encoding: chunked\r\n\r\n1\r\n{", [408]),
    ],
)
async def test_nobody_waits_for_ever(serve, sqlite_url, sent, expected):
    """Silence at any point ends the connection, with a 408 if something was begun."""
    served = await serve(sqlite_url, server=QUICK)
    reader, writer = await connect(served)
    writer.write(sent)
    answers = await heard(reader, writer)
    assert [status for status, _ in answers] == expected


async def test_a_slow_but_steady_body_is_taken(serve, sqlite_url):
    """A body may take longer than the time-out if it brings a kibibyte a second."""
    served = await serve(sqlite_url, server=QUICK)
    reader, writer = await connect(served)
    piece = b" " * 1024
    writer.write(LOGIN + b"content-length: %d\r\nconnection: close\r\n\r\n" % (8 * len(piece) + 2))
    for _ in range(8):
        writer.write(piece)
        await asyncio.sleep(0.1)
    writer.write(b"{}")
    ((status, _),) = await heard(reader, writer)
    assert status == 422


async def test_a_broken_body_fails_the_handler_that_reads_it(serve, sqlite_url, caplog):
    """The handler hears what is wrong; its answer is the connection's last."""
    served = await serve(sqlite_url)
    reader, writer = await connect(served)
    writer.write(LOGIN + b"transfer-encoding: chunked\r\n\r\n1\r\n{")
    await eventually(lambda: served.gateway._server.requests_count)
    writer.write(b"junk")
    ((status, text),) = await heard(reader, writer)
    assert status == 400
    assert b"CR LF" in text
    assert not caplog.records


async def test_limits_are_ours(serve, sqlite_url):
    """What our reader takes is not refused by aiohttp's parser behind it."""
    served = await serve(sqlite_url)
    line = b"GET /%b HTTP/1.1\r\nhost: a\r\n"
    line = line % (b"a" * (heads.MAX_LINE - len(b"GET / HTTP/1.1\r\n")))
    fields = b"".join(b"x%d: %b\r\n" % (i, b"b" * 500) for i in range(95))
    long = b"y: " + b"c" * (heads.MAX_LINE - 5) + b"\r\n"
    reader, writer = await connect(served)
    writer.write(line + fields + long + b"connection: close\r\n\r\n")
    ((status, _),) = await heard(reader, writer)
    assert status == 404
