"""Read facts about models (prices, context windows, abilities) from litellm's published file shape.

Pure: text in, records out. The bundled snapshot is made by this reader, and a file fetched for a
sync goes through it. Prices are read as the decimal digits of the JSON text, never as floats, and
kept as whole pico-dollars a unit. An entry that is wrong is skipped and named; it never takes
others with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache
from typing import Any

import msgspec

from fastgw.domain import PICO, Price

TYPES: dict[str, tuple[str, str]] = {
    # litellm's provider name -> (our provider type, prefix of its keys). A name that is not here
    # is its own type and its own prefix.
    "ai21": ("ai21", "ai21/"),
    "amazon_nova": ("amazon_nova", "amazon-nova/"),
    "azure_text": ("azure", "azure/"),
    "bedrock_converse": ("bedrock", "bedrock/"),
    "cohere_chat": ("cohere", "cohere/"),
    "dashscope": ("alibaba", "dashscope/"),
    "fireworks_ai": ("fireworks", "fireworks_ai/"),
    "fireworks_ai-embedding-models": ("fireworks", "fireworks_ai/"),
    "jina_ai": ("jina", "jina_ai/"),
    "lambda_ai": ("lambda", "lambda_ai/"),
    "nvidia_nim": ("nvidia", "nvidia_nim/"),
    "text-completion-codestral": ("codestral", "text-completion-codestral/"),
    "text-completion-inception": ("inception", "text-completion-inception/"),
    "text-completion-openai": ("openai", "openai/"),
    "together_ai": ("together", "together_ai/"),
    "vercel_ai_gateway": ("vercel", "vercel_ai_gateway/"),
    "vertex_ai": ("vertex", "vertex_ai/"),
}
VERTEX_FAMILY = "vertex_ai-"
"""litellm files Vertex models by family: `vertex_ai-anthropic_models` and so on."""
NOT_MODELS = frozenset({"sample_spec", "fallback_generalizations"})
"""Keys of litellm's file that describe the file itself."""

DEAREST = Decimal(10_000)
"""Dollars a unit; a price above is a slip of the unit, not a price."""
RANGES = ("range", "max_results_range")
WIDEST = 10**12
"""Tokens; a window above is not a window."""
EXACT = Context(prec=100, Emax=999999, Emin=-999999)


class CatalogError(Exception):
    """A price file as a whole cannot be used; the text says why."""


class EntryError(ValueError):
    """One entry of a price file is wrong."""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one upstream model.

    `price` is None when nothing says what a token costs (billed by image, second or character, or
    by subscription): not known is not free. `extra` holds the other price fields by their
    published names, dots for nesting, in pico-dollars a unit. Times are epoch milliseconds.
    """

    provider: str
    name: str
    mode: str = ""
    context_window: int | None = None
    max_output_tokens: int | None = None
    price: Price | None = None
    features: tuple[str, ...] = ()
    deprecated_at: int | None = None
    extra: dict[str, int] = {}


class Problem(msgspec.Struct, frozen=True):
    """An entry that was skipped, and why."""

    name: str
    reason: str


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a price file says: facts by (provider type, upstream model), and what was wrong.

    `rounded` counts prices that are not whole pico-dollars and were rounded half up.
    """

    models: dict[tuple[str, str], ModelFacts]
    problems: tuple[Problem, ...]
    rounded: int


def parse(text: bytes) -> dict[str, Any]:
    """Parse a price file, numbers with a point or exponent as Decimal; CatalogError if unusable."""
    try:
        entries = msgspec.json.Decoder(float_hook=Decimal).decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError, ArithmeticError) as exc:
        raise CatalogError(f"not a JSON file: {exc}") from exc
    if not isinstance(entries, dict):
        raise CatalogError("not a JSON object of models by name")
    return entries


def read(text: bytes) -> Reading:
    """Read a price file; CatalogError when it is no such file at all."""
    entries = {key: entry for key, entry in parse(text).items() if key not in NOT_MODELS}
    models: dict[tuple[str, str], ModelFacts] = {}
    problems: list[Problem] = []
    rounded = 0
    for key, entry in _plain_names_first(entries):
        try:
            facts, inexact = _facts(key, entry)
        except EntryError as exc:
            problems.append(Problem(key, str(exc)))
            continue
        # Regional and prefixed duplicates: who comes second keeps its published name.
        if (facts.provider, facts.name) in models:
            facts = msgspec.structs.replace(facts, name=key)
        if (facts.provider, facts.name) in models:
            problems.append(Problem(key, f"{facts.provider} has this model twice"))
            continue
        models[facts.provider, facts.name] = facts
        rounded += inexact
    return Reading(models=models, problems=tuple(problems), rounded=rounded)


@lru_cache(maxsize=4096)
def pico(value: Decimal | int) -> tuple[int, bool]:
    """Give dollars a unit as whole pico-dollars, half up, and whether nothing was rounded."""
    scaled = EXACT.multiply(Decimal(value), Decimal(PICO))
    whole = scaled.to_integral_value(ROUND_HALF_UP, EXACT)
    return int(whole), whole == scaled


@lru_cache(maxsize=4096)
def is_price(field: str) -> bool:
    """Tell a price field by its name. DBU is a vendor's own currency, not dollars."""
    return ("cost" in field or "pricing" in field) and "dbu" not in field


