"""The peers that stand beside fastgw, in the order in which they take turns; the first is the
yardstick. A peer is one record: add a module with one and list it here."""

from __future__ import annotations

from bench.peers import aiohttp_plain, fastgw, haproxy, indexed, nginx
from bench.peers.record import Peer

PEERS: tuple[Peer, ...] = (
    nginx.PEER,
    haproxy.PEER,
    *fastgw.PEERS,
    aiohttp_plain.PEER,
    *indexed.PEERS,
)
