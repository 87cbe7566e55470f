"""One request and its answer, counted as it goes: what becomes one line of the log. No I/O."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from aiohttp import web

from fastgw.mock.event import Ended, Event
from fastgw.mock.log import (
    CREDENTIALS,
    Log,
    bare_credential,
    credential_mark,
    masked_headers,
    shown_body,
)


class Exchange:
    """The books of one exchange.

    *Delivered* is what was written to the connection while it was open, *billed* what a provider
    would charge: the two differ when an answer goes on after its client left. A client that leaves
    before the answer was begun is billed nothing.
    """

    def __init__(self, log: Log, number: int, request: web.BaseRequest) -> None:
        self.id = f"x{number}"
        """Also the answer's `x-request-id`; all else in an answer is the same another time."""
        self.transport: asyncio.Transport | None = request.transport
        self.body = b""
        self.question: dict[str, Any] | None = None
        self.status = 0
        self.answer_id: str | None = None
        self.kept = False
        """Goes on without its client; a play will end it."""
        self._log = log
        self._began = time.perf_counter()
        self._prompt = 0
        self._billed = 0
        self._delivered = 0
        self._chunks = 0
        self._events = 0
        self._bytes = 0
        self._hash = hashlib.sha256()
        self._reported: Any = None
        self._gone: float | None = None
        self._over = False
        peer = request.transport and request.transport.get_extra_info("peername")
        self._line: dict[str, Any] = {
            "event": "begin",
            "id": self.id,
            "at": time.time_ns() // 1_000_000,
            "peer": None if not peer else f"{peer[0]}:{peer[1]}",
            "method": request.method,
            "path": request.raw_path,
            "model": None,
            "stream": False,
            "credential": _mark_of(request),
            "headers": masked_headers(request.raw_headers),
            "body_bytes": 0,
            "body_sha256": None,
        }

    def begin(self, body: bytes) -> None:
        """Take the request's body, whatever it is, and log that the exchange has begun."""
        self.body = body
        try:
            question = orjson.loads(body) if body else None
        except orjson.JSONDecodeError:
            question = None
        line = self._line
        if isinstance(question, dict):
            self.question = question
            model = question.get("model")
            line["model"] = model if isinstance(model, str) else None
            line["stream"] = question.get("stream") is True
        line["body_bytes"] = len(body)
        line["body_sha256"] = hashlib.sha256(body).hexdigest()
        self._log.begin(dict(line))

    def prompt(self, tokens: int) -> None:
        """Count the prompt: the answer is being made."""
        self._prompt = tokens

    def bill(self, events: Iterable[Event]) -> None:
        """Count what was generated."""
        for event in events:
            self._billed += event.tokens

    def deliver(self, events: Sequence[Event]) -> None:
        """Count what was written to the connection."""
        written = b"".join([event.data for event in events])
        self._bytes += len(written)
        self._hash.update(written)
        for _, tokens, _, usage, then in events:
            if then is None:
                self._events += 1
                if tokens:
                    self._delivered += tokens
                    self._chunks += 1
                if usage is not None:
                    self._reported = usage

    def leave(self) -> None:
        """Note the moment the client left."""
        if self._gone is None:
            self._gone = time.perf_counter()

    def end(self, ended: Ended) -> None:
        """Log the exchange, once; later calls change nothing."""
        if self._over:
            return
        if self._gone is not None:
            ended = Ended.CLIENT_GONE
        self._over = True
        self._log.end(
            self._line
            | {
                "event": "end",
                "body": shown_body(self.body),
                "status": self.status,
                "answer_id": self.answer_id,
                "chunks": self._chunks,
                "events": self._events,
                "bytes": self._bytes,
                "answer_sha256": self._hash.hexdigest(),
                "sent": {"prompt": self._prompt, "completion": self._delivered},
                "billed": {"prompt": self._prompt, "completion": self._billed},
                "reported": self._reported,
                "ended": ended.value,
                "gone_ms": None if self._gone is None else self._since(self._gone),
                "ms": self._since(time.perf_counter()),
            }
        )

    def _since(self, moment: float) -> float:
        return round((moment - self._began) * 1000, 3)


def _mark_of(request: web.BaseRequest) -> str | None:
    for name in CREDENTIALS:
        value = request.headers.get(name)
        if value is not None:
            return credential_mark(bare_credential(value))
    return None
