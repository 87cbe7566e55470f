"""haproxy as a reverse proxy: one thread, kept upstream connections shared by all clients."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from bench.peers.record import Peer, Place, Running, launch

CONFIG = """\
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 75s
  timeout server 75s
  option http-no-delay
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}{bind}
  default_backend provider
backend provider
  server one 127.0.0.1:{upstream_port}{server}
"""


def _binary() -> str | None:
    # Debian keeps it out of an ordinary user's PATH.
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _missing() -> str | None:
    return None if _binary() else "not installed (Debian/Ubuntu: apt-get install haproxy)"


def _version() -> str:
    said = subprocess.run([_binary() or "", "-v"], capture_output=True, text=True, check=True)
    found = re.search(r"version ([\d.]+\d)", said.stdout)
    return found[1] if found else said.stdout.strip()


def _start(place: Place) -> Running:
    config = place.folder / "haproxy.cfg"
    bind = server = authority = ""
    if place.tls:
        pem = place.folder / "chain-and-key.pem"
        pem.write_text(Path(place.tls.cert).read_text() + Path(place.tls.key).read_text())
        authority = place.tls.authority
        bind, server = f" ssl crt {pem}", f" ssl verify required ca-file {authority}"
    config.write_text(
        CONFIG.format(port=place.port, upstream_port=place.upstream_port, bind=bind, server=server)
    )
    process = launch(place, [_binary() or "", "-db", "-f", str(config)])
    return Running(process, place.port, authority=authority)


PEER = Peer(name="haproxy", missing=_missing, version=_version, start=_start, tls=True)
