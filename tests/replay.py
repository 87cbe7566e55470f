"""A provider that plays recorded answers, with full say over how the bytes are cut.

An answer's bytes pass through two cuts that know nothing of each other: the HTTP chunk framing
(seeded random sizes, on purpose across events) and the TCP segments, which fall into chunk-size
lines too. Which exchange is played is told, in this order, by a path `/x/<id>/...`, a header
`x-replay: <id>`, a `model` in the body that is an id, else by the order the exchanges were given.
What was asked is kept as received.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, Self

Segments = Literal["whole", "random"] | int
Framing = Literal["recorded", "length", "chunked", "close"]

OWN_HEADERS = {
    *("content-length", "transfer-encoding", "content-encoding"),
    *("connection", "keep-alive", "trailer"),
}
"""Framing is ours, and recorded bodies have their content coding undone."""


@dataclass
class Received:
    """One request as it came; `connection` counts from 0, names keep their case and order."""

    exchange: str | None
    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    connection: int
    answered: bool = False
    """All of the answer was handed to the kernel."""
    abandoned: bool = False
    """The client left before that."""

    def header(self, name: str) -> str | None:
        """Give the value of a header that must not occur twice."""
        found = [value for key, value in self.headers if key.decode().lower() == name.lower()]
        assert len(found) < 2, f"{name} occurs {len(found)} times"
        return found[0].decode("latin-1") if found else None


def recorded_body(exchange: dict[str, Any]) -> bytes:
    """Give the bytes of a recorded answer."""
    response = exchange["response"]
    if response["body_encoding"] == "base64":
        return base64.b64decode(response["body"])
    return response["body"].encode()


def cut(data: bytes, segments: Segments, draw: random.Random) -> list[bytes]:
    """Cut bytes into pieces of a size, at random places, or not at all."""
    if segments == "whole":
        return [data]
    if segments != "random":
        return [data[at : at + segments] for at in range(0, len(data), segments)]
    pieces = []
    at = 0
    while at < len(data):
        size = draw.choice((1, 2, draw.randrange(1, 40), draw.randrange(1, 2000)))
        pieces.append(data[at : at + size])
        at += size
    return pieces


def frame(body: bytes, framing: Framing, draw: random.Random) -> tuple[list[str], bytes]:
    """Give the header lines and the framed body."""
    if framing == "length":
        return [f"content-length: {len(body)}"], body
    if framing == "close":
        return ["connection: close"], body
    chunks = []
    for piece in cut(body, "random", draw):
        size = f"{len(piece):x}"
        size = size.upper() if draw.random() < 0.5 else size
        chunks.append(f"{size}\r\n".encode() + piece + b"\r\n")
    return ["transfer-encoding: chunked"], b"".join(chunks) + b"0\r\n\r\n"


@dataclass
class Replay:
    """The server: `async with Replay(exchanges) as provider`; settings may change as it runs."""

    exchanges: Iterable[dict[str, Any]]
    segments: Segments = "random"
    framing: Framing = "recorded"
    seed: int = 0
    received: list[Received] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._by_id = {exchange["id"]: exchange for exchange in self.exchanges}
        self._order = deque(self._by_id)
        self._connections: set[_Connection] = set()
        self._count = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in tuple(self._connections):
            connection.transport.abort()
        await self._server.wait_closed()

    def base_url(self, exchange: str | None = None) -> str:
        """Give what an OpenAI client takes as base URL, for one exchange or for those in order."""
        return f"{self.url}/v1" if exchange is None else f"{self.url}/x/{exchange}/v1"

    @property
    def unmatched(self) -> list[Received]:
        """Requests nothing was recorded for; they were answered 404."""
        return [request for request in self.received if request.exchange is None]

    def asked(self, exchange: str) -> list[Received]:
        """Give the requests one exchange was played to."""
        return [request for request in self.received if request.exchange == exchange]

    def _connect(self) -> _Connection:
        connection = _Connection(self, self._count)
        self._count += 1
        return connection

    def answer(self, request: Received) -> tuple[list[bytes], bool]:
        """Give the segments of the answer and whether the connection is closed after it."""
        request.exchange = self._match(request)
        self.received.append(request)
        draw = random.Random(f"{self.seed}:{request.exchange}")
        if request.exchange is None:
            head = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
            return [head], False
        exchange = self._by_id[request.exchange]
        response = exchange["response"]
        framing = self.framing
        if framing == "recorded":
            coded = response["headers"].get("transfer-encoding") == "chunked"
            framing = "chunked" if coded or exchange["stream"] else "length"
        lines, body = frame(recorded_body(exchange), framing, draw)
        status = response["status"]
        head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *lines]
        for name, value in response["headers"].items():
            if name.lower() not in OWN_HEADERS:
                head += [f"{name}: {one}" for one in ([value] if isinstance(value, str) else value)]
        wire = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body
        return cut(wire, self.segments, draw), framing == "close"

    def _match(self, request: Received) -> str | None:
        asked: list[str | None] = [request.header("x-replay")]
        if request.path.startswith("/x/"):
            asked.insert(0, request.path.split("/")[2])
        try:
            asked.append(json.loads(request.body)["model"])
        except (ValueError, KeyError, TypeError):
            asked.append(None)
        for name in asked:
            if isinstance(name, str) and name in self._by_id:
                return name
        named = request.path.startswith("/x/") or asked[0] is not None
        return self._order.popleft() if self._order and not named else None


class _Connection(asyncio.Protocol):
    """One client connection: requests one after the other, answers segment by segment."""

    def __init__(self, server: Replay, number: int) -> None:
        self._server = server
        self._number = number
        self._buffer = bytearray()
        self._segments: deque[bytes] = deque()
        self._request: Received | None = None
        self._close_after = False
        self._paused = False
        self._turn: asyncio.Handle | None = None
        self._continued = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server._connections.discard(self)
        if self._request is not None:
            self._request.abandoned = True
            self._request = None
        if self._turn is not None:
            self._turn.cancel()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._turn is None:
            self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._serve()

    def _serve(self) -> None:
        if self._request is not None:
            return
        taken = take_request(self._buffer, self._number)
        if isinstance(taken, Received):
            self._continued = False
            segments, self._close_after = self._server.answer(taken)
            self._request = taken
            self._segments.extend(segments)
            self._send()
        elif taken == "expects" and not self._continued:
            self._continued = True
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _send(self) -> None:
        """Write one segment, then let the loop (and so the reader) have a turn."""
        self._turn = None
        if self._request is None or self._paused:
            return
        self.transport.write(self._segments.popleft())
        if self._segments:
            self._turn = asyncio.get_running_loop().call_soon(self._send)
            return
        self._request.answered = True
        self._request = None
        if self._close_after:
            self.transport.close()
        else:
            self._serve()


def take_request(buffer: bytearray, connection: int = 0) -> Received | Literal["expects"] | None:
    """Take one whole request off the front of a buffer; None while it is incomplete.

    "expects": its head is there and the client waits for a 100 before it sends the body.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = bytes(buffer[:end]).split(b"\r\n")
    method, path, _ = first.decode("latin-1").split(" ")
    headers = []
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name, value.strip(b" \t")))
    request = Received(None, method, path, headers, b"", connection)
    if request.header("transfer-encoding") is not None:
        found = _take_chunks(buffer, end + 4)
    else:
        size = end + 4 + int(request.header("content-length") or 0)
        found = (bytes(buffer[end + 4 : size]), size) if len(buffer) >= size else None
    if found is None:
        waits = request.header("expect") is not None and len(buffer) == end + 4
        return "expects" if waits else None
    request.body, size = found
    del buffer[:size]
    return request


def _take_chunks(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    body = b""
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(bytes(buffer[at:line]).split(b";")[0], 16)
        at = line + 2 + size + 2
        if len(buffer) < at:
            return None
        body += bytes(buffer[line + 2 : at - 2])
        if size == 0:
            return body, at
