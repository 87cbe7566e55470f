"""Where a client is: the rule of a key's `allowed_ips`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Networks = tuple[str, ...]

_FORWARDED_FOR = "x-forwarded-for"


@lru_cache(maxsize=1_000)
def _networks(texts: Networks) -> tuple[IPv4Network | IPv6Network, ...]:
    found = []
    for text in texts:
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:  # written past our checks: it allows nobody
            continue
    return tuple(found)


@lru_cache(maxsize=10_000)
def is_within(address: str, networks: Networks) -> bool:
    """Tell whether an address is in one of the networks; what is no address is in none."""
    try:
        at = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if at.version == 6 and at.ipv4_mapped is not None:  # IPv4 on an IPv6 socket
        at = at.ipv4_mapped
    return any(at in network for network in _networks(networks))


def client_of(peer: str, headers: Mapping[str, str], trusted: Networks) -> str:
    """Give the client's address: the peer's, or what trusted proxies say of who stands before them.

    Each proxy appends whom it saw, so the last address that is no trusted proxy is the client's;
    what stands before it anybody may have written.
    """
    if not trusted:
        return peer
    told = ",".join(value for name, value in headers.items() if name.lower() == _FORWARDED_FOR)
    hops = [hop.strip() for hop in told.split(",") if hop.strip()]
    while hops and is_within(peer, trusted):
        peer = hops.pop()
    return peer
