"""admit: may this request be served. Reads of the body what policy needs, and nothing else.

Limits and budgets are checked and reserved here as well, all in one step; the estimate of the
prompt that they need is made here. `account` settles what is reserved.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from fastgw._ext import estimate, limits, scan
from fastgw._ext.killpoints import reach
from fastgw.domain import Alias, Principal
from fastgw.errors import InvalidJSON, InvalidRequest
from fastgw.flow.context import Context
from fastgw.flow.exchange import Exchange, LoadSpend, Reserve
from fastgw.flow.limits import is_budget, refusal
from fastgw.wire import json

POLICY_KEYS = frozenset(
    {
        b"model",
        b"stream",
        b"stream_options",
        b"max_tokens",
        b"max_completion_tokens",
        b"max_output_tokens",
        b"n",
        b"best_of",
        b"service_tier",
        b"tools",
        b"store",
        b"background",
        b"metadata",
        b"user",
    }
)
"""Top-level keys that policy reads; each must occur once and unescaped, so that policy and the
provider cannot read two different values."""

_MAXIMA = (b"max_tokens", b"max_completion_tokens", b"max_output_tokens")
_CHOICES = (b"n", b"best_of")
_MOST_COUNT = 1 << 40
_CLAMPED = frozenset({"chat_completions", "completions", "responses", "messages"})
"""Endpoints whose requests can name a maximum."""
_LEAST_CLAMP = 16
"""Tokens; an answer that must be shorter is refused."""
_SERVICES = frozenset({"flex", "priority"})
"""Classes of service with prices of their own (OpenAI, `service_tier`)."""
_CLIENT_TOOLS = frozenset({"function", "custom"})
"""Types of tools that the client runs; the rest run at the provider's and cost."""
_SCAN_MESSAGES = {
    "not_json": "the body is not valid JSON",
    "not_object": "the body must be one JSON object",
    "trailing": "there is something after the JSON object",
    "too_deep": "the body is nested more than 100 deep",
}


def admit(exchange: Exchange, context: Context, body: bytes) -> LoadSpend | Reserve | None:
    """Read the body's policy fields, check that the key may use the model, and reserve.

    Reserving comes last, so that what is refused for another reason holds nothing.
    """
    principal = exchange.principal
    assert principal is not None
    if exchange.model is not None and exchange.reservation is not None:
        return None  # what there was to wait for has come
    exchange.body = body
    exchange.spans = spans = _scan(body)
    name = _read(exchange, b"model")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("model must be a non-empty string", param="model")
    exchange.requested_model = name
    exchange.stream = _read_stream(exchange)
    if b"stream_options" in spans:
        _check_stream_options(exchange)
    exchange.most_output = max([-1, *(_read_count(exchange, key, -1) for key in _MAXIMA)])
    exchange.choices = max([1, *(_read_count(exchange, key, 1) for key in _CHOICES)])
    exchange.stamps = (context.directory.stamp, context.limiter.rules.stamp)
    model, alias = context.directory.resolve(name, exchange.pinned)
    context.directory.permit(principal, name, model)
    exchange.payer = payer = context.directory.payer(principal, alias)
    exchange.model = context.directory.overrides.in_force(model, payer, exchange.created_at)
    exchange.tags = _tags(exchange, principal, alias, context.client_tags)
    exchange.family = context.limiter.family(model)
    exchange.prompt_estimate = exchange.family.prompt(body)
    exchange.beside = estimate.pictures(body)
    exchange.service = _read_service(exchange)
    exchange.fee_nano = _fee(exchange, context.limiter.terms.tool_fees)
    return _reserve(exchange, context)


def _reserve(exchange: Exchange, context: Context) -> LoadSpend | Reserve | None:
    """Take from every limit and budget that applies, or from none and refuse."""
    if exchange.reservation is not None:  # by the fast lane, or by who keeps the meters
        if exchange.slices is None:
            _slice(exchange, exchange.reservation)
        return None
    principal, model, limiter = exchange.principal, exchange.model, context.limiter
    assert principal is not None
    assert model is not None
    providers = dict.fromkeys(deployment.provider.name for deployment in model.deployments)
    guard = limiter.guard(principal, model.name, providers, exchange.tags, exchange.payer)
    exchange.guard = guard
    if not guard.meters:
        return None
    unread = tuple(m for m in guard.meters if is_budget(m) and not m.loaded)
    if unread:
        return LoadSpend(unread)
    tokens = nano = 0
    free = exchange.free
    if not free and any(is_budget(m) and m.hard for m in guard.meters):
        limiter.check_priced(model)
    if not free and (guard.wants_tokens or guard.wants_money):
        if guard.wants_money:
            exchange.flat_nano = limiter.flat_nano
        exchange.tariff = limiter.tariff(model, exchange.endpoint, exchange.service)
        tokens, nano = amounts(exchange, exchange.most_output)
    if exchange.explanation is not None and _look(exchange, guard, tokens, nano):
        return None
    if guard.keeper is not None:
        return Reserve(exchange, tokens, nano)
    now = limits.now_us()
    exchange.reservation = guard.reserve(now, tokens, nano)
    if exchange.reservation is None and limiter.terms.clamps:
        clamp(exchange, now)
    if exchange.reservation is None:
        error = refusal(guard, now, tokens, nano, context.metrics)
        assert error is not None, "a guard that reserves nothing has a meter that refuses"
        raise error
    _slice(exchange, exchange.reservation)
    if reach is not None:
        reach("after_reserve")
    return None


