"""account: what the exchange used, what it cost, and the one record of it."""

from __future__ import annotations

import time

import msgspec

from fastgw import catalog
from fastgw._ext import limits
from fastgw._ext.killpoints import reach
from fastgw.domain import Usage, UsageRecord
from fastgw.errors import ClientGone, StoreUnavailable
from fastgw.flow.context import Context
from fastgw.flow.exchange import Counted, Exchange
from fastgw.flow.ledger import write_close, write_open

_NOTHING = Usage()


def open_line(exchange: Exchange, context: Context) -> None:
    """Write down that a provider is about to be asked: once, and before the first byte goes out.

    StoreUnavailable when nothing can be written.
    """
    if exchange.kept:
        return
    if not write_open(exchange, context):
        raise StoreUnavailable("the journal cannot be written", retry_after=1)
    if reach is not None:
        reach("after_open")


def close_line(exchange: Exchange, context: Context) -> None:
    """Write down what the exchange came to, before the last bytes of its answer go out.

    Unless its tokens must be counted first: until then the journal has it as held.
    """
    if not is_uncounted(exchange):
        _close(exchange, context)


def _close(exchange: Exchange, context: Context) -> None:
    if exchange.closed:
        return
    exchange.closed = True
    exchange.ended = exchange.ended or time.monotonic_ns()
    if exchange.usage is None:
        count(exchange)
    if exchange.principal is None:
        return
    if reach is not None:
        reach("before_close")
    record = make_record(exchange)
    write_close(record, context, exchange.kept)
    if context.record is not None:
        context.record(record)
    if reach is not None:
        reach("after_close")


def count(exchange: Exchange) -> None:
    """Fill in usage and cost from what is known so far, and settle what was reserved.

    A price is that of the request's start.
    """
    usage, exchange.usage_source = _usage(exchange)
    exchange.usage = usage
    if exchange.usage_source == "reported" and exchange.family is not None:
        exchange.family.observe(exchange.prompt_estimate, usage.input_tokens)
    deployment = exchange.deployment
    if exchange.free:
        exchange.cost_nano = 0
    elif deployment is not None and deployment.price is not None:
        exchange.cost_nano = catalog.cost(usage, deployment.price)
    elif usage is not _NOTHING:
        exchange.cost_nano = exchange.flat_nano
    if exchange.reservation is not None:
        if reach is not None:
            reach("before_release")
        _settle(exchange, exchange.reservation)
        if reach is not None:
            reach("after_release")


def _settle(exchange: Exchange, reservation: limits.Reservation) -> None:
    usage = exchange.usage
    assert usage is not None
    now = limits.now_us()
    if not exchange.sent and (not exchange.free or exchange.error is not None):
        # No provider was asked, and nothing answered here.
        reservation.release(now)
        return
    for index, meter in enumerate(reservation.guard.meters):
        if not meter.rule.concerns(meter.value, exchange.asked):
            reservation.forgo(index, now)
    reservation.settle(now, usage.input_tokens + usage.output_tokens, exchange.cost_nano or 0)


def _usage(exchange: Exchange) -> tuple[Usage, str]:
    translator = exchange.translator
    if translator is None or exchange.free:
        return _NOTHING, "reported"
    reported = translator.usage()
    if reported is not None:
        return reported, "reported"
    if not exchange.first_content:
        # Nothing reached the client: only what the provider reported is billed.
        return _NOTHING, "reported"
    counted = exchange.counted or Counted()
    prompt = translator.prompt_usage()
    if prompt is None:
        tokens = counted.prompt
        if tokens is None:
            family, tokens = exchange.family, exchange.prompt_estimate
            tokens = tokens if family is None else family.expect(tokens)
        prompt = Usage(input_tokens=tokens)
    answer = counted.answer
    if answer is None:
        answer = translator.delivered().tokens
    usage = msgspec.structs.replace(prompt, output_tokens=answer, reasoning_tokens=0)
    return usage, "estimated" if exchange.error is None else "partial"


def is_uncounted(exchange: Exchange) -> bool:
    """Tell whether content went out whose usage nobody reported, and nobody has counted yet."""
    translator = exchange.translator
    return (
        exchange.usage is None
        and exchange.counted is None
        and translator is not None
        and not exchange.free
        and exchange.first_content != 0
        and translator.usage() is None
    )


