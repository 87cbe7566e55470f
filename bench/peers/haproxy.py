"""haproxy as a reverse proxy: one thread, kept upstream connections shared by all clients."""

from __future__ import annotations

import re
import shutil
import subprocess

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
  bind 127.0.0.1:{port}
  default_backend provider
backend provider
  server one 127.0.0.1:{upstream_port}
"""


def _missing() -> str | None:
    if shutil.which("haproxy"):
        return None
    return "not installed (Debian/Ubuntu: apt-get install haproxy)"


def _version() -> str:
    said = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True)
    found = re.search(r"version ([\d.]+\d)", said.stdout)
    return found[1] if found else said.stdout.strip()


def _start(place: Place) -> Running:
    config = place.folder / "haproxy.cfg"
    config.write_text(CONFIG.format(port=place.port, upstream_port=place.upstream_port))
    process = launch(place, ["haproxy", "-db", "-f", str(config)])
    return Running(process, place.port)


PEER = Peer(name="haproxy", missing=_missing, version=_version, start=_start)
