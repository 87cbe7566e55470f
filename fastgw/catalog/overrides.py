"""Prices in force: what is published, or what an operator agreed on for somebody, by date.

The most specific override counts, alone: of the key, then its team, then the deployment, then the
provider; of several, the one that started last. A multiplier is of the published price and rounds
half up; a table stands for itself, and what it does not name is free or as the wider kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec

from fastgw.domain import Deployment, Model, Price, PriceOverride, Principal

PPM = 10**6
_MOST_MODELS = 10_000


class Overrides:
    """All overrides, found by what they are about."""

    def __init__(self, overrides: Iterable[PriceOverride] = ()) -> None:
        self._by_match: dict[tuple[str, str], list[PriceOverride]] = {}
        for override in sorted(overrides, key=lambda each: (-each.starts_at, each.id)):
            self._by_match.setdefault((override.scope, override.match), []).append(override)
        every = [override for group in self._by_match.values() for override in group]
        self._dates = sorted(
            {at for each in every for at in (each.starts_at, each.ends_at) if at is not None}
        )
        self._models: dict[tuple[object, ...], Model] = {}

    def in_force(self, model: Model, payer: Principal, at: int) -> Model:
        """Give the model with the prices this payer has at a time (epoch milliseconds)."""
        if not self._by_match:
            return model
        chosen = [self._choose(model, each, payer, at) for each in model.deployments]
        if not any(chosen):
            return model
        names = ((d.provider.name, d.model, d.price) for d in model.deployments)
        key = (model.name, *names, *(each.id if each is not None else "" for each in chosen))
        found = self._models.get(key)
        if found is None:
            if len(self._models) >= _MOST_MODELS:
                self._models.clear()
            deployments = tuple(
                msgspec.structs.replace(each, price=apply(each.price, override))
                for each, override in zip(model.deployments, chosen, strict=True)
            )
            found = msgspec.structs.replace(model, deployments=deployments)
            self._models[key] = found
        return found

    def until(self, at: int) -> int:
        """Give when prices may change next; 0: nobody has said so."""
        return next((date for date in self._dates if date > at), 0)

    def _choose(
        self, model: Model, deployment: Deployment, payer: Principal, at: int
    ) -> PriceOverride | None:
        provider = deployment.provider.name
        matches = (
            ("key", payer.key_id),
            ("key", payer.name),
            ("team", payer.team_id),
            ("deployment", f"{provider}/{deployment.model}"),
            ("provider", provider),
        )
        for scope, value in matches:
            for override in self._by_match.get((scope, value or ""), ()):
                if override.starts_at > at or (override.ends_at or at + 1) <= at:
                    continue
                names = (model.name, deployment.model)
                if any(fnmatchcase(name, override.model) for name in names):
                    return override
        return None


def apply(price: Price | None, override: PriceOverride | None) -> Price | None:
    """Give what something costs by an override."""
    if override is None:
        return price
    if override.lines is not None:
        return msgspec.convert(override.lines, Price)
    if price is None or override.multiplier_ppm is None:
        return price
    return _times(price, override.multiplier_ppm)


def _times(price: Price, ppm: int) -> Price:
    changes: dict[str, object] = {}
    for name in price.__struct_fields__:
        value = getattr(price, name)
        if isinstance(value, int):
            changes[name] = (value * ppm + PPM // 2) // PPM
        elif isinstance(value, tuple):
            changes[name] = tuple((of, _times(inner, ppm)) for of, inner in value)
    return msgspec.structs.replace(price, **changes)