def _look(exchange: Exchange, guard: limits.Guard, tokens: int, nano: int) -> bool:
    """Note how limits and budgets stand; True: that was all, on a dry run they are not touched."""
    explanation, now = exchange.explanation, limits.now_us()
    assert explanation is not None
    explanation.look(guard, now, tokens, nano)
    if not explanation.dry:
        return False
    refused = refusal(guard, now, tokens, nano, None)
    if refused is not None:
        raise refused
    return True


def _slice(exchange: Exchange, held: limits.Reservation) -> None:
    """Let a stream reserve as it goes."""
    if exchange.stream and exchange.tariff is not None:
        exchange.slices = limits.Slices(
            held, exchange.tariff, exchange.most_output, exchange.choices
        )


def amounts(exchange: Exchange, most: int) -> tuple[int, int]:
    """Give (tokens, nano-dollars) to reserve where answers have so many tokens at most."""
    assert exchange.tariff is not None
    tokens, nano = exchange.tariff.amounts(
        exchange.prompt_estimate,
        exchange.beside,
        len(exchange.body),
        most,
        exchange.choices,
        exchange.stream,
    )
    return tokens, nano + exchange.fee_nano


def clamp(exchange: Exchange, now: int) -> None:
    """Reserve for the longest answer that the budgets have room for, if that is worth asking for.

    A stream needs no clamp: it reserves as it goes.
    """
    guard = exchange.guard
    assert guard is not None
    budgets = [m for m in guard.meters if isinstance(m, limits.Budget) and m.hard]
    if exchange.stream or not budgets or exchange.endpoint not in _CLAMPED:
        return
    assert exchange.tariff is not None
    room = min(budget.remaining(now) for budget in budgets)
    longest = exchange.tariff.reserved_output(exchange.most_output, 1, False)
    fits = bisect_right(range(longest), room, key=lambda most: amounts(exchange, most)[1]) - 1
    if fits < _LEAST_CLAMP:
        return
    exchange.reservation = guard.reserve(now, *amounts(exchange, fits))
    if exchange.reservation is not None:
        exchange.clamp = fits


def _read_service(exchange: Exchange) -> str:
    """Give the class of service that is asked for, "" for the plain one."""
    service = _read(exchange, b"service_tier")
    return service if service in _SERVICES else ""


def _fee(exchange: Exchange, fees: Mapping[str, int]) -> int:
    """Give what the offered server tools cost: each type once, by the first name that matches."""
    if not fees or b"tools" not in exchange.spans:
        return 0
    tools = _read(exchange, b"tools")
    if not isinstance(tools, list):
        return 0
    kinds = {tool.get("type") for tool in tools if isinstance(tool, dict)}
    fee = 0
    for kind in kinds:
        if isinstance(kind, str) and kind not in _CLIENT_TOOLS:
            fee += next((nano for name, nano in fees.items() if fnmatchcase(kind, name)), 0)
    return fee


def _tags(
    exchange: Exchange, principal: Principal, alias: Alias | None, allowed: tuple[str, ...]
) -> dict[str, str]:
    """Merge the tags of caller, alias and key; the key's own always win.

    `allowed` are the tags a caller may set whose key does not say.
    """
    asked = exchange.headers.get("x-fastgw-tags")
    if asked is None and alias is None:
        return principal.tags
    tags = {}
    allowed = principal.client_tags or allowed
    for pair in filter(None, (asked or "").split(",")):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not name or not value.isprintable():
            raise InvalidRequest("x-fastgw-tags must be name=value,…", param="x-fastgw-tags")
        if name not in allowed:
            raise InvalidRequest(
                f"this key may not set the tag {name!r}", param=f"x-fastgw-tags.{name}"
            )
        tags[name] = value
    return {**tags, **(alias.tags if alias is not None else {}), **principal.tags}


def _scan(body: bytes) -> dict[bytes, tuple[int, int]]:
    try:
        return scan.top_level(body, POLICY_KEYS)
    except scan.ScanError as exc:
        key = (exc.key or b"").decode()
        if exc.reason == "duplicate":
            raise InvalidRequest(f"{key} occurs more than once", param=key) from exc
        if exc.reason == "escaped":
            raise InvalidRequest(f"the name of {key} must not be escaped", param=key) from exc
        raise InvalidJSON(_SCAN_MESSAGES[exc.reason]) from exc


def _read(exchange: Exchange, key: bytes) -> Any:
    """Give the value of a top-level key, None when it is absent."""
    span = exchange.spans.get(key)
    if span is None:
        return None
    try:
        return json.loads(exchange.body[span[0] : span[1]])
    except ValueError as exc:
        raise InvalidJSON(f"the value of {key.decode()} is not valid JSON") from exc


def _read_stream(exchange: Exchange) -> bool:
    stream = _read(exchange, b"stream")
    if stream is None or stream is False:
        return False
    if stream is True:
        return True
    raise InvalidRequest("stream must be true or false", param="stream")


def _check_stream_options(exchange: Exchange) -> None:
    options = _read(exchange, b"stream_options")
    if options is not None and not isinstance(options, dict):
        raise InvalidRequest("stream_options must be an object", param="stream_options")


def _read_count(exchange: Exchange, key: bytes, absent: int) -> int:
    value = _read(exchange, key)
    if value is None:
        return absent
    if type(value) is not int or value < 0:
        name = key.decode()
        raise InvalidRequest(f"{name} must be a whole number", param=name)
    return min(value, _MOST_COUNT)
