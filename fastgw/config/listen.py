"""Addresses to listen on: `host:port`, `[v6]:port`, `unix:/path`, `fd://N`. Opens nothing."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

_TCP = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>[0-9]{1,5})")


class Address(NamedTuple):
    """Where to listen. `host` and `port` for tcp, `path` for unix, `fd` for an inherited socket."""

    kind: Literal["tcp", "unix", "fd"]
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd://{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read one address; ValueError says which forms there are."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path and "\0" not in path:
            return Address("unix", path=path)
    elif text.startswith("fd://"):
        number = text.removeprefix("fd://")
        if number.isascii() and number.isdigit():
            return Address("fd", fd=int(number))
    elif match := _TCP.fullmatch(text):
        port = int(match["port"])
        if port <= 65535:
            return Address("tcp", host=match["v6"] or match["host"], port=port)
    raise ValueError("must be host:port, [v6]:port, unix:/path or fd://N")
