"""Refuses a request in the fast lane: the stages' own errors, rendered and accounted at once."""

from __future__ import annotations

from fastgw.domain import Model, Principal
from fastgw.errors import GatewayError, InvalidAPIKey
from fastgw.flow.account import account
from fastgw.flow.context import Context
from fastgw.flow.exchange import Exchange, LoadSpend
from fastgw.flow.limits import Stands, refusal, refusal_by
from fastgw.flow.plan import Plan, Refusal
from fastgw.server.endpoints import hot_targets
from fastgw.server.replies import error_bytes

_TARGETS = {target.encode(): endpoint for target, (endpoint, _) in hot_targets().items()}


def refuse_key(
    context: Context, target: bytes, label: str | None, created_at: int, started: int
) -> bytes:
    """Refuse a key that the store does not know."""
    exchange = _begin(context, target, label, created_at, started)
    return _end(context, exchange, InvalidAPIKey("this key is unknown or disabled"))


def refuse_model(
    context: Context, target: bytes, label: str | None, created_at: int, started: int,
    refused: Refusal, stream: bool,
) -> bytes:  # fmt: skip
    """Refuse a model that there is not, or that the key may not use."""
    exchange = _begin(context, target, label, created_at, started)
    exchange.principal = refused.principal
    exchange.requested_model = refused.requested_model
    exchange.stream = stream
    return _end(context, exchange, refused.error)


def refuse_limited(
    context: Context, target: bytes, label: str | None, created_at: int, started: int,
    plan: Plan, stream: bool, now_us: int, tokens: int, nano: int,
) -> bytes | None:  # fmt: skip
    """Refuse what limits and budgets do not let through; None when they would after all."""
    assert plan.guard is not None
    if context.limiter.terms.clamps and plan.guard.wants_money and not stream:
        return None  # the standard lane looks for what still fits
    error = refusal(plan.guard, now_us, tokens, nano, context.metrics)
    if error is None:
        return None
    exchange = _begin(context, target, label, created_at, started)
    principal: Principal = plan.principal
    model: Model = plan.model
    exchange.principal = principal
    exchange.requested_model = plan.requested_model
    exchange.model = model
    exchange.tags = plan.tags
    exchange.guard = plan.guard
    exchange.stream = stream
    return _end(context, exchange, error)


def refuse_shared(
    context: Context, plan: Plan, id: str, label: str | None,  # noqa: A002
    created_at: int, started: int, stream: bool, tokens: int, nano: int,
    outcome: Stands | LoadSpend | GatewayError,
) -> bytes | None:  # fmt: skip
    """Refuse what the keeper of limits and budgets does not let through.

    None: something has to be read first.
    """
    if isinstance(outcome, LoadSpend):
        return None
    if isinstance(outcome, Stands):
        outcome = refusal_by(outcome.meter, outcome.wait, tokens, nano, context.metrics)
    exchange = Exchange(id, plan.endpoint, plan.client_api, {})
    exchange.request_id = label or id
    exchange.created_at, exchange.started = created_at, started
    exchange.principal, exchange.model = plan.principal, plan.model
    exchange.requested_model, exchange.tags = plan.requested_model, plan.tags
    exchange.guard, exchange.stream = plan.guard, stream
    return _end(context, exchange, outcome)


def _begin(
    context: Context, target: bytes, label: str | None, created_at: int, started: int
) -> Exchange:
    endpoint = _TARGETS[target]
    exchange = Exchange(context.ids.next(), endpoint.name, endpoint.client_api, {})
    exchange.request_id = label or exchange.id
    exchange.created_at = created_at
    exchange.started = started
    return exchange


def _end(context: Context, exchange: Exchange, error: GatewayError) -> bytes:
    exchange.error = error
    exchange.status = error.status
    answer = error_bytes(error, exchange)
    account(exchange, context)
    return answer
