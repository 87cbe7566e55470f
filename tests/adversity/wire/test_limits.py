"""H-9 and H-10: sizes are refused before the excess is held, and an early answer arrives."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.adversity.wire.conftest import MAX_BODY
from tests.adversity.wire.memory import resident
from tests.adversity.wire.raw import Heard, talk
from tests.processes import Gateway

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
GET = b"GET /healthz HTTP/1.1\r\nhost: a\r\n"
MEBI = 1 << 20
TOGETHER = 16


def chunks(total: int, size: int = 65536, extension: bytes = b"") -> list[bytes]:
    """Give a chunked body."""
    return [b"%x%b\r\n%b\r\n" % (size, extension, b"a" * size)] * (total // size) + [b"0\r\n\r\n"]


def ask(port: int, pieces: list[bytes], times: int = 1, **options: Any) -> list[Heard]:
    """Send the same several times at once."""

    async def all_of_them() -> list[Heard]:
        return await asyncio.gather(*(talk(port, pieces, **options) for _ in range(times)))

    return asyncio.run(all_of_them())


def too_large(key: str) -> dict[str, tuple[list[bytes], int, int]]:
    """Give requests over one limit each: pieces, status, what may be held of it."""
    chat = CHAT + b"authorization: Bearer %b\r\n" % key.encode()
    return {
        "line": ([b"GET /" + b"a" * 65536], 414, 8192),
        "field": ([GET + b"a: " + b"b" * 65536], 431, 8192),
        "head": ([GET] + [b"a: " + b"b" * 8000 + b"\r\n"] * 64, 431, 65536),
        "fields": ([GET + b"a: b\r\n" * 101], 431, 65536),
        "extension": (
            [chat + b"transfer-encoding: chunked\r\n\r\n", *chunks(65536, 1, b";" + b"a" * 300)],
            400,
            65536,
        ),
        "extensions": (
            [chat + b"transfer-encoding: chunked\r\n\r\n", *chunks(65536, 1, b";" + b"a" * 200)],
            400,
            65536,
        ),
        "trailers": (
            [
                chat + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
                *[b"a: " + b"b" * 1000 + b"\r\n"] * 64,
            ],
            400,
            65536,
        ),
        "length": (
            [chat + b"content-length: %d\r\n\r\n" % (16 * MEBI), *[b"a" * 65536] * 256],
            413,
            MAX_BODY,
        ),
        "chunks": (
            [chat + b"transfer-encoding: chunked\r\n\r\n", *chunks(16 * MEBI)],
            413,
            MAX_BODY,
        ),
    }


@pytest.mark.parametrize("what", list(too_large("")))
def test_sizes(port: int, key: str, gateway: Gateway, what: str, record_property: Any) -> None:
    """Each limit has its status, and nobody makes us hold more than the limit and a mebibyte."""
    pieces, status, held = too_large(key)[what]
    ask(port, pieces)  # what is made once for all is made now
    before = resident(gateway.children())
    heard = ask(port, pieces, TOGETHER)
    growth = (resident(gateway.children()) - before) / TOGETHER
    record_property("table", f"H-9 {what}: {status}, RSS + {growth:.0f} KiB a request")
    for each in heard:
        assert each.statuses == [status]
        assert each.closed
        each.responses[0].error()
    assert growth <= (held + MEBI) / 1024


def test_many_pipelined_requests(port: int, gateway: Gateway, record_property: Any) -> None:
    """10,000 requests in one go are answered in order, and are not held all at once."""
    count = 10_000
    before = resident(gateway.children())
    (heard,) = ask(port, [(GET + b"\r\n") * count], enough=count, patience=60)
    growth = resident(gateway.children()) - before
    record_property("table", f"H-9 pipelined: {count} answered, RSS + {growth} KiB")
    assert heard.statuses == [200] * count
    assert growth <= 8 * 1024


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_before_the_body_has_come(port: int, framing: str, record_property: Any) -> None:
    """Who sends 10 MiB with a bad key reads the 401, and the body is never taken for a request."""
    canary = GET + b"\r\n"
    body = (canary * (65536 // len(canary) + 1))[:65536]
    if framing == "length":
        head = CHAT + b"content-length: %d\r\n\r\n" % (10 * MEBI)
        pieces = [head, *[body] * 160, canary]
    else:
        head = CHAT + b"transfer-encoding: chunked\r\n\r\n"
        pieces = [head, *[b"%x\r\n%b\r\n" % (len(body), body)] * 160, b"0\r\n\r\n", canary]
    heard = ask(port, pieces, 20)
    answered = sum(each.statuses == [401] for each in heard)
    record_property("table", f"H-10 {framing}: {answered} of {len(heard)} read the 401")
    for each in heard:
        assert each.statuses == [401]
        assert each.closed
        assert not each.rest
        assert json.loads(each.responses[0].body)["error"]["code"] == "invalid_api_key"


def test_a_small_body_that_nobody_wants_keeps_the_connection(port: int) -> None:
    """It is read off, and the next request is answered."""
    request = CHAT + b"content-length: 60000\r\n\r\n"
    (heard,) = ask(port, [request, b"a" * 60000, GET + b"\r\n"], enough=2)
    assert heard.statuses == [401, 200]


def test_an_end_in_the_middle_is_told(port: int) -> None:
    """A client that shuts its side before the request is whole hears so."""
    for pieces in ([GET], [CHAT + b"content-length: 10\r\n\r\n", b"a"]):
        (heard,) = ask(port, pieces, eof=True)
        assert heard.statuses in ([400], [401])
        assert heard.closed


def test_an_expectation_is_met(port: int, key: str) -> None:
    """100 comes before the body is sent; an unknown expectation is 417."""
    chat = CHAT + b"authorization: Bearer %b\r\n" % key.encode()
    (heard,) = ask(
        port, [chat + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n", b"{}"], enough=1
    )
    assert heard.statuses == [400]
    (heard,) = ask(port, [chat + b"expect: 200-ok\r\n\r\n"])
    assert heard.statuses == [417]
