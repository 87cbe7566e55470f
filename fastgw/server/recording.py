"""An answer that many clients may hear: written once, followed by each at its own pace.

It takes what `Reply` takes, so the standard lane writes it like any other answer. While it is small
enough to be kept nobody is waited for; beyond that it is dropped piece by piece once all followers
have it, and a follower that stays too far behind makes the provider wait.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from fastgw.errors import AnswerNotKept, GatewayError, InternalError
from fastgw.server.reply import Reply

REPLAYED = b"idempotent-replayed: true\r\n"
_FRAMING = frozenset({"content-length", "date"})
_OURS = (b"x-ratelimit-", b"x-request-id:", b"request-id:")
"""Header lines that are about one request only."""


class Recording:
    """One answer. `ended` says that all of it was written, `told` that followers may hear so."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._pieces: list[bytes] = []
        self._dropped = 0
        """Pieces that are gone, before the first of those that are there."""
        self._size = 0
        self._places: dict[asyncio.Event, int] = {}
        """Followers, and how many pieces each has."""
        self._room = asyncio.Event()
        self.status = 0
        self.fields = b""
        self.streamed = False
        self.started = False
        self.ended = False
        self.broken = False
        self.told = False
        self.large = False
        """Whether it is more than can be kept."""
        self.error: GatewayError | None = None
        """Why there is no answer."""
        self.replayed = False
        """Whether it is of an earlier request."""

    # -- what the lane does with a reply ---------------------------------------------------------

    def whole(self, status: int, fields: bytes, body: bytes) -> None:
        """Take a complete answer."""
        self._start(status, fields)
        self.large = len(body) > self._most_bytes
        self._pieces = [body]
        self.ended = True

    def begin(self, status: int, fields: bytes) -> None:
        """Take the head of an answer of unknown length."""
        self._start(status, fields)
        self.streamed = True

    def write(self, data: bytes) -> None:
        """Take a piece."""
        self._pieces.append(data)
        self._size += len(data)
        self.large = self.large or self._size > self._most_bytes
        self._drop()
        self._notify()

    def end(self) -> None:
        """Take the end of an answer that was begun."""
        self.ended = True

    def break_off(self) -> None:
        """Take that it stays incomplete."""
        self.ended = self.broken = True

    @property
    def blocked(self) -> bool:
        """Whether a follower is so far behind that the provider has to wait."""
        return self.large and sum(map(len, self._pieces)) > self._most_bytes

    async def drained(self, _request: web.BaseRequest) -> None:
        """Wait until all followers have caught up."""
        while self.blocked:
            self._room.clear()
            await self._room.wait()

    # -- the ends --------------------------------------------------------------------------------

    def take(self, answered: web.Response) -> None:
        """Take an error as the lane renders it."""
        fields = {name.lower(): value for name, value in answered.headers.items()}
        lines = [f"{name}: {value}\r\n" for name, value in fields.items() if name not in _FRAMING]
        body = answered.body
        assert isinstance(body, bytes)
        self.whole(answered.status, "".join(lines).encode("latin-1"), body)

    def replay(self, status: int, fields: bytes, body: bytes, *, streamed: bool) -> None:
        """Take an answer that was kept."""
        self._start(status, fields)
        self.replayed, self.streamed, self._pieces = True, streamed, [body]
        self.ended = True
        self.tell()

    def fail(self, error: GatewayError) -> None:
        """Say that there will be no answer."""
        self.error = error
        self.tell()

    def tell(self) -> None:
        """Let followers hear of the end."""
        if not self.ended and self.error is None:
            self.error = InternalError("something went wrong on our side")
        self.told = True
        self._notify()

    def body(self) -> bytes:
        """Give the whole body, of an answer that is not too large."""
        return b"".join(self._pieces)

    # -- following -------------------------------------------------------------------------------

    async def follow(
        self, reply: Reply, request: web.BaseRequest, label_lines: bytes, *, first: bool
    ) -> Reply:
        """Write it to one client; raises why there is none."""
        stirred = asyncio.Event()
        self._places[stirred] = 0
        try:
            if self._dropped:
                raise AnswerNotKept("the answer under this Idempotency-Key is too large to be kept")
            while not (self.told or self.streamed):
                stirred.clear()
                await stirred.wait()
            if not self.started:
                assert self.error is not None
                raise self.error
            fields = self.fields
            if not first or self.replayed:
                fields = b"".join((kept_fields(fields), label_lines, REPLAYED))
            if not self.streamed:
                reply.whole(self.status, fields, self.body())
                return reply
            reply.begin(self.status, fields)
            await self._relay(reply, request, stirred)
            return reply
        finally:
            del self._places[stirred]
            self._drop()

    async def _relay(self, reply: Reply, request: Any, stirred: asyncio.Event) -> None:
        while True:
            at = self._places[stirred] - self._dropped
            if at < len(self._pieces):
                reply.write(self._pieces[at])
                self._places[stirred] += 1
                self._drop()
                if reply.blocked:
                    await reply.drained(request)
            elif self.told:
                break
            else:
                stirred.clear()
                await stirred.wait()
        if self.broken or self.error is not None:
            reply.break_off()
        else:
            reply.end()

    # -- inside ----------------------------------------------------------------------------------

    def _start(self, status: int, fields: bytes) -> None:
        self.started = True
        self.status = status
        self.fields = fields

    def _drop(self) -> None:
        """Let go of what all followers have, if it cannot be kept anyway."""
        if not self.large or not self.streamed:
            return
        end = self._dropped + len(self._pieces)
        spare = min([end, *self._places.values()]) - self._dropped
        del self._pieces[:spare]
        self._dropped += spare
        if not self.blocked:
            self._room.set()

    def _notify(self) -> None:
        for stirred in self._places:
            stirred.set()


def kept_fields(fields: bytes) -> bytes:
    """Give header lines without those that are about one request only."""
    return b"".join(line for line in fields.splitlines(keepends=True) if not line.startswith(_OURS))
