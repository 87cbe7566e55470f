"""What an exchange writes into the journal: who pays for what, before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgw._ext import journal
from fastgw.domain import Deployment, UsageRecord
from fastgw.flow.exchange import Exchange

if TYPE_CHECKING:
    from fastgw.flow.context import Context


def who_of(exchange: Exchange, deployment: Deployment, context: Context) -> journal.Who:
    """Give what the records of such exchanges have in common, when this deployment serves them."""
    payer = exchange.payer or exchange.principal
    assert payer is not None
    return context.whos.find(
        (
            *(payer.key_id, payer.user_id, payer.team_id, payer.org_id),
            *(exchange.endpoint, exchange.requested_model),
            *(deployment.provider.name, deployment.model),
        ),
        exchange.tags,
    )


def write_open(exchange: Exchange, context: Context) -> bool:
    """Write that the exchange begins, with what is reserved for it; False: there is no room."""
    deployment, held = exchange.deployment, exchange.reservation
    assert deployment is not None
    who = who_of(exchange, deployment, context)
    exchange.noted = held.tokens if held is not None else 0
    kept = context.journal.open(
        who,
        exchange.id,
        exchange.request_id if exchange.request_id != exchange.id else None,
        exchange.created_at,
        exchange.stream,
        held.nano if held is not None else 0,
        held.tokens if held is not None else 0,
        exchange.prompt_estimate,
    )
    exchange.kept += kept
    return kept > 0


def note_more(exchange: Exchange, context: Context) -> None:
    """Write what a stream has reserved by now, if that is more: so much is held if we die."""
    if exchange.slices is not None and exchange.slices.held.tokens > exchange.noted:
        write_open(exchange, context)


def write_close(record: UsageRecord, context: Context, kept: int) -> None:
    """Write what an exchange came to. Without an opening line it is dropped if there is no room."""
    who = context.whos.find(
        (
            *(record.key_id, record.user_id, record.team_id, record.org_id),
            *(record.endpoint, record.requested_model),
            *(record.provider, record.upstream_model),
        ),
        record.tags,
    )
    written = context.journal.close(
        kept,
        who,
        record.id,
        record.request_id if record.request_id != record.id else None,
        record.created_at,
        record.stream,
        record.status,
        record.attempts,
        record.input_tokens,
        record.output_tokens,
        record.cached_tokens,
        record.cache_write_tokens,
        record.reasoning_tokens,
        record.cost_nano,
        record.usage_source,
        record.duration_ms,
        -1 if record.ttft_ms is None else record.ttft_ms,
        record.overhead_us,
        record.error_code,
    )
    if not written:
        context.metrics.dropped["records"].add(1)
