"""A bare client that sees what a polite one hides: chunk framing, resets, silence."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass
class Seen:
    """All a connection gave: head, body without framing, and how it ended.

    `end`: whole (framing complete), eof, reset, or silent.
    """

    head: bytes
    body: bytes
    end: str

    @property
    def status(self) -> int:
        return int(self.head.split(b" ")[1])

    @property
    def events(self) -> list[bytes]:
        """Payloads of whole events."""
        whole = self.body.split(b"\n\n")[:-1]
        return [event.removeprefix(b"data: ") for event in whole]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """Events that are JSON."""
        return [json.loads(event) for event in self.events if event != b"[DONE]"]

    @property
    def text(self) -> str:
        return "".join(
            choice["delta"].get("content") or ""
            for chunk in self.chunks
            for choice in chunk.get("choices", ())
        )


async def send(url: str, body: dict[str, Any], path: str = "/v1/chat/completions"):
    """Open a connection, send one request on it, give its streams."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    return reader, writer


PATIENCE = 20.0


async def talk(
    url: str, body: dict[str, Any], silence: float = PATIENCE, first: float = PATIENCE
) -> Seen:
    """Send a request and read until the answer is whole, the connection ends, or it is silent.

    `silence` and `first` are the seconds without a byte, and before the first one, that count as
    silent.
    """
    reader, writer = await send(url, body)
    raw, end = b"", "eof"
    try:
        while True:
            data = await asyncio.wait_for(reader.read(1 << 16), silence if raw else first)
            if not data:
                break
            raw += data
            if is_whole(raw):
                end = "whole"
                break
    except ConnectionError:
        end = "reset"
    except TimeoutError:
        end = "silent"
    writer.transport.abort()
    head, _, rest = raw.partition(b"\r\n\r\n")
    return Seen(head, dechunk(rest) if b"chunked" in head else rest, end)


def is_whole(raw: bytes) -> bool:
    head, _, rest = raw.partition(b"\r\n\r\n")
    if b"chunked" in head:
        return rest.endswith(b"\r\n0\r\n\r\n") or rest == b"0\r\n\r\n"
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(rest) == int(line.split(b":")[1])
    return False


def dechunk(rest: bytes) -> bytes:
    """Undo chunk framing as far as it goes."""
    body = b""
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size, 16)
        body += rest[:count]
        rest = rest[count + 2 :]
    return body
