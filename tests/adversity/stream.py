"""Provider streams as bytes: what a scripted provider sends, and what a client must make of it."""

from __future__ import annotations

import json

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}


def event(content: str | None, **more: object) -> bytes:
    """Give one event of a chat stream."""
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}}]
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: %b\n\n" % json.dumps({**body, "choices": choices, **more}).encode()


def events(words: int, *, size: int = 0) -> list[bytes]:
    """Give the events of an answer of so many words, its usage and its end."""
    text = [event(f"w{number} ".ljust(size, "x")) for number in range(words)]
    return [*text, event(None, usage=USAGE), DONE]


def chunk(data: bytes) -> bytes:
    """Give bytes as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def framed(parts: list[bytes]) -> bytes:
    """Give a complete chunked body, one chunk a part."""
    return b"".join(map(chunk, parts)) + b"0\r\n\r\n"


def text_of(body: bytes) -> str:
    """Give the text a client has when it reads these events; an event cut in its middle fails."""
    told = []
    for part in body.split(b"\n\n"):
        data = part.removeprefix(b"data: ")
        if part in {b"", b"data: [DONE]"}:
            continue
        choices = json.loads(data).get("choices", ())
        told += [choice["delta"].get("content", "") for choice in choices]
    return "".join(told)


def has_error(body: bytes) -> bool:
    """Tell whether the last event is an error and nothing follows it."""
    last = body.rstrip(b"\n").rsplit(b"\n\n", 1)[-1].removeprefix(b"data: ")
    try:
        return "error" in json.loads(last)
    except ValueError:
        return False
