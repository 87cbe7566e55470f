"""Opens the listening sockets, before there are workers: each worker gets sockets of its own."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from fastgw.config.listen import Address
from fastgw.errors import CannotStart

BACKLOG = 4096
_PROBE_S = 1.0
_MOST_UNSENT = 256 * 1024
"""Bytes the kernel takes for a client beyond what the client has room for: what a slow reader does
not read is to wait at the provider, not in buffers of ours that grow to megabytes."""


def bind(addresses: Sequence[Address], workers: int) -> list[list[socket.socket]]:
    """Give each worker its listening sockets, one an address; CannotStart names the one at fault.

    SO_REUSEPORT gives each worker a queue of its own; port 0 is chosen once. Unix sockets and
    inherited descriptors have one queue, which all workers share.
    """
    shares: list[list[socket.socket]] = []
    for address in addresses:
        try:
            shares.append(_open(address, workers))
        except OSError as exc:
            for sock in (sock for share in shares for sock in share):
                sock.close()
            reason = exc.strerror or exc
            raise CannotStart(f"cannot listen on {address}: {reason}") from exc
    return [list(sockets) for sockets in zip(*shares, strict=True)]


def _open(address: Address, workers: int) -> list[socket.socket]:
    if address.kind == "tcp":
        return _open_tcp(address.host, address.port, workers)
    shared = _open_unix(address.path) if address.kind == "unix" else _inherit(address.fd)
    return [shared] * workers


def _open_tcp(host: str, port: int, workers: int) -> list[socket.socket]:
    # Without SO_REUSEPORT first: it fails if somebody else listens there, instead of sharing.
    with _bound(host, port, shared=False) as probe:
        port = probe.getsockname()[1]
    sockets: list[socket.socket] = []
    try:
        for _ in range(workers):
            sockets.append(_bound(host, port, shared=True))
            sockets[-1].listen(BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MOST_UNSENT
        )  # inherited by accept
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _open_unix(path: str) -> socket.socket:
    if Path(path).is_socket():
        if _is_served(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        Path(path).unlink()  # left by a process that ended
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except TimeoutError:  # its queue is full
            return True
    return True


def _inherit(descriptor: int) -> socket.socket:
    sock = socket.socket(fileno=descriptor)
    try:
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
