"""All connections to all upstreams of one loop: `Pool.send` is how a request leaves the house.

Touches: the loop. Composes deadlines, name resolution, TLS trust and one `Origin` for each target.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from fastgw.domain import Timeouts
from fastgw.upstream.connection import Attempt, Sink
from fastgw.upstream.deadlines import Deadlines
from fastgw.upstream.dial import Address, Lookup, Resolver, Trust, connect, name_host
from fastgw.upstream.origin import Bounds, Origin

TLS_DIALS = 32
"""Handshakes at once to one target: each costs about a millisecond of the loop."""


class Target(msgspec.Struct, frozen=True, cache_hash=True):
    """Where connections lead; equal targets share them."""

    scheme: str
    """http or https"""
    host: str
    port: int
    ca_file: str | None = None
    """Extra trust anchor (PEM) beside the system's."""


class Pool:
    """Keep-alive connections to upstreams; belongs to one loop and is used on it only.

    `bounds` hold for each target. `clock` gives seconds and must not go back; `lookup` resolves
    (host, port) to getaddrinfo entries.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        bounds: Bounds | None = None,
        clock: Callable[[], float] = time.monotonic,
        lookup: Lookup | None = None,
    ) -> None:
        self._loop = loop
        self._bounds = bounds or Bounds()
        self._resolver = Resolver(lookup or self._look_up, clock)
        self._trust = Trust()
        self._origins: dict[Target, Origin] = {}
        self.deadlines = Deadlines(loop, clock)

    def send(
        self,
        target: Target,
        head: bytes,
        parts: Sequence[bytes],
        sink: Sink,
        timeouts: Timeouts,
        replayable: bool = False,
    ) -> Attempt:
        """Send one request, `head` complete with its empty line and `parts` its body.

        Never blocks and never calls the sink before it returns. The bytes are kept until the
        answer begins. `replayable` says that sending it twice does no harm.
        """
        origin = self._origins.get(target)
        if origin is None:
            origin = self.origin(target)
        return origin.send(head, parts, sink, timeouts, replayable)

    def origin(self, target: Target) -> Origin:
        """Give the connections to one target; `Origin.send` is `send` for who keeps it."""
        origin = self._origins.get(target)
        if origin is None:
            context: Callable[[], Awaitable[ssl.SSLContext]] | None = None
            bounds = self._bounds
            if target.scheme == "https":
                context = functools.partial(self._trust.context_soon, target.ca_file)
                bounds = msgspec.structs.replace(bounds, dials=min(bounds.dials, TLS_DIALS))
            origin = self._origins[target] = Origin(
                self._loop,
                self.deadlines,
                name_host(target.host),
                functools.partial(
                    connect, self._loop, self._resolver, context, target.host, target.port
                ),
                bounds,
            )
        return origin

    def describe(self) -> dict[str, object]:
        """Give the state of the connections to each target."""
        return {
            "origins": {
                f"{target.scheme}://{target.host}:{target.port}": repr(origin)
                for target, origin in self._origins.items()
            }
        }

    async def close(self) -> None:
        """Drop all connections; live attempts fail, waiting ones too. Nothing is left behind."""
        for origin in self._origins.values():
            origin.close()
        for origin in self._origins.values():
            await origin.gone
        self.deadlines.close()

    async def _look_up(self, host: str, port: int) -> Sequence[Address]:
        return await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
