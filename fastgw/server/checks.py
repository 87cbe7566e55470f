"""What a configuration needs from this machine and from the provider types, checked before use.

The configuration room knows neither: it reads files, but opens none that they name.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

from fastgw.config import ConfigError, Loaded, Problem, Settings
from fastgw.config.schema import TLS
from fastgw.providers import registry
from fastgw.upstream.dial import Trust


def check(loaded: Loaded) -> None:
    """Raise ConfigError, with the place of each value, for what could never be served."""
    problems = [
        Problem(message, loaded.origins.get(where, ""), key)
        for key, where, message in _faults(loaded.settings)
    ]
    if problems:
        error = ConfigError(problems)
        error.stamps = loaded.stamps
        raise error


def server_context(tls: TLS) -> ssl.SSLContext:
    """Give the TLS context of the listening sockets; raises OSError (`ssl.SSLError` too)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An encrypted key must not make OpenSSL ask at a terminal.
    context.load_cert_chain(tls.cert, tls.key, password=lambda: "")
    context.set_alpn_protocols(["http/1.1"])
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _faults(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Give key, the key whose place is nearest, and what is wrong."""
    if settings.server.tls is not None:
        for key, message in _tls_faults(settings.server.tls):
            yield key, key, message
    trust = Trust()
    for index, provider in enumerate(settings.providers):
        at = f"providers[{index}]"
        if provider.base_url is None and registry[provider.type].base_url is None:
            yield f"{at}.base_url", f"{at}.name", f"is required for type {provider.type}"
        if provider.ca_file is not None:
            try:
                trust.context(provider.ca_file)
            except OSError as exc:
                yield f"{at}.ca_file", f"{at}.ca_file", _unusable(provider.ca_file, exc)


def _tls_faults(tls: TLS) -> Iterator[tuple[str, str]]:
    files = {"cert": tls.cert, "key": tls.key, "client_ca": tls.client_ca}
    unreadable = False
    for name, path in files.items():
        if path is not None and (fault := _unreadable(path)):
            unreadable = True
            yield f"server.tls.{name}", fault
    if unreadable:
        return
    try:
        server_context(tls)
    except OSError as exc:
        yield "server.tls.cert", f"cannot serve by these files: {_reason(exc)}"


def _unreadable(path: str) -> str | None:
    try:
        with Path(path).open("rb"):
            return None
    except OSError as exc:
        return _unusable(path, exc)


def _unusable(path: str, error: OSError) -> str:
    return f"cannot use {path}: {_reason(error)}"


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return error.strerror or str(error)
