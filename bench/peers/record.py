"""What the bench needs to know of a peer, and where it runs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.processes import spawn_server

# As long as a key of fastgw's, so that every peer reads and forwards a head of the same size.
PLAIN_AUTHORIZATION = "Authorization: Bearer fgw-" + "0" * 49


@dataclass(frozen=True)
class Place:
    """Where one peer is to run: an own empty folder, a port, the provider's port, a core."""

    folder: Path
    port: int
    upstream_port: int
    core: int


@dataclass(frozen=True)
class Running:
    """A peer that accepts connections, and how it wants to be asked."""

    process: subprocess.Popen[bytes]
    port: int
    headers: tuple[str, ...] = (PLAIN_AUTHORIZATION,)
    path: str = "/v1/chat/completions"
    stream_path: str = "/v1/chat/completions"


@dataclass(frozen=True)
class Peer:
    """One gateway: `missing` says why it cannot run here and how to get it, or nothing."""

    name: str
    missing: Callable[[], str | None]
    version: Callable[[], str]
    start: Callable[[Place], Running]


def launch(
    place: Place, argv: list[str], env: dict[str, str] | None = None, *, at_root: bool = False
) -> subprocess.Popen[bytes]:
    """Start a server in its place, return once it accepts."""
    log = place.folder / "output.log"
    where = {} if at_root else {"cwd": place.folder}
    return spawn_server(argv, core=place.core, log=log, port=place.port, env=env, **where)
