"""Kinds of values that settings have: ranges, names, addresses, URLs, headers. Reads nothing."""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from fastgw.catalog.schedule import Schedule
from fastgw.config.listen import parse_address
from fastgw.config.secret import SecretText
from fastgw.domain import Secret

CLIENT_APIS = frozenset({"openai", "anthropic", "gemini", "ollama"})
"""First path segments that name a client API. A provider may be called so (the discovered ones
are), but `/{provider}/...` then means the API; `/at/{provider}/...` pins it."""

RESERVED = frozenset(
    {
        *("v1", "v1beta", "v1alpha", "api", "at", "passthrough", "models"),
        *("gateways", "dialogs", "agents", "admin", "ui", "docs", "openapi.json", "static"),
        *("healthz", "readyz", "health", "metrics"),
    }
)
"""First path segments that are routes of ours: no provider may be called so."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_MANAGED_HEADERS = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "te"),
        *("trailer", "upgrade", "expect", "content-encoding", "accept-encoding"),
    }
)


def _no_bool(value: Any) -> Any:
    """Refuse true and false where a number is needed; pydantic would take them for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")  # noqa: TRY004 - pydantic's way
    return value


def _printable(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("has a control character in it")
    return text


def _one_word(text: str) -> str:
    if not text or _CONTROL.search(text) or re.search(r"\s", text):
        raise ValueError("must be a name without spaces or control characters")
    return text


def _address(text: str) -> str:
    return str(parse_address(text))


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ValueError("must be an address or a network such as 10.0.0.0/8") from None


def _base_url(text: str) -> str:
    """Take http(s) with a host and a path only: what else a URL can hold is a trap upstream."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in {"http", "https"} or not url.hostname or port == 0:
        raise ValueError("must be http://host[:port][/path] or https://...")
    if url.username is not None or url.password is not None:
        raise ValueError("must not hold a user name or password; use api_key")
    if "?" in text or "#" in text:
        raise ValueError("must not hold a query or fragment")
    if re.search(r"[\s\\]", text) or not text.isascii():
        raise ValueError("must be plain ASCII without spaces")
    return text.rstrip("/")


def _web_url(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc:
        raise ValueError("must be an http(s) URL without a user name or password")
    return _one_word(text)


def _url_of(*schemes: str) -> AfterValidator:
    """Check a connection URL's scheme; its text stays as it is."""

    def check(secret: Secret) -> Secret:
        scheme, colon, rest = secret.reveal().partition("://")
        if not colon or not rest or scheme not in schemes:
            raise ValueError(f"must be a URL that begins with one of: {', '.join(schemes)}")
        _printable(secret.reveal())
        return secret

    return AfterValidator(check)


def _header_name(text: str) -> str:
    name = text.lower()
    if not _TOKEN.fullmatch(name):
        raise ValueError("is not a header name")
    if name in _MANAGED_HEADERS:
        raise ValueError(f"`{name}` is set by the gateway itself")
    return name


def _header_value(secret: Secret) -> Secret:
    text = secret.reveal()
    if _CONTROL.search(text) or text != text.strip():
        raise ValueError("is not a header value")
    return secret


def _provider_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError("must be letters, digits, `.`, `_`, `-`, at most 64, beginning with one")
    if name.lower() in RESERVED:
        raise ValueError(f"`{name}` is reserved: a route begins with it")
    return name


def at_least(length: int) -> AfterValidator:
    """Refuse secrets of fewer characters."""

    def check(secret: Secret) -> Secret:
        if len(secret.reveal()) < length:
            raise ValueError(f"is too short: at least {length} characters")
        return secret

    return AfterValidator(check)


YEAR_S = 31_536_000
number = BeforeValidator(_no_bool)
Count = Annotated[int, number, Field(ge=0, le=2**53)]
Positive = Annotated[int, number, Field(ge=1, le=2**53)]
Dollars = Annotated[Decimal, number, Field(ge=0, le=10**9, max_digits=30, allow_inf_nan=False)]
Seconds = Annotated[float, number, Field(ge=0, le=YEAR_S, allow_inf_nan=False)]
Timeout = Annotated[float, number, Field(gt=0, le=YEAR_S, allow_inf_nan=False)]
Share = Annotated[float, number, Field(ge=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_printable)]
Name = Annotated[str, StringConstraints(max_length=256), AfterValidator(_one_word)]
Listen = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
ProviderName = Annotated[str, AfterValidator(_provider_name)]
BaseURL = Annotated[str, AfterValidator(_base_url)]
WebURL = Annotated[str, AfterValidator(_web_url)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[SecretText, AfterValidator(_header_value)]
Token = Annotated[SecretText, AfterValidator(_header_value)]
"""A secret that travels in a header."""
TagLabel = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]{0,62}$")]
DatabaseURL = Annotated[SecretText, _url_of("sqlite", "postgresql", "postgres")]
RedisURL = Annotated[
    SecretText,
    _url_of(
        "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster",
        "rediss+cluster",
    ),
]  # fmt: skip


def _absent(value: bool) -> bool:
    if value:
        raise ValueError("this build has no such feature, so it can only be false")
    return value


Absent = Annotated[bool, AfterValidator(_absent)]


def _schedule(text: str) -> str:
    Schedule.parse(text)
    return text


When = Annotated[str, AfterValidator(_schedule)]
"""A schedule, as `fastgw.catalog.schedule` reads it."""
