"""What an exchange writes into the journal: who pays for what, before and after."""

from __future__ import annotations

from fastgw._ext import journal
from fastgw._ext.columns import fit_text
from fastgw.domain import Deployment
from fastgw.flow.exchange import Exchange
from fastgw.wire import json


def who_of(exchange: Exchange, deployment: Deployment | None) -> journal.Who:
    """Give what the records of such exchanges have in common, when a deployment serves them."""
    principal = exchange.principal
    assert principal is not None
    return journal.Who(
        (
            principal.key_id,
            principal.user_id,
            principal.team_id,
            principal.org_id,
            json.dumps_sorted(
                {fit_text(k, 100): fit_text(v, 240) for k, v in exchange.tags.items()}
            ),
            exchange.endpoint,
            exchange.requested_model,
            deployment.provider.name if deployment is not None else "",
            deployment.model if deployment is not None else "",
        )
    )
