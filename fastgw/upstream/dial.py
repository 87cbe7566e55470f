"""Make one verified connection: names, addresses, sockets, TLS. The only place that connects.

Foreign errors leave here as ours, by one table. Their messages are safe to show: they name the
provider's host, never an address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from fastgw.errors import UpstreamConnectError
from fastgw.upstream.connection import Connection

Address = tuple[int, int, int, str, tuple[Any, ...]]
"""One entry of getaddrinfo: family, type, protocol, canonical name, socket address."""
Lookup = Callable[[str, int], Awaitable[Sequence[Address]]]

HAPPY_EYEBALLS_S = 0.25
"""Head start of one address before the next is tried beside it (RFC 8305 section 5)."""
USER_TIMEOUT_MS = 30_000
"""Unacknowledged bytes older than this end a connection (tcp(7), TCP_USER_TIMEOUT)."""
SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)

FAULTS: tuple[tuple[type[Exception], str], ...] = (
    (socket.gaierror, "{host} cannot be resolved"),
    (UnicodeError, "{host} cannot be resolved"),
    (ssl.SSLCertVerificationError, "the TLS certificate of {host} is not trusted: {reason}"),
    (ssl.SSLError, "the TLS handshake with {host} failed"),
    (ConnectionRefusedError, "{host} refused the connection"),
    (ConnectionError, "{host} closed the connection while it was made"),
    (TimeoutError, "{host} did not answer"),
    (OSError, "{host} cannot be reached"),
)
"""What a foreign error is called here; the first row that fits."""


def name_host(host: str) -> str:
    """Give a name for messages: the host, or no address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return "the provider"


def fault_of(error: Exception, label: str) -> UpstreamConnectError:
    """Give our error for a foreign one of `FAULTS`; nothing was sent yet."""
    text = next(text for kind, text in FAULTS if isinstance(error, kind))
    reason = getattr(error, "verify_message", None) or "verification failed"
    return UpstreamConnectError(text.format(host=label, reason=reason))


class Resolver:
    """Addresses of hosts: a short memory, and one look-up at a time for each host.

    Only successes are remembered. `forget` is for addresses that did not connect.
    """

    def __init__(
        self,
        lookup: Lookup,
        clock: Callable[[], float],
        *,
        ttl_s: float = 30.0,
        size: int = 256,
    ) -> None:
        self._lookup = lookup
        self._clock = clock
        self._ttl_s = ttl_s
        self._size = size
        self._known: dict[tuple[str, int], tuple[float, Sequence[Address]]] = {}
        self._asked: dict[tuple[str, int], asyncio.Task[Sequence[Address]]] = {}

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        """Give the addresses of a host, at least one; raises what the look-up raises."""
        key = (host, port)
        known = self._known.get(key)
        if known is not None and known[0] > self._clock():
            return known[1]
        task = self._asked.get(key)
        if task is None:
            # Held in `_asked` and awaited by all who ask: its error reaches each of them.
            task = self._asked[key] = asyncio.ensure_future(self._ask(key))  # noqa: TID251
        # who is cancelled must not take the look-up from the others
        return await asyncio.shield(task)

    def forget(self, host: str, port: int) -> None:
        """Look a host up again next time."""
        self._known.pop((host, port), None)

    async def _ask(self, key: tuple[str, int]) -> Sequence[Address]:
        try:
            addresses = await self._lookup(*key)
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "no address")
            self._known.pop(key, None)
            while len(self._known) >= self._size:
                del self._known[next(iter(self._known))]
            self._known[key] = (self._clock() + self._ttl_s, addresses)
            return addresses
        finally:
            del self._asked[key]


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """Put addresses of the families in turn, the first family first (RFC 8305 section 4)."""
    first = [one for one in addresses if one[0] == addresses[0][0]]
    other = [one for one in addresses if one[0] != addresses[0][0]]
    return [one for one in chain.from_iterable(zip_longest(first, other)) if one is not None]