def _plain_names_first(entries: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give entries that need no prefix stripped first: the short name is theirs."""
    prefixed = []
    for key, entry in entries.items():
        if isinstance(entry, dict) and key.startswith(_type(entry)[1]):
            prefixed.append((key, entry))
        else:
            yield key, entry
    yield from prefixed


def _is_name(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and text.isprintable() and text == text.strip()


def _type(entry: Mapping[str, Any]) -> tuple[str, str]:
    name = entry.get("litellm_provider")
    if not isinstance(name, str) or not _is_name(name, 100):
        return "", "\0"
    if name.startswith(VERTEX_FAMILY):
        name = "vertex_ai"
    return TYPES.get(name, (name, name + "/"))


def _facts(key: str, entry: Any) -> tuple[ModelFacts, int]:
    if not isinstance(entry, dict):
        raise EntryError("is not an object")
    if not _is_name(key, 300):
        raise EntryError("its name is empty, too long or not printable")
    provider, prefix = _type(entry)
    if not provider:
        raise EntryError("litellm_provider is missing or not a name")
    mode = entry.get("mode") or ""
    if not isinstance(mode, str) or (mode and not _is_name(mode, 50)):
        raise EntryError("mode is not a word")
    prices: dict[str, int] = {}
    inexact = 0
    for field, value in entry.items():
        if is_price(field) and value is not None:
            for name, amount in _amounts(field, value):
                prices[name], exact = _dollars(name, amount)
                inexact += not exact
    facts = ModelFacts(
        provider=provider,
        name=key.removeprefix(prefix) or key,
        mode=mode,
        context_window=_tokens(entry, "max_input_tokens"),
        max_output_tokens=_tokens(entry, "max_output_tokens"),
        price=_price(prices),
        features=tuple(
            sorted(
                field.removeprefix("supports_")
                for field, value in entry.items()
                if field.startswith("supports_") and value is True
            )
        ),
        deprecated_at=_midnight(entry.get("deprecation_date")),
        extra=prices,
    )
    return facts, inexact


def _amounts(field: str, value: Any) -> Iterator[tuple[str, Decimal | int]]:
    """Give the numbers of a price field; nested ones under dotted names.

    A tier of `tiered_pricing` is named by its token range, `off_peak_pricing` also holds hours:
    what is not a number inside a nested field is not a price.
    """
    if isinstance(value, Decimal | int) and not isinstance(value, bool):
        yield field, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, Decimal | int) and not isinstance(inner, bool):
                yield f"{field}.{name}", inner
    elif isinstance(value, list):
        for tier in value:
            if not isinstance(tier, dict):
                raise EntryError(f"{field} is not a list of tiers")
            bounds = next((tier[name] for name in RANGES if name in tier), None)
            if not isinstance(bounds, list) or not all(_is_count(bound) for bound in bounds):
                raise EntryError(f"a tier of {field} has no range")
            span = "-".join(str(int(bound)) for bound in bounds)
            prices = {name: price for name, price in tier.items() if is_price(name)}
            yield from _amounts(f"{field}.{span}", prices)
    else:
        raise EntryError(f"{field} is not a number")


def _is_count(value: Any) -> bool:
    return isinstance(value, Decimal | int) and 0 <= value <= WIDEST


def _dollars(field: str, value: Decimal | int) -> tuple[int, bool]:
    if not 0 <= value <= DEAREST:
        raise EntryError(f"{field} is not between 0 and {DEAREST} dollars")
    return pico(value)


def _tokens(entry: Mapping[str, Any], field: str) -> int | None:
    value = entry.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not _is_count(value) or value != int(value):
        raise EntryError(f"{field} is not a number of tokens")
    return int(value) or None


def _midnight(value: Any) -> int | None:
    if value is None:
        return None
    try:
        day = date.fromisoformat(value)
    except (TypeError, ValueError) as exc:
        raise EntryError("deprecation_date is not YYYY-MM-DD") from exc
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def _price(prices: dict[str, int]) -> Price | None:
    """Take the fields a Price can say out of `prices`; None when they do not say what it costs."""
    tier = _lowest_tier(prices)

    def take(*fields: str) -> int | None:
        for field in fields:
            for name in (field, f"{tier}.{field}"):
                if name in prices:
                    return prices.pop(name)
        return None

    input_, output = take("input_cost_per_token"), take("output_cost_per_token")
    cached = take("cache_read_input_token_cost", "input_cost_per_token_cache_hit")
    cache_write = take("cache_creation_input_token_cost")
    reasoning = take("output_cost_per_reasoning_token")
    per_request = take("input_cost_per_request", "input_cost_per_query")
    known = [line for line in (input_, output, per_request) if line is not None]
    if not known or (not any(known) and _billed_otherwise(prices)):
        return None
    return Price(
        input=input_ or 0,
        output=output or 0,
        cached=cached,
        # Zero is published where writing costs nothing on top: such tokens cost what input costs.
        cache_write=cache_write or None,
        # A model that thinks for nothing while its words cost is a hole in the file.
        reasoning=reasoning or None,
        per_request=per_request or 0,
    )


def _lowest_tier(prices: Iterable[str]) -> str:
    tiers = {name.rpartition(".")[0] for name in prices if name.startswith("tiered_pricing.")}
    return min(tiers, key=lambda tier: int(tier.split(".")[1].split("-")[0]), default="")


def _billed_otherwise(prices: Mapping[str, int]) -> bool:
    """Tell whether an answer costs by image, second, page or character."""
    own = ("input_cost_per_", "output_cost_per_", "ocr_cost_per_", "annotation_", "cost_per_second")
    return any(amount and name.startswith(own) for name, amount in prices.items())
