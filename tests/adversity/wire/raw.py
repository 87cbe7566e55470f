"""A client that sends bytes as they are and tells what came back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field


@dataclass
class Response:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, object]:
        """Give the error object; fails unless it is JSON in OpenAI's shape with an id."""
        assert self.headers["content-type"].startswith("application/json"), self
        assert self.headers["x-request-id"], self
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "Traceback" not in error["message"]
        return error


@dataclass
class Heard:
    """What one connection brought."""

    responses: list[Response] = field(default_factory=list)
    rest: bytes = b""
    """Bytes that are no whole answer."""
    closed: bool = False
    seconds: float = 0.0

    @property
    def statuses(self) -> list[int]:
        """Give the status of each answer."""
        return [response.status for response in self.responses]


async def talk(
    port: int,
    pieces: list[bytes],
    *,
    patience: float = 10.0,
    head: bool = False,
    eof: bool = False,
    enough: int = 1000,
) -> Heard:
    """Send the pieces, then listen until the server closes, `enough` answers came or patience ends.

    `head` says that answers have no body.
    """
    began = time.monotonic()
    heard = Heard()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    buffer = b""
    try:
        with contextlib.suppress(ConnectionError):  # it may have heard enough
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if eof:
                writer.write_eof()
        async with asyncio.timeout(patience):
            while len(heard.responses) < enough:
                data = await reader.read(65536)
                buffer += data
                while (found := take(buffer, head=head)) is not None:
                    response, buffer = found
                    if response.status >= 200:
                        heard.responses.append(response)
                if not data:
                    heard.closed = True
                    break
    except TimeoutError:
        pass
    except ConnectionError:
        heard.closed = True
    finally:
        writer.close()
    heard.rest = buffer
    heard.seconds = time.monotonic() - began
    return heard


def take(buffer: bytes, *, head: bool = False) -> tuple[Response, bytes] | None:
    """Take the first whole answer off a buffer."""
    top, gap, rest = buffer.partition(b"\r\n\r\n")
    if not gap:
        return None
    line, *fields = top.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    status = int(line.split(" ")[1])
    if head or status < 200 or status == 204:
        return Response(status, headers, b""), rest
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            size, gap, rest = rest.partition(b"\r\n")
            if not gap or len(rest) < int(size, 16) + 2:
                return None
            piece, rest = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
            if not piece:
                return Response(status, headers, body), rest
            body += piece
    length = int(headers["content-length"])
    if len(rest) < length:
        return None
    return Response(status, headers, rest[:length]), rest[length:]
