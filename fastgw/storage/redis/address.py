"""Reads `redis.url`.

`redis://[[user]:password@]host[:port][/db]`, `rediss://` the same over TLS, `unix://…/path?db=0`,
`redis+sentinel://…@host:port,host:port/service[/db]` and `redis+cluster://…@host:port,host:port`,
both with `rediss+` over TLS. Query: `ssl_ca_certs` (a file), `sentinel_password`, and for
unix sockets `db` and `password`.
"""

from __future__ import annotations

import ssl
from urllib.parse import parse_qs, unquote

import msgspec

Place = tuple[str, int]
"""Host and port; port 0: a Unix socket's path."""

_PORT, _SENTINEL_PORT = 6379, 26379


class Address(msgspec.Struct, frozen=True):
    """Where Redis is and how to be let in."""

    kind: str
    """One of single, sentinel, cluster."""
    places: tuple[Place, ...]
    """Servers, or the Sentinels; any of them will do."""
    user: str = ""
    password: str = ""
    db: int = 0
    service: str = ""
    sentinel_password: str = ""
    tls: bool = False
    ca_file: str = ""

    def tls_context(self) -> ssl.SSLContext | None:
        """Give what to check the server by; raises OSError when the file is of no use."""
        return ssl.create_default_context(cafile=self.ca_file or None) if self.tls else None


def parse(url: str) -> Address:
    """Read an address; raises ValueError, which does not repeat the password."""
    scheme, _, rest = url.partition("://")
    base, _, topology = scheme.partition("+")
    rest, _, query = rest.partition("?")
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    login, at, rest = rest.rpartition("@")
    user, _, password = login.partition(":") if at else ("", "", "")
    user, password = unquote(user), unquote(password) or options.get("password", "")
    if base == "unix":
        return Address(
            "single", ((unquote(rest), 0),), user, password, _number(options.get("db", "0"))
        )
    hosts, _, path = rest.partition("/")
    service, db = "", path
    if topology == "sentinel":
        service, _, db = path.partition("/")
        if not service:
            raise ValueError("names no service: redis+sentinel://host:port/service")
    default = _SENTINEL_PORT if topology == "sentinel" else _PORT
    return Address(
        topology or "single",
        tuple(_place(host, default) for host in hosts.split(",")),
        user,
        password,
        _number(db or "0"),
        unquote(service),
        options.get("sentinel_password", ""),
        base == "rediss",
        options.get("ssl_ca_certs", ""),
    )


def _place(text: str, default: int) -> Place:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default)
    return host.strip("[]") or "127.0.0.1", _number(port)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is no number")
    return int(text)
