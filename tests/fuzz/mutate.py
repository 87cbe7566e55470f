"""A mutator without coverage, for the test suite and for where atheris is not to be had. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

MOST = 4096
TOKENS = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\r\n", b"\n", b"\r", b"\n\n", b"\r\n\r\n"),
    *(b"0\r\n\r\n", b"data: ", b"event: error\n", b"[DONE]", b'"usage":{"x":1}', b'"usage":null'),
    *(
        b'"choices":[]',
        b'"error":{}',
        b'"model":"m"',
        b'"\\u006dodel"',
        b"\xef\xbb\xbf",
        b"\xc3\x28",
    ),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b" ", b"\t", b";a=b", b"\0"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"Host: x\r\n", b"Connection: close\r\n", b"f" * 16, b"[" * 101),
)


def mutants(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Give endless variations of a corpus; the same ones for the same seed."""
    draw = random.Random(seed)
    while True:
        data = bytearray(draw.choice(corpus))
        for _ in range(draw.choice((1, 1, 2, 4, 8))):
            _change(data, draw, corpus)
        yield bytes(data[:MOST])


def _change(data: bytearray, draw: random.Random, corpus: Sequence[bytes]) -> None:
    at = draw.randrange(len(data) + 1)
    end = min(len(data), at + draw.choice((1, 1, 2, 8, 64)))
    match draw.randrange(6):
        case 0:
            data[at:at] = draw.choice(TOKENS)
        case 1:
            data[at:end] = b""
        case 2:
            data[at:end] = bytes(draw.randrange(256) for _ in range(end - at))
        case 3:
            data[at:at] = data[at:end] * draw.choice((1, 2, 20))
        case 4:
            data[at:] = draw.choice(corpus)[at:]
        case _:
            if end > at:
                data[at] ^= 1 << draw.randrange(8)
