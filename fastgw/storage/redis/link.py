"""One pipelined connection to the Redis server that keeps the limits.

Commands go out as they come and are answered in order. Finding the server is part of it: Sentinels
are asked for the master, a cluster's node that does not serve our slot says who does.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from fastgw.storage.redis.address import Address, Place
from fastgw.storage.redis.scripts import HELLO, TICK

Done = Callable[[Any], None]

_CONNECT_S = 1.0
_MOST_MOVES = 5
_LARGEST = 1 << 20


class LinkLost(Exception):
    """The connection has ended; whether what was under way was done is unknown."""


class Refused(Exception):
    """Redis answered with an error; the command did nothing."""


class Link(asyncio.Protocol):
    """A connection. `lost` is called once when it has ended, after everybody who waits was told."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[Done] = deque()
        self._transport: asyncio.Transport | None = None
        self.asking = False
        """Whether our slot is on its way to this node: each command must say that it knows."""
        self.run = ""
        """Identifies the run of the server."""
        self.lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the new connection."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Take answers."""
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                waiting.popleft()(reply)
        except (hiredis.ProtocolError, IndexError):
            self.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Take the end of it."""
        self._transport = None
        waiting, self._waiting = self._waiting, deque()
        lost = LinkLost("the connection to Redis was lost")
        for done in waiting:
            done(lost)
        if self.lost is not None:
            self.lost()
            self.lost = None

    def is_open(self) -> bool:
        """Tell whether commands can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """End it now; who waits hears that it was lost."""
        if self._transport is not None:
            self._transport.abort()

    def call(self, command: bytes, done: Done) -> None:
        """Send a packed command; `done` gets the answer: a value, an error as one, LinkLost."""
        if self._transport is None:
            done(LinkLost("the connection to Redis was lost"))
            return
        if self.asking:
            self._waiting.append(_ignore)
            command = _ASKING + command
        self._waiting.append(done)
        if not self._transport.is_closing():  # else its end is told soon
            self._transport.write(command)

    async def ask(self, *words: Any) -> Any:
        """Send a command and wait; raises LinkLost or Refused."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(reply: Any) -> None:
            if not answer.done():
                answer.set_result(reply)

        self.call(hiredis.pack_command(words), done)
        reply = await answer
        if isinstance(reply, LinkLost):
            raise reply
        if isinstance(reply, Exception):
            raise Refused(str(reply))
        return reply


_ASKING = hiredis.pack_command(("ASKING",))


def _ignore(_reply: Any) -> None:
    pass


async def find_link(address: Address) -> Link:
    """Connect to the server that keeps our keys, with the scripts loaded.

    Raises OSError, LinkLost or Refused.
    """
    async with asyncio.timeout(_CONNECT_S):
        if address.kind == "sentinel":
            return await _prepare(await _connect(address, await _master(address)))
        fault: Exception | None = None
        for place in address.places:
            try:
                link = await _connect(address, place)
                return await _follow(address, link)
            except (OSError, LinkLost, Refused) as exc:
                fault = exc
        raise fault or OSError("no server is named")


async def _follow(address: Address, link: Link) -> Link:
    """Go where the cluster says that our slot is."""
    for _ in range(_MOST_MOVES):
        try:
            await link.ask("HGET", SLOT_KEY, "epoch")
        except Refused as exc:
            kind, _, rest = str(exc).partition(" ")
            if kind not in {"MOVED", "ASK"}:
                link.close()
                raise
            host, _, port = rest.split(" ")[1].rpartition(":")
            link.close()
            link = await _connect(address, (host, int(port)))
            link.asking = kind == "ASK"
            continue
        return await _prepare(link)
    link.close()
    raise Refused("the cluster sends us round in circles")


SLOT_KEY = "{fgw}:state"
"""All keys share its hash tag, so one node of a cluster has them all."""


async def _connect(
    address: Address, place: Place, *, user: str | None = None, password: str | None = None
) -> Link:
    loop = asyncio.get_running_loop()
    host, port = place
    if port == 0:
        _, link = await loop.create_unix_connection(Link, host)
    else:
        context = address.tls_context()
        _, link = await loop.create_connection(Link, host, port, ssl=context)
    user = address.user if user is None else user
    password = address.password if password is None else password
    try:
        if password:
            await link.ask("AUTH", *((user, password) if user else (password,)))
        if address.db and address.kind == "single":
            await link.ask("SELECT", address.db)
    except BaseException:
        link.close()
        raise
    return link


async def _master(address: Address) -> Place:
    """Ask the Sentinels, one after the other."""
    fault: Exception = OSError("no Sentinel is named")
    for place in address.places:
        try:
            link = await _connect(address, place, user="", password=address.sentinel_password)
            try:
                found: Sequence[bytes] | None = await link.ask(
                    "SENTINEL", "get-master-addr-by-name", address.service
                )
            finally:
                link.close()
        except (OSError, LinkLost, Refused) as exc:
            fault = exc
            continue
        if found:
            return found[0].decode(), int(found[1])
        fault = Refused(f"the Sentinels know no service {address.service!r}")
    raise fault


async def _prepare(link: Link) -> Link:
    """Load the scripts; make sure that it is a master; learn which run of the server it is."""
    try:
        role = await link.ask("ROLE")
        if role[0] != b"master":
            raise Refused("the server is a replica")  # noqa: TRY301 - it is let go of below
        for script in (TICK, HELLO):
            await link.ask("SCRIPT", "LOAD", script.text)
        info: bytes = await link.ask("INFO", "server")
        for line in info.split(b"\r\n"):
            if line.startswith(b"run_id:"):
                link.run = line[7:].decode()
    except BaseException:
        link.close()
        raise
    return link
