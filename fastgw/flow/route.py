"""route: in which order the model's deployments are tried."""

from __future__ import annotations

import random

from fastgw.domain import Deployment
from fastgw.flow.exchange import Exchange
from fastgw.providers import registry


def route(exchange: Exchange, random_: random.Random) -> None:
    """Offer the deployments: the first drawn by weight, the others after it, by weight again."""
    model = exchange.model
    assert model is not None
    if len(model.deployments) == 1:
        exchange.candidates = model.deployments
    else:
        exchange.candidates = tuple(draw(model.deployments, random_))


def serving(exchange: Exchange) -> tuple[Deployment, ...]:
    """Give those of the candidates whose providers serve what was asked."""
    return tuple(
        deployment
        for deployment in exchange.candidates
        if exchange.client_api in registry[deployment.provider.type].translators
        and exchange.endpoint in registry[deployment.provider.type].paths
    )


def draw(deployments: tuple[Deployment, ...], random_: random.Random) -> list[Deployment]:
    """Give all deployments in an order drawn by their weights; weight 0 comes last."""
    # Efraimidis and Spirakis: sorting by u ** (1 / weight) draws without replacement.
    return sorted(
        deployments,
        key=lambda d: random_.random() ** (1 / d.weight) if d.weight > 0 else -1.0,
        reverse=True,
    )
