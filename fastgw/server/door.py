"""How many client connections a worker takes, in all and from one address. Touches nothing.

What is over a cap, or would take the last fifth of the file descriptors, is closed before a byte
of it is read: descriptors are also what provider connections and the store are made of.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from typing import Any

_RESERVE = 0.2

_AT_ONCE = struct.pack("ii", 1, 0)

_ANY = ""
"""Stands for clients without an address: those of unix sockets are bounded together only."""


class Door:
    """Counts who is in. `enter` each new connection; `leave` once for each that got in."""

    def __init__(self, most: int, most_per_address: int, descriptors: int | None = None) -> None:
        self.most = most
        self.most_per_address = most_per_address
        if descriptors is None:
            descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._first_reserved = int(descriptors * (1 - _RESERVE))
        self._from: dict[str, int] = {}
        self.inside = 0
        """How many there are."""
        self.refused = 0
        """How many were sent away."""

    def enter(self, address: str, descriptor: int) -> bool:
        """Tell whether a connection may stay.

        The kernel gives the lowest free number, so `descriptor` says how many are in use.
        """
        beside = self._from.get(address, 0)
        if (
            self.inside >= self.most
            or descriptor >= self._first_reserved
            or (beside >= self.most_per_address and address != _ANY)
        ):
            self.refused += 1
            return False
        self.inside += 1
        self._from[address] = beside + 1
        return True

    def leave(self, address: str) -> None:
        """Give the place back."""
        self.inside -= 1
        beside = self._from[address] - 1
        if beside:
            self._from[address] = beside
        else:
            del self._from[address]


def address_of(transport: asyncio.BaseTransport) -> str:
    """Give the address that a connection's caps count by."""
    peer: Any = transport.get_extra_info("peername")
    return peer[0] if isinstance(peer, tuple) else _ANY


def descriptor_of(transport: asyncio.BaseTransport) -> int:
    """Give the number of a connection's socket; 0 when it is gone already."""
    sock = transport.get_extra_info("socket")
    return 0 if sock is None else max(0, sock.fileno())


def reset(transport: asyncio.Transport) -> None:
    """Drop a connection and what waits in it: the kernel would offer that for minutes."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    transport.abort()
