"""translate: turn the client's request into the bytes one deployment is sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from fastgw import __version__
from fastgw.domain import Deployment, Provider
from fastgw.errors import InvalidRequest
from fastgw.flow.exchange import Exchange
from fastgw.providers import registry
from fastgw.providers.record import Asked
from fastgw.upstream import Target

_EVENTS = b"text/event-stream"
_JSON = b"application/json"
_FIELD_VALUE = re.compile(r"[\t -~\x80-\xff]*")  # RFC 9110 §5.5


class Request(msgspec.Struct, frozen=True):
    """What goes upstream: `head` is a whole HTTP/1.1 request head, `parts` follow it."""

    target: Target
    head: bytes
    parts: Sequence[bytes]


def translate(exchange: Exchange, deployment: Deployment) -> Request:
    """Make the request for one attempt; raises `InvalidRequest` when this provider cannot serve it.

    The head is generated, never copied: a constant prefix, listed client headers whose values are
    checked, and our own Content-Length.
    """
    provider = deployment.provider
    record = registry[provider.type]
    exchange.deployment = deployment
    exchange.provider_type = record
    exchange.attempts += 1
    exchange.asked.append(provider.name)
    make = record.translators.get(exchange.client_api)
    path = record.paths.get(exchange.endpoint)
    if make is None or path is None:
        raise InvalidRequest(f"provider {provider.name!r} does not serve {exchange.endpoint}")
    asked = Asked(
        exchange.body,
        exchange.spans,
        exchange.requested_model,
        deployment.model,
        exchange.stream,
        exchange.endpoint,
        exchange.clamp,
    )
    exchange.translator = translator = make(asked)
    parts = translator.request(asked)
    if exchange.query in record.queries:
        path = f"{path}?{exchange.query}"
    outlet = outlet_of(provider)
    fields = [outlet.prefix(path)]
    for name in record.forward_headers:
        value = exchange.headers.get(name, record.default_headers.get(name))
        if value is not None and is_field_value(value):
            fields.append(f"{name}: {value}\r\n".encode("latin-1"))
    fields.append(b"accept: %s\r\n" % (_EVENTS if exchange.stream else _JSON))
    fields.append(b"content-length: %d\r\n\r\n" % sum(map(len, parts)))
    return Request(outlet.target, b"".join(fields), parts)


def is_field_value(value: str) -> bool:
    """Tell whether a text can stand in a header field: visible latin-1, spaces and tabs."""
    return _FIELD_VALUE.fullmatch(value) is not None


class Outlet:
    """What all requests to one provider share: where they go and how their heads begin."""

    def __init__(self, provider: Provider) -> None:
        url = urlsplit(provider.base_url)
        assert url.hostname is not None, "checked where providers are read"
        port = url.port or (443 if url.scheme == "https" else 80)
        self.provider = provider
        self.target = Target(url.scheme, url.hostname, port, provider.ca_file)
        self._path = url.path.rstrip("/")
        self._fields = [
            ("host", url.netloc),
            ("user-agent", f"fastgw/{__version__}"),
            ("content-type", "application/json"),
            ("accept-encoding", "identity"),
            *registry[provider.type].authorize(provider),
            *((name.lower(), value) for name, value in provider.headers.items()),
        ]
        self._prefixes: dict[str, bytes] = {}

    def prefix(self, path: str) -> bytes:
        """Give the constant part of the request heads for a path below the base URL."""
        prefix = self._prefixes.get(path)
        if prefix is None:
            lines = [f"POST {self._path}{path} HTTP/1.1\r\n"]
            lines += [f"{name}: {value}\r\n" for name, value in self._fields]
            prefix = self._prefixes[path] = "".join(lines).encode("latin-1")
        return prefix


_outlets: dict[int, Outlet] = {}
_MOST_OUTLETS = 1_000
"""Records of snapshots that were swapped out are not missed."""


def outlet_of(provider: Provider) -> Outlet:
    """Give the outlet of a provider record; it is made once for each record."""
    outlet = _outlets.get(id(provider))
    if outlet is None or outlet.provider is not provider:
        if len(_outlets) >= _MOST_OUTLETS:
            _outlets.clear()
        outlet = _outlets[id(provider)] = Outlet(provider)
    return outlet