def account(exchange: Exchange, context: Context) -> None:
    """Close the exchange, or leave it to who counts its tokens and closes it then."""
    exchange.ended = exchange.ended or time.monotonic_ns()
    if exchange.joined == "first":
        return  # the one that answers for all who ask under its key is accounted for itself
    if exchange.joined == "again" or is_dry(exchange):
        exchange.usage = _NOTHING
        _measure(exchange, context)
        return
    if is_uncounted(exchange) and context.count_later(exchange):
        _free_slots(exchange)
    else:
        finish(exchange, context)


def _free_slots(exchange: Exchange) -> None:
    """Make room for another request: this one is over, only what it used is not known yet."""
    reservation, now = exchange.reservation, limits.now_us()
    if reservation is not None:
        for index, meter in enumerate(reservation.guard.meters):
            if isinstance(meter, limits.Slots):
                reservation.forgo(index, now)


def finish(exchange: Exchange, context: Context) -> None:
    """Close the exchange: its record once a principal is known, and its metrics."""
    _close(exchange, context)
    _measure(exchange, context)
    held, cost = exchange.reservation, exchange.cost_nano or 0
    if held is not None and held.guard.wants_money and cost > held.nano:
        context.metrics.overrun_nano.add(cost - held.nano)


def is_dry(exchange: Exchange) -> bool:
    """Tell whether nothing was to happen."""
    return exchange.explanation is not None and exchange.explanation.dry


def make_record(exchange: Exchange) -> UsageRecord:
    """Give the record of an exchange that has ended."""
    principal, deployment, usage = exchange.principal, exchange.deployment, exchange.usage
    assert principal is not None
    assert usage is not None
    return UsageRecord(
        id=exchange.id,
        request_id=exchange.request_id,
        created_at=exchange.created_at,
        key_id=principal.key_id,
        user_id=principal.user_id,
        team_id=principal.team_id,
        org_id=principal.org_id,
        tags=exchange.tags,
        endpoint=exchange.endpoint,
        requested_model=exchange.requested_model,
        provider=deployment.provider.name if deployment is not None else "",
        upstream_model=deployment.model if deployment is not None else "",
        status=record_status(exchange),
        attempts=exchange.attempts,
        stream=exchange.stream,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_nano=exchange.cost_nano or 0,
        usage_source=exchange.usage_source,
        duration_ms=(exchange.ended - exchange.started) // 1_000_000,
        ttft_ms=_ttft_ms(exchange),
        overhead_us=(exchange.sent - exchange.started) // 1000 if exchange.sent else 0,
        error_code=exchange.error.code if exchange.error is not None else None,
    )


def record_status(exchange: Exchange) -> int:
    """Give the status that is true of the whole exchange: a stream that broke was no success."""
    if exchange.error is not None and (
        not exchange.status or exchange.status < 400 or isinstance(exchange.error, ClientGone)
    ):
        return exchange.error.status
    return exchange.status


def _ttft_ms(exchange: Exchange) -> int | None:
    if not exchange.first_content or not exchange.sent:
        return None
    return (exchange.first_content - exchange.sent) // 1_000_000


def _measure(exchange: Exchange, context: Context) -> None:
    """Count the exchange into the metrics."""
    usage, deployment = exchange.usage, exchange.deployment
    assert usage is not None
    context.metrics.exchange(
        endpoint=exchange.endpoint,
        provider=deployment.provider.name if deployment is not None else "",
        model=exchange.model.name if exchange.model is not None else "",
        status=record_status(exchange),
        code=exchange.error.code if exchange.error is not None else "",
        seconds=(exchange.ended - exchange.started) / 1e9,
        upstream_seconds=(exchange.ended - exchange.sent) / 1e9 if exchange.sent else None,
        overhead_seconds=(exchange.sent - exchange.started) / 1e9 if exchange.sent else None,
        ttft_seconds=(
            (exchange.first_content - exchange.sent) / 1e9
            if exchange.stream and exchange.first_content and exchange.sent
            else None
        ),
        usage=usage,
        cost_nano=exchange.cost_nano or 0,
        owner=context.metrics.owner_values(
            exchange.principal.key_id if exchange.principal is not None else None, exchange.tags
        ),
    )