async def open_socket(
    loop: asyncio.AbstractEventLoop, addresses: Sequence[Address]
) -> socket.socket:
    """Connect to the first address that answers, each with a head start over the next.

    Raises the first error when none answers.
    """
    waiting = interleave(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[BaseException] = []
    try:
        while waiting or running:
            if waiting:
                running.add(loop.create_task(_open_one(loop, waiting.pop(0))))
            done, running = await asyncio.wait(
                running,
                timeout=HAPPY_EYEBALLS_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            won = [task.result() for task in done if task.exception() is None]
            errors += [error for task in done if (error := task.exception()) is not None]
            for late in won[1:]:
                late.close()
            if won:
                return won[0]
        raise errors[0]
    finally:
        for task in running:
            task.add_done_callback(_close_late)
            task.cancel()
        # the errors' tracebacks hold this frame
        errors.clear()


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    """Close a socket that connected although nobody wants it any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _open_one(loop: asyncio.AbstractEventLoop, address: Address) -> socket.socket:
    family, kind, protocol, _, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        for option in SOCKET_OPTIONS:
            sock.setsockopt(*option)
        await loop.sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


class Trust:
    """TLS contexts by trust anchor; verification is always on, TLS is 1.2 or later."""

    def __init__(self) -> None:
        self._contexts: dict[str | None, tuple[int, ssl.SSLContext]] = {}
        self._reading: dict[tuple[str | None, int], asyncio.Task[ssl.SSLContext]] = {}

    def context(self, ca_file: str | None) -> ssl.SSLContext:
        """Give the context for the system's anchors and those of `ca_file`, if any.

        A changed file is read again. Raises OSError (`ssl.SSLError` too) when it cannot be used.
        """
        stamp = _stamp(ca_file)
        return self._known(ca_file, stamp) or self._keep(ca_file, stamp, _read_anchors(ca_file))

    async def context_soon(self, ca_file: str | None) -> ssl.SSLContext:
        """Give what `context` gives, without holding the loop: a thread reads, once for all.

        The system's anchors are some hundred certificates, which take OpenSSL about 70 ms.
        """
        stamp = _stamp(ca_file)
        known = self._known(ca_file, stamp)
        if known is not None:
            return known
        task = self._reading.get((ca_file, stamp))
        if task is None:
            task = asyncio.get_running_loop().create_task(self._read(ca_file, stamp))
            self._reading[ca_file, stamp] = task
            task.add_done_callback(_forgive)
        # who is cancelled must not take the reading from the others
        return await asyncio.shield(task)

    async def _read(self, ca_file: str | None, stamp: int) -> ssl.SSLContext:
        try:
            return self._keep(ca_file, stamp, await asyncio.to_thread(_read_anchors, ca_file))
        finally:
            del self._reading[ca_file, stamp]

    def _known(self, ca_file: str | None, stamp: int) -> ssl.SSLContext | None:
        known = self._contexts.get(ca_file)
        return known[1] if known is not None and known[0] == stamp else None

    def _keep(self, ca_file: str | None, stamp: int, context: ssl.SSLContext) -> ssl.SSLContext:
        self._contexts[ca_file] = (stamp, context)
        return context


def _stamp(ca_file: str | None) -> int:
    return Path(ca_file).stat().st_mtime_ns if ca_file else 0


def _read_anchors(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


def _forgive(task: asyncio.Task[ssl.SSLContext]) -> None:
    """Take note of an error that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


async def connect(
    loop: asyncio.AbstractEventLoop,
    resolver: Resolver,
    context: Callable[[], Awaitable[ssl.SSLContext]] | None,
    host: str,
    port: int,
    factory: Callable[[], Connection],
) -> Connection:
    """Make one connection, verified when there is a TLS context; raises UpstreamConnectError."""
    label = name_host(host)
    try:
        tls = await context() if context else None
    except OSError as error:
        raise UpstreamConnectError(f"the CA file for {label} cannot be read") from error
    connection = factory()
    try:
        addresses = await resolver.resolve(host, port)
        sock = await open_socket(loop, addresses)
        try:
            await loop.create_connection(
                lambda: connection,  # type: ignore[type-var]
                sock=sock,
                ssl=tls,
                server_hostname=host if tls else None,
            )
        finally:
            if not isinstance(loop, asyncio.BaseEventLoop):
                # uvloop took the descriptor and closes it. When that happens while the connection
                # is made, this object is left with the number, and would close whoever has it next
                sock.detach()
    except tuple(kind for kind, _ in FAULTS) as error:
        resolver.forget(host, port)
        raise fault_of(error, label) from error
    except asyncio.CancelledError:
        # a handshake that was complete a moment ago would be shut down politely, for seconds
        connection.close()
        raise
    return connection
