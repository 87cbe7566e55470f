"""What the bench needs to know of a peer, and where it runs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.processes import spawn_server

# As long as a key of fastgw's, so that every peer reads and forwards a head of the same size.
PLAIN_AUTHORIZATION = "Authorization: Bearer fgw-" + "0" * 49
EVERY_ROW = None
FOREIGN_ROWS = frozenset({"json-1", "json-64", "stream-1", "paced"})
"""For gateways that take long a request: what they are compared by."""


@dataclass(frozen=True)
class Tls:
    """Files for a peer that speaks TLS to both sides: its own chain and key, whom it trusts."""

    cert: str
    key: str
    authority: str


@dataclass(frozen=True)
class Place:
    """Where one peer is to run: an own empty folder, a port, the provider's port, a core.

    `database` makes a fresh PostgreSQL database and gives its URL; None: there is no server. With
    `tls` both the peer's clients and the provider speak TLS.
    """

    folder: Path
    port: int
    upstream_port: int
    core: int
    database: Callable[[], str] | None = None
    tls: Tls | None = None

    @property
    def scheme(self) -> str:
        """Give what the provider speaks."""
        return "https" if self.tls else "http"


@dataclass(frozen=True)
class Running:
    """A peer that accepts connections, and how it wants to be asked.

    `beside` is what has to go on while it is measured; afterwards figures of its own may be in what
    it gave.
    """

    process: subprocess.Popen[bytes]
    port: int
    headers: tuple[str, ...] = (PLAIN_AUTHORIZATION,)
    path: str = "/v1/chat/completions"
    stream_path: str = "/v1/chat/completions"
    refused_headers: tuple[str, ...] = ()
    authority: str = ""
    beside: Callable[[], AbstractContextManager[dict[str, float] | None]] = nullcontext


@dataclass(frozen=True)
class Peer:
    """One gateway in one configuration: `missing` says why it cannot run here and how to get it.

    `rows` are those it takes part in, None: all. `rewrites`: its answers are its own, so it is held
    to its first one, and not to the provider's. `variant` says how a further configuration of
    fastgw differs from the first.
    """

    name: str
    missing: Callable[[], str | None]
    version: Callable[[], str]
    start: Callable[[Place], Running]
    rows: frozenset[str] | None = EVERY_ROW
    tls: bool = False
    refuses: bool = False
    rewrites: bool = False
    variant: str = ""


def launch(
    place: Place, argv: list[str], env: dict[str, str] | None = None, *, at_root: bool = False
) -> subprocess.Popen[bytes]:
    """Start a server in its place, return once it accepts."""
    log = place.folder / "output.log"
    where = {} if at_root else {"cwd": place.folder}
    return spawn_server(argv, core=place.core, log=log, port=place.port, env=env, **where)
