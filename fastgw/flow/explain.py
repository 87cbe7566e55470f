"""Why a request is served as it is, or refused: the stages' decision as one JSON object.

`x-fastgw-explain: 1` has it kept beside the usage record; `x-fastgw-dry-run: 1` has it for an
answer, and nothing is sent, reserved or recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastgw._ext import limits
from fastgw.domain import Deployment, Price, usd
from fastgw.errors import GatewayError, InvalidRequest
from fastgw.flow.exchange import Exchange
from fastgw.flow.rules import MONEY, Rule
from fastgw.providers import registry
from fastgw.wire import json

EXPLAIN = "x-fastgw-explain"
DRY_RUN = "x-fastgw-dry-run"
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


class Explanation:
    """What is remembered while a request is decided, for who asked why."""

    def __init__(self, *, kept: bool, dry: bool) -> None:
        self.kept = kept
        """Whether the decision is (to be) found in the store."""
        self.dry = dry
        self.tokens = 0
        self.nano = 0
        self._looked: dict[int, tuple[int, int, int]] = {}
        self._at = 0

    def look(self, guard: limits.Guard, now: int, tokens: int, nano: int) -> None:
        """Note how every meter stands before it is reserved from."""
        self.tokens, self.nano, self._at = tokens, nano, now
        self._looked = {
            number: (meter.remaining(now), meter.reset_us(now), _wait(meter, now, tokens, nano))
            for number, meter in enumerate(guard.meters)
        }

    def meters(self, guard: limits.Guard, *, admitted: bool) -> list[dict[str, Any]]:
        """Show every meter as it stood, and as it stands with this request."""
        return [
            _meter(guard.meters[number], stood, self.tokens, self.nano, admitted=admitted)
            for number, stood in self._looked.items()
        ]


def is_set(headers: Mapping[str, str], name: str) -> bool:
    """Read a header that says yes or no.

    Anything else is refused: who asks for a dry run in other words does not want to pay.
    """
    value = headers.get(name, "0")
    try:
        return _FLAGS[value.strip().lower()]
    except KeyError:
        raise InvalidRequest(f"{name} must be 1 or 0", param=name) from None


def asks_dry(headers: Mapping[str, str]) -> bool:
    """Tell whether a dry run is asked for, or something that will be refused for being unclear."""
    return _FLAGS.get(headers.get(DRY_RUN, "0").strip().lower(), True)


def begin(exchange: Exchange) -> Explanation | None:
    """Find out whether somebody wants to know."""
    kept, dry = is_set(exchange.headers, EXPLAIN), is_set(exchange.headers, DRY_RUN)
    exchange.explanation = Explanation(kept=kept, dry=dry) if kept or dry else None
    return exchange.explanation


def decide(exchange: Exchange, refused: GatewayError | None) -> bytes:
    """Give the decision as it stands before anything is sent."""
    explanation, principal, guard = exchange.explanation, exchange.principal, exchange.guard
    assert explanation is not None
    assert principal is not None
    held = exchange.reservation
    if held is not None:
        explanation.tokens, explanation.nano = held.tokens, held.nano
    meters = explanation.meters(guard, admitted=refused is None) if guard is not None else []
    return json.dumps(
        {
            "id": exchange.id,
            "created_at": exchange.created_at,
            "dry_run": explanation.dry,
            "verdict": "admitted" if refused is None else "refused",
            "error": _error(refused),
            "key": {
                "id": principal.key_id,
                "name": principal.name,
                "user_id": principal.user_id,
                "team_id": principal.team_id,
                "org_id": principal.org_id,
                "expires_at": principal.expires_at,
            },
            "tags": exchange.tags,
            "client_api": exchange.client_api,
            "endpoint": exchange.endpoint,
            "stream": exchange.stream,
            "requested_model": exchange.requested_model,
            "model": exchange.model.name if exchange.model is not None else None,
            "pinned_provider": exchange.pinned,
            "estimate": _estimate(exchange, explanation),
            "limits": [meter for meter in meters if meter["metric"] != MONEY],
            "budgets": [meter for meter in meters if meter["metric"] == MONEY],
            "candidates": _candidates(exchange),
        }
    )


def _error(error: GatewayError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {
        "status": error.status,
        "code": error.code,
        "message": error.message,
        "retry_after_s": error.retry_after,
    }


def _estimate(exchange: Exchange, explanation: Explanation) -> dict[str, Any]:
    tariff = exchange.tariff
    return {
        "prompt_tokens": exchange.prompt_estimate,
        "corrected_prompt_tokens": (
            tariff.family.correct(exchange.prompt_estimate) if tariff is not None else None
        ),
        "max_output_tokens": exchange.most_output if exchange.most_output >= 0 else None,
        "choices": exchange.choices,
        "reserved_tokens": explanation.tokens,
        "reserved_usd": usd(explanation.nano),
    }


def _amount(rule: Rule, tokens: int, nano: int) -> int:
    return {"tokens": tokens, MONEY: nano}.get(rule.metric, 1)


def _wait(meter: limits.Meter, now: int, tokens: int, nano: int) -> int:
    return meter.retry_us(now, _amount(meter.rule, tokens, nano))


def _meter(
    meter: limits.Meter, stood: tuple[int, int, int], tokens: int, nano: int, *, admitted: bool
) -> dict[str, Any]:
    rule: Rule = meter.rule
    remaining, reset_us, wait_us = stood
    after = remaining - _amount(rule, tokens, nano) if admitted else remaining
    shown: dict[str, Any] = {
        "rule": rule.id,
        "scope": rule.scope,
        "match": rule.match,
        "counts_for": meter.value,
        "metric": rule.metric,
        "default": rule.default,
        "shared": rule.shared,
    }
    if rule.metric == MONEY:
        shown |= {
            "period": rule.period,
            "hard": rule.hard,
            "limit_usd": usd(meter.limit),
            "remaining_usd": {"before": usd(remaining), "after": usd(max(after, 0))},
        }
    else:
        shown |= {
            "window_s": rule.window_s if rule.metric != "concurrent" else None,
            "algorithm": rule.algorithm if rule.metric != "concurrent" else None,
            "limit": meter.limit,
            "remaining": {"before": remaining, "after": max(after, 0)},
        }
    return shown | {
        "resets_in_s": reset_us / 1e6 if reset_us >= 0 else None,
        "has_room": wait_us == 0,
        "room_in_s": wait_us / 1e6 if wait_us >= 0 else None,
    }


def _candidates(exchange: Exchange) -> list[dict[str, Any]]:
    model = exchange.model
    if model is None:
        return []
    offered = exchange.candidates or model.deployments
    total = sum(max(deployment.weight, 0) for deployment in offered)
    return [
        {
            "place": place,
            "provider": deployment.provider.name,
            "provider_type": deployment.provider.type,
            "model": deployment.model,
            "weight": deployment.weight,
            "price": _price(deployment.price),
            "why": _why(exchange, deployment, place, total),
        }
        for place, deployment in enumerate(offered, 1)
    ]


def _why(exchange: Exchange, deployment: Deployment, place: int, total: int) -> str:
    record = registry[deployment.provider.type]
    if exchange.client_api not in record.translators or exchange.endpoint not in record.paths:
        return f"cannot serve {exchange.endpoint} of the {exchange.client_api} API"
    if exchange.pinned is not None:
        return "the path names this provider"
    if not exchange.candidates:
        return "not drawn: the request was refused before"
    if len(exchange.candidates) == 1:
        return "the only deployment"
    if deployment.weight <= 0:
        return "weight 0: tried when all others fail"
    drawn = f"drawn by weight, {deployment.weight} of {total}"
    return drawn if place == 1 else f"{drawn}; tried when those before it fail"


def _price(price: Price | None) -> dict[str, str] | None:
    """Show prices in dollars a million tokens; what is not said goes by the wider kind."""
    if price is None:
        return None
    shown = {}
    for name in price.__struct_fields__:
        pico = getattr(price, name)
        if name == "per_request":
            shown["request_usd"] = usd(pico // 1_000)
        elif type(pico) is int:
            shown[f"{name}_usd_per_mtok"] = usd(pico * 1_000)
    return shown
