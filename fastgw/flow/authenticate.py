"""authenticate: who calls. A key's digest becomes a principal, or the request ends here."""

from __future__ import annotations

from fastgw.domain import Principal, now_ms
from fastgw.errors import ExpiredAPIKey, InvalidAPIKey, IPNotAllowed
from fastgw.flow.accept import KEY_HEADERS, find_key
from fastgw.flow.addresses import client_of, is_within
from fastgw.flow.context import Context
from fastgw.flow.exchange import Exchange, LoadKey
from fastgw.wire import apikey

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


def authenticate(exchange: Exchange, context: Context) -> LoadKey | None:
    """Fill in the principal from memory, or ask for the key to be loaded."""
    if not exchange.digest:
        headers = exchange.headers
        if context.anonymous is not None and not any(name in headers for name in KEY_HEADERS):
            if not context.anonymous_remote and not is_local(exchange):
                raise InvalidAPIKey("no key: without one only clients on this machine are served")
            exchange.digest = context.anonymous
        else:
            token = find_key(headers)
            exchange.digest = apikey.digest(token)
            if exchange.digest not in context.keys and not apikey.is_well_formed(token):
                raise InvalidAPIKey("this is not a fastgw key")
    principal = context.keys.get(exchange.digest)
    if principal is None:
        return LoadKey(exchange.digest)
    check(principal)
    if principal.allowed_ips:
        check_address(principal, client_of(exchange.peer, exchange.headers, context.proxies))
    exchange.principal = principal
    return None


def is_local(exchange: Exchange) -> bool:
    """Tell whether the client is on this machine.

    A request that was forwarded is not: everybody who comes through a proxy beside us has its
    address.
    """
    peer = exchange.peer.removeprefix("::ffff:")  # IPv4 on an IPv6 socket
    near = peer in {"unix", "::1"} or peer.startswith("127.")
    return near and not any(name in exchange.headers for name in _FORWARDED)


def check(principal: Principal) -> None:
    """Refuse a key that is switched off or whose time is over."""
    if not principal.enabled:
        raise InvalidAPIKey("this key is unknown or disabled")
    if principal.expires_at is not None and principal.expires_at <= now_ms():
        raise ExpiredAPIKey("this key has expired")


def check_address(principal: Principal, address: str) -> None:
    """Refuse a client that is not where the key may be used."""
    if not is_within(address, principal.allowed_ips):
        raise IPNotAllowed("this key may not be used from your address")
