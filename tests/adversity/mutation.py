"""Requests bent out of shape: flipped bytes, moved headers, cuts, joins. Pure and repeatable."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.contract.clientele import PLACEHOLDER
from tests.corpora import ROOT

HEADS = Path(__file__).parent / "heads"
MOST = 64 * 1024
_ODD = (b"\0", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b",", b";", b"\x7f", b"\x80", b"\xff")
_FIELDS = (
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding : chunked",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: -1",
    b"Connection: close",
    b"Connection: upgrade",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"Host: other",
    b" folded",
)


@dataclass(frozen=True)
class Mutant:
    """The pieces to send, one after the other."""

    number: int
    pieces: tuple[bytes, ...]

    @property
    def whole(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


def seeds(key: str) -> list[bytes]:
    """Give what is mutated: requests of real clients, and the public corpus if it is there."""
    found = [
        path.read_bytes().replace(PLACEHOLDER, key.encode()) for path in sorted(HEADS.iterdir())
    ]
    corpus = ROOT / "http_public"
    if corpus.exists():
        entries = json.loads((corpus / "requests.json").read_text())
        found += [(corpus / entry["file"]).read_bytes() for entry in entries]
    return [seed for seed in found if len(seed) <= MOST]


def mutant(sources: Sequence[bytes], seed: int, number: int) -> Mutant:
    """Give the mutant of this number: always the same one."""
    draw = random.Random(f"{seed}:{number}")
    data = draw.choice(sources)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        data = draw.choice(_CHANGES)(data, draw, sources)[:MOST]
    return Mutant(number, tuple(_cut(data, draw)))


def _cut(data: bytes, draw: random.Random) -> list[bytes]:
    places = sorted(draw.randrange(len(data) + 1) for _ in range(draw.choice((0, 0, 0, 1, 2, 5))))
    edges = [0, *places, len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]
    return [piece for piece in pieces if piece] or [b"\r\n"]


def _flip(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    at = draw.randrange(len(data) or 1)
    return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]


def _insert(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice(_ODD) * draw.choice((1, 1, 2, 40)) + data[at:]


def _delete(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    at = draw.randrange(len(data) or 1)
    return data[:at] + data[at + draw.choice((1, 1, 2, 8, 60)) :]


def _truncate(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _lines(change: Callable[[list[bytes], random.Random], None]) -> Change:
    def apply(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
        head, end, body = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        change(lines, draw)
        return b"\r\n".join(lines) + end + body

    return apply


def _move(lines: list[bytes], draw: random.Random) -> None:
    line = lines.pop(draw.randrange(len(lines)))
    lines.insert(draw.randrange(len(lines) + 1), line)


def _double(lines: list[bytes], draw: random.Random) -> None:
    lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))


def _drop(lines: list[bytes], draw: random.Random) -> None:
    del lines[draw.randrange(len(lines))]


def _add(lines: list[bytes], draw: random.Random) -> None:
    lines.insert(draw.randrange(1, len(lines) + 1), draw.choice(_FIELDS))


def _bare(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    """Replace one line end by a bare LF or CR."""
    count = data.count(b"\r\n")
    if not count:
        return data
    parts = data.split(b"\r\n")
    at = draw.randrange(count) + 1
    return b"\r\n".join(parts[:at]) + draw.choice((b"\n", b"\r")) + b"\r\n".join(parts[at:])


def _join(data: bytes, draw: random.Random, sources: Sequence[bytes]) -> bytes:
    return data + draw.choice(sources)


def _splice(data: bytes, draw: random.Random, sources: Sequence[bytes]) -> bytes:
    other = draw.choice(sources)
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def _twice(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    return data * draw.choice((2, 2, 3))


Change = Callable[[bytes, random.Random, Sequence[bytes]], bytes]
_CHANGES: tuple[Change, ...] = (
    *(_flip, _flip, _insert, _delete, _truncate, _bare, _join, _splice, _twice),
    *map(_lines, (_move, _double, _drop, _add, _add)),
)
