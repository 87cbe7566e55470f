"""Frozen records that every room shares, money, and ids. No I/O, no policy.

Words are those of CONTRIBUTING.md: a *provider* is a configured account, a *deployment* is a
provider with an upstream model, a *key* is what fastgw issues, a *credential* what a provider
issued to us.
"""

from __future__ import annotations

import time
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec

NANO = 10**9
"""Nano-dollars in a dollar; amounts are whole nano-dollars."""
PICO = 10**12
"""Pico-dollars in a dollar; prices are whole pico-dollars a unit, since many published prices are
not whole nano-dollars a token."""


def now_ms() -> int:
    """Wall-clock time as Unix epoch milliseconds."""
    return time.time_ns() // 1_000_000


def usd(nano: int) -> str:
    """Show nano-dollars as a plain decimal string of dollars: 1_250_000 -> "0.00125"."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    whole, part = divmod(nano, NANO)
    return f"{sign}{whole}.{part:09d}".rstrip("0").rstrip(".")


def nano_usd(text: str | int | Decimal) -> int:
    """Read a decimal number of dollars as nano-dollars, rounded half up. Floats are refused."""
    if isinstance(text, float):
        raise TypeError("money is never a float")
    return int((Decimal(text) * NANO).to_integral_value(ROUND_HALF_UP))


class Secret:
    """A text that no repr, log, traceback or serialiser shows; `reveal()` is the only way in."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Give the text itself."""
        return self._text

    def masked(self) -> str:
        """Show enough to recognise it: `sk-…abcd`; short secrets show nothing."""
        text = self._text
        if len(text) < 16:
            return "…"
        head = text.split("-", 1)[0] + "-" if "-" in text[:6] else ""
        return f"{head}…{text[-4:]}"

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Counted tokens of one exchange.

    `input_tokens` includes cache reads and writes, `output_tokens` includes reasoning, as OpenAI's
    `prompt_tokens` and `completion_tokens` do. Those below the five are parts that some models
    charge otherwise; records do not have them.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_1h_tokens: int = 0
    """Of the cache writes, those kept for an hour."""
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0


class Price(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Pico-dollars per unit.

    None means "as the wider kind": cached as input, reasoning as output, an hour in the cache as
    any cache write.

    `per_request` is a flat fee. `tiers` are what requests cost whose input is above so many tokens,
    in rising order; `services` what they cost in another class of service (batch, flex, priority).
    """

    input: int = 0
    output: int = 0
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    per_request: int = 0
    cache_write_1h: int | None = None
    audio_input: int | None = None
    image_input: int | None = None
    audio_output: int | None = None
    image_output: int | None = None
    tiers: tuple[tuple[int, Price], ...] = ()
    services: tuple[tuple[str, Price], ...] = ()


PRICE_SCOPES = ("deployment", "provider", "team", "key")


class PriceOverride(msgspec.Struct, frozen=True, kw_only=True):
    """A price that differs from what is published, for those whom it matches.

    `match` of the scope deployment is `provider/upstream model`. Either a multiplier in millionths,
    or `lines`: fields of `Price`. Times are epoch milliseconds; it ends before `ends_at`.
    """

    id: str
    scope: str
    match: str
    model: str = "*"
    multiplier_ppm: int | None = None
    lines: dict[str, int] | None = None
    starts_at: int = 0
    ends_at: int | None = None

    def __post_init__(self) -> None:
        """Refuse what says nothing or makes no sense; ValueError."""
        if self.scope not in PRICE_SCOPES:
            raise ValueError(f"scope must be one of {', '.join(PRICE_SCOPES)}")
        if not self.match:
            raise ValueError("match must not be empty")
        if (self.multiplier_ppm is None) == (self.lines is None):
            raise ValueError("either a multiplier or a table of prices")
        for name, value in (self.lines or {}).items():
            if name not in PRICE_LINES:
                raise ValueError(f"{name} is no price: there are {', '.join(PRICE_LINES)}")
            if not 0 <= value < 2**62:
                raise ValueError(f"{name} must not be negative")
        if self.multiplier_ppm is not None and not 0 <= self.multiplier_ppm <= 10**9:
            raise ValueError("the multiplier must be between 0 and 1,000")
        if self.ends_at is not None and self.ends_at <= self.starts_at:
            raise ValueError("it ends before it starts")


PRICE_LINES = tuple(name for name in Price.__struct_fields__ if name not in {"tiers", "services"})


class Timeouts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Seconds a provider may take for each step."""

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    idle_s: float = 120.0
    total_s: float = 600.0


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls: a key with its owner, after authenticate. Times are epoch milliseconds."""

    key_id: str
    name: str
    enabled: bool = True
    expires_at: int | None = None
    allowed_models: tuple[str, ...] = ()
    """Names or `*` patterns; empty allows every model."""
    tags: dict[str, str] = {}
    client_tags: tuple[str, ...] = ()
    """Names of tags the caller may set."""
    allowed_ips: tuple[str, ...] = ()
    """Addresses and networks (CIDR) it may be used from; empty allows all."""
    user_id: str | None = None
    team_id: str | None = None
    org_id: str | None = None
    priority: int = 5


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A configured account with a provider. `type` names the adapter in `fastgw.providers`."""

    name: str
    type: str
    base_url: str
    """Scheme, host, port and path prefix (`/v1` included for OpenAI types), no trailing slash."""
    credential: Secret | None = None
    models: tuple[str, ...] = ()
    """Upstream models it is known to serve; empty when nobody said."""
    timeouts: Timeouts = Timeouts()
    headers: dict[str, str] = {}
    """Constant request headers, sent with every attempt."""
    ca_file: str | None = None
    """Extra trust anchor (PEM); from the configuration file only."""
    enabled: bool = True
    source: str = "config"
    """config | env | database | demo"""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """Where one attempt can go: a provider and the model name it knows, with its price."""

    provider: Provider
    model: str
    weight: int = 1
    price: Price | None = None
    max_output: int | None = None
    """Tokens of its longest answer, None when nobody knows."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A public model name and the deployments that serve it, in order."""

    name: str
    deployments: tuple[Deployment, ...]
    fallbacks: tuple[str, ...] = ()
    created_at: int = 0
    owned_by: str = "fastgw"


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """Another name for a model; `billing_key_id` books its spend to that key."""

    name: str
    model: str
    tags: dict[str, str] = {}
    billing_key_id: str | None = None


class UsageRecord(msgspec.Struct, frozen=True, gc=False):
    """What is written down of one exchange; field names are the contract's.

    Their order is fixed: hot code gives them by position, and it is that of the table's columns.

    `id` is ours and unique; `request_id` is the client's label. Money is nano-dollars, times are
    epoch milliseconds, durations milliseconds, `overhead_us` microseconds.
    """

    id: str
    request_id: str
    created_at: int
    key_id: str | None
    user_id: str | None
    team_id: str | None
    org_id: str | None
    tags: dict[str, str]
    endpoint: str
    requested_model: str
    provider: str
    upstream_model: str
    status: int
    attempts: int
    stream: bool
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_nano: int
    usage_source: str
    duration_ms: int
    ttft_ms: int | None
    overhead_us: int
    error_code: str | None


def to_builtins(record: msgspec.Struct) -> dict[str, Any]:
    """Give a record as plain dicts and lists, ready for a JSON encoder."""
    result: dict[str, Any] = msgspec.to_builtins(record)
    return result
