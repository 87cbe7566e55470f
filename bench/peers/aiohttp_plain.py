"""The plain aiohttp proxy of `bench.peers.aiohttp_proxy` as a peer."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from bench.peers.record import Peer, Place, Running, launch


def _missing() -> str | None:
    try:
        version("aiohttp")
        version("uvloop")
    except PackageNotFoundError as exc:
        return f"{exc.name} is not installed in this environment"
    return None


def _start(place: Place) -> Running:
    module = "bench.peers.aiohttp_proxy"
    argv = [sys.executable, "-m", module, str(place.port), str(place.upstream_port)]
    authority = ""
    if place.tls:
        argv += [place.tls.cert, place.tls.key, place.tls.authority]
        authority = place.tls.authority
    return Running(launch(place, argv, at_root=True), place.port, authority=authority)


PEER = Peer(
    name="aiohttp",
    missing=_missing,
    version=lambda: f"{version('aiohttp')} on uvloop {version('uvloop')}",
    start=_start,
    tls=True,
)
