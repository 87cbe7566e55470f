"""Ask a provider one free question and say precisely what is wrong: name, network, TLS, credential.

Each step needs those before it. This is not a model route: the request goes out by aiohttp's
client, outside the gateway's pools.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from fastgw.domain import Provider
from fastgw.providers import registry

STEPS = ("dns", "tcp", "tls", "credential", "models")
TIMEOUT_S = 10.0
LARGEST_ANSWER = 8 << 20
REFUSED = frozenset({401, 403})
TELLS_NOTHING = frozenset({301, 302, 303, 307, 308})
"""Statuses that do not say whether the credential was looked at; nor does a 5xx."""
_NONE = {True: "", False: "; none is stored"}


class Step(msgspec.Struct, frozen=True):
    """One finding. `ok` is None for a step that does not apply or was not reached."""

    name: str
    ok: bool | None
    detail: str


async def probe(provider: Provider, timeout_s: float = TIMEOUT_S) -> list[Step]:
    """Go through the steps until one fails; raises nothing."""
    found = {step.name: step async for step in _steps(provider, timeout_s)}
    return [found.get(name) or Step(name, None, "not reached") for name in STEPS]


def sum_up(steps: list[Step]) -> Step:
    """Give the step that failed, else one that says that all is well."""
    for step in steps:
        if step.ok is False:
            return Step(step.name, False, f"{step.name}: {step.detail}")
    return Step(steps[-1].name, True, "; ".join(step.detail for step in steps[-2:]))


async def _steps(provider: Provider, timeout_s: float) -> AsyncIterator[Step]:
    url = URL(provider.base_url)
    host, port = url.host or "", url.port or 0
    found = await _resolve(host, port, timeout_s)
    yield found
    if not found.ok:
        return
    for step in await _connect(provider, url, timeout_s):
        yield step
        if step.ok is False:
            return
    for step in await _list_models(provider, url, timeout_s):
        yield step


async def _resolve(host: str, port: int, timeout_s: float) -> Step:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return Step("dns", False, f"{host}: no answer within {timeout_s:g} s")
    except (OSError, UnicodeError) as exc:
        return Step("dns", False, f"{host}: {getattr(exc, 'strerror', None) or exc}")
    return Step("dns", True, ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found)))


async def _connect(provider: Provider, url: URL, timeout_s: float) -> list[Step]:
    where = f"{url.host} port {url.port}"
    try:
        context = _context(provider) if url.scheme == "https" else None
    except OSError as exc:
        return [Step("tls", False, f"{provider.ca_file}: {exc.strerror or exc}")]
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(
                url.host, url.port, ssl=context, server_hostname=url.host if context else None
            )
    except TimeoutError:
        return [Step("tcp", False, f"{where}: no connection within {timeout_s:g} s")]
    except OSError as exc:
        fault = _tls_fault(exc) if context is not None else None
        if fault is None:
            return [Step("tcp", False, f"{where}: {_reason(exc)}")]
        return [Step("tcp", True, where), Step("tls", False, fault)]
    secured = writer.get_extra_info("ssl_object")
    writer.close()
    tls = Step("tls", True, secured.version()) if secured else Step("tls", None, "plain http")
    return [Step("tcp", True, where), tls]


def _context(provider: Provider) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if provider.ca_file:
        context.load_verify_locations(provider.ca_file)
    return context


def _tls_fault(exc: OSError) -> str | None:
    """Say what went wrong in the handshake; None when there was none yet."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    if isinstance(exc, ssl.SSLError):
        return exc.reason or str(exc)
    if isinstance(exc, ConnectionError) and not isinstance(exc, ConnectionRefusedError):
        return "closed during the handshake"
    return None


def _reason(exc: OSError) -> str:
    """Say why in the system's words; asyncio's own text repeats the address."""
    return os.strerror(exc.errno) if exc.errno else str(exc)


async def _list_models(provider: Provider, url: URL, timeout_s: float) -> list[Step]:
    record = registry[provider.type]
    path = record.paths.get("models", "/models")
    headers = {"accept": "application/json", **record.default_headers, **provider.headers}
    headers |= dict(record.authorize(provider))
    try:
        status, body = await _get(provider, str(url).rstrip("/") + path, headers, timeout_s)
    except TimeoutError:
        return [Step("models", False, f"no answer within {timeout_s:g} s")]
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        return [Step("models", False, f"no valid HTTP answer: {type(exc).__name__}")]
    known = provider.credential is not None
    if status in REFUSED:
        return [Step("credential", False, f"refused with {status}{_NONE[known]}")]
    models = _judge(provider, f"GET {path} answers", status, body)
    if status in TELLS_NOTHING or status >= 500:
        return [models]
    return [Step("credential", known or None, "accepted" if known else "none is stored"), models]


def _judge(provider: Provider, asked: str, status: int, body: bytes) -> Step:
    """Judge the answer to the question for models."""
    names = _names(body) if status == 200 else []
    if status == 429:
        ok, detail = True, f"{asked} 429: it limits us, but it is there"
    elif status != 200:
        hint = "; is the path of base_url right?" if status == 404 else ""
        ok, detail = False, f"{asked} {status}{hint}"
    elif names is None:
        ok, detail = False, f"{asked} something that is no list"
    elif absent := [name for name in provider.models if name not in names]:
        ok, detail = False, f"{len(names)} listed, not among them: {', '.join(absent)}"
    else:
        ok, detail = True, f"{len(names)} listed"
    return Step("models", ok, detail)


async def _get(
    provider: Provider, url: str, headers: Mapping[str, str], timeout_s: float
) -> tuple[int, bytes]:
    context = _context(provider) if provider.ca_file else True
    async with (
        aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_s), cookie_jar=aiohttp.DummyCookieJar()
        ) as session,
        session.get(
            URL(url, encoded=True), headers=headers, ssl=context, allow_redirects=False
        ) as answer,
    ):
        parts, size = [], 0
        async for part in answer.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > LARGEST_ANSWER:
                raise ValueError("the answer does not end")
        return answer.status, b"".join(parts)


def _names(body: bytes) -> list[str] | None:
    try:
        answer: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    entries = answer.get("data", answer.get("models")) if isinstance(answer, dict) else answer
    if not isinstance(entries, list):
        return None
    found = [entry.get("id") or entry.get("name") for entry in entries if isinstance(entry, dict)]
    return [name.removeprefix("models/") for name in found if isinstance(name, str)]
