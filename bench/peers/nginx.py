"""nginx as a reverse proxy, set up as its manual recommends for speed: the yardstick.

One worker, kept upstream connections, no access log, a body buffer that keeps 100 KB off the disk,
no limit on the requests of a connection. Streams have a location of their own, unbuffered.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from bench.peers.record import Peer, Place, Running, launch

CONFIG = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_buffer_size 256k;
  client_max_body_size 64m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 75s;
  tcp_nodelay on;
  upstream provider {{
    server 127.0.0.1:{upstream_port};
    keepalive 1024;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} {ssl} backlog=4096;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    location /v1/ {{ proxy_pass {scheme}://provider; }}
    location /stream/ {{ proxy_buffering off; proxy_pass {scheme}://provider/; }}
    {tls}
  }}
}}
"""
TLS = """\
    ssl_certificate {cert};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    # It matches no address of a certificate; connections are kept, so a check would cost nothing.
    proxy_ssl_verify off;
"""


def _binary() -> str | None:
    # Debian keeps it out of an ordinary user's PATH.
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _missing() -> str | None:
    return None if _binary() else "not installed (Debian/Ubuntu: apt-get install nginx-light)"


def _version() -> str:
    said = subprocess.run([_binary() or "", "-v"], capture_output=True, text=True, check=True)
    found = re.search(r"nginx/(\S+)", said.stderr)
    return found[1] if found else said.stderr.strip()


def _start(place: Place) -> Running:
    config = place.folder / "nginx.conf"
    config.write_text(
        CONFIG.format(
            # A worker of root's would fall to an account that may not enter the folder.
            user="user root;" if os.geteuid() == 0 else "",
            folder=place.folder,
            port=place.port,
            upstream_port=place.upstream_port,
            scheme=place.scheme,
            ssl="ssl" if place.tls else "",
            tls=TLS.format(**vars(place.tls)) if place.tls else "",
        )
    )
    argv = [_binary() or "", "-p", str(place.folder), "-c", str(config)]
    process = launch(place, argv)
    authority = place.tls.authority if place.tls else ""
    stream_path = "/stream/v1/chat/completions"
    return Running(process, place.port, stream_path=stream_path, authority=authority)


PEER = Peer(name="nginx", missing=_missing, version=_version, start=_start, tls=True)
