"""What can be asked for: providers, public models, aliases and prices, as one immutable snapshot.

A change builds a new directory beside the old one and swaps it in whole; exchanges under way keep
the one they started with.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec

from fastgw import catalog
from fastgw.catalog import ModelFacts
from fastgw.catalog.overrides import Overrides
from fastgw.catalog.prices import whole, whole_of
from fastgw.domain import Alias, Deployment, Model, Price, PriceOverride, Principal, Provider
from fastgw.errors import ModelNotAllowed, ModelNotFound, NoDeploymentAvailable
from fastgw.flow.stamp import Stamp
from fastgw.providers import registry

_MOST_VERDICTS = 1_000
_NOT_A_MODEL = re.compile(r"(?:\w+/)*\d+-x-\d+/|ft:")
"""Names that only carry prices in the catalogue: picture sizes and fine-tuned families."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A model the store knows as served by every provider of one type, with its price."""

    provider_type: str
    name: str
    enabled: bool = True
    price: Price | None = None
    prices: str = "{}"
    """Further price lines by their published names, in JSON."""
    max_output_tokens: int | None = None
    created_at: int = 0


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A public model as configured: names only, not yet bound to providers."""

    name: str
    deployments: tuple[tuple[str, str, int], ...]
    """(provider name, upstream model, weight), in order."""
    fallbacks: tuple[str, ...] = ()
    created_at: int = 0


class Directory:
    """Resolves the model name of a request to a `Model` with its deployments."""

    def __init__(
        self,
        providers: Iterable[Provider],
        routes: Iterable[Route] = (),
        aliases: Iterable[Alias] = (),
        known: Iterable[Known] = (),
        overrides: Iterable[PriceOverride] = (),
        payers: Iterable[Principal] = (),
    ) -> None:
        self.providers: dict[str, Provider] = {
            provider.name: provider for provider in providers if provider.enabled
        }
        self.aliases: dict[str, Alias] = {alias.name: alias for alias in aliases}
        self._known = {(model.provider_type, model.name): model for model in known}
        self.models: dict[str, Model] = {}
        for route in routes:
            self._add_route(route)
        self.listed: dict[str, Model] = {}
        self.ambiguous: dict[str, list[str]] = {}
        for provider in self.providers.values():
            self._add_listed(provider)
        self.names = frozenset([*self.models, *self.listed])
        """Names of models, without aliases."""
        self.overrides = Overrides(overrides)
        self.payers = {payer.key_id: payer for payer in payers}
        """Keys that aliases book spend to."""
        self._allowed: dict[tuple[str, ...], dict[str, bool]] = {}
        self.stamp = Stamp()
        """Dies when another directory takes this one's place."""

    def resolve(self, name: str, pinned: str | None = None) -> tuple[Model, Alias | None]:
        """Give the model behind a name a client sent, and the alias it went through, if any.

        Order: alias, configured model, `provider/model`, the first provider that lists it. With
        `pinned` only that provider is asked. Raises `ModelNotFound`, naming near misses.
        """
        alias = self.aliases.get(name)
        target = alias.model if alias is not None else name
        if pinned is not None:
            return self._resolve_pinned(target, pinned), alias
        model = self.models.get(target) or self._prefixed(target) or self.listed.get(target)
        if model is None:
            raise ModelNotFound(self._not_found(name), param="model")
        if not model.deployments:
            raise NoDeploymentAvailable(f"every deployment of {name!r} is disabled")
        return model, alias

    def permit(self, principal: Principal, name: str, model: Model) -> None:
        """Refuse a model that the key may not use."""
        patterns = principal.allowed_models
        if patterns and not (self._matches(patterns, name) or self._matches(patterns, model.name)):
            raise ModelNotAllowed(f"this key may not use the model {name!r}", param="model")

    def payer(self, principal: Principal, alias: Alias | None) -> Principal:
        """Give whose budgets pay, and to whom it is booked."""
        if alias is None or alias.billing_key_id is None:
            return principal
        return self.payers.get(alias.billing_key_id, principal)

    def visible(self, principal: Principal) -> list[Model]:
        """Give the models a key may use, by name."""
        everything = {**self.listed, **self.models}
        for alias in self.aliases.values():
            target = everything.get(alias.model)
            if target is not None:
                everything[alias.name] = msgspec.structs.replace(target, name=alias.name)
        patterns = principal.allowed_models
        return [
            everything[name]
            for name in sorted(everything)
            if everything[name].deployments and (not patterns or self._matches(patterns, name))
        ]

    def price(self, provider: Provider, upstream_model: str) -> Price | None:
        """Give what a token costs there: an operator's own price, else the catalogue's."""
        for holder in (provider.name, provider.type):
            known = self._known.get((holder, upstream_model))
            if known is not None and known.price is not None:
                return whole_of(known.price, known.prices)
        facts = _facts(provider, upstream_model)
        return whole(facts.price, facts.extra) if facts is not None else None

    def max_output(self, name: str, provider: Provider, upstream_model: str) -> int | None:
        """Give the tokens of the longest answer: an operator's word, else the catalogue's."""
        for place in (("", name), (provider.name, upstream_model), (provider.type, upstream_model)):
            known = self._known.get(place)
            if known is not None and known.max_output_tokens is not None:
                return known.max_output_tokens
        facts = _facts(provider, upstream_model)
        return facts.max_output_tokens if facts is not None else None

    # -- building -------------------------------------------------------------------------------

    def _add_route(self, route: Route) -> None:
        deployments = tuple(
            Deployment(
                provider=self.providers[provider],
                model=model,
                weight=weight,
                price=self._price_of(route.name, self.providers[provider], model),
                max_output=self.max_output(route.name, self.providers[provider], model),
            )
            for provider, model, weight in route.deployments
            if provider in self.providers
        )
        self.models[route.name] = Model(
            name=route.name,
            deployments=deployments,
            fallbacks=route.fallbacks,
            created_at=route.created_at,
        )

    def _price_of(self, name: str, provider: Provider, upstream_model: str) -> Price | None:
        """Prefer what an operator set for the public name over what is known of the upstream's."""
        public = self._known.get(("", name))
        if public is not None and public.price is not None:
            return whole_of(public.price, public.prices)
        return self.price(provider, upstream_model)

    def _add_listed(self, provider: Provider) -> None:
        if provider.models:
            names: list[tuple[str, int]] = [(name, 0) for name in provider.models]
        else:
            catalogue = registry[provider.type].catalogue
            names = [
                (model.name, model.created_at)
                for model in self._known.values()
                if model.provider_type == catalogue
                and model.enabled
                and not _NOT_A_MODEL.match(model.name)
            ]
        for name, created_at in names:
            if name in self.listed:
                holders = self.ambiguous.setdefault(
                    name, [self.listed[name].deployments[0].provider.name]
                )
                holders.append(provider.name)
                continue
            self.listed[name] = self._single(provider, name, name, created_at)

    def _single(self, provider: Provider, name: str, model: str, created_at: int = 0) -> Model:
        return Model(
            name=name,
            deployments=(
                Deployment(
                    provider=provider,
                    model=model,
                    price=self._price_of(name, provider, model),
                    max_output=self.max_output(name, provider, model),
                ),
            ),
            created_at=created_at,
            owned_by=provider.name,
        )

    # -- resolving ------------------------------------------------------------------------------

    def _prefixed(self, name: str) -> Model | None:
        prefix, slash, rest = name.partition("/")
        provider = self.providers.get(prefix) if slash and rest else None
        return self._single(provider, name, rest) if provider is not None else None

    def _resolve_pinned(self, name: str, pinned: str) -> Model:
        provider = self.providers.get(pinned)
        if provider is None:
            raise NoDeploymentAvailable(f"provider {pinned!r} is not available")
        model = self.models.get(name)
        if model is not None:
            here = tuple(d for d in model.deployments if d.provider.name == pinned)
            if here:
                return msgspec.structs.replace(model, deployments=here)
        listed = self.listed.get(name)
        if listed is not None and listed.deployments[0].provider is provider:
            return listed
        rest = name.removeprefix(f"{pinned}/")
        return self._single(provider, rest, rest)

    def _not_found(self, name: str) -> str:
        near = nearest(name, [*self.aliases, *self.models, *self.listed])
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        return f"no provider serves the model {name!r}{hint}"

    def _matches(self, patterns: tuple[str, ...], name: str) -> bool:
        if len(self._allowed) > _MOST_VERDICTS:
            self._allowed.clear()
        verdicts = self._allowed.setdefault(patterns, {})
        verdict = verdicts.get(name)
        if verdict is None:
            verdict = any(fnmatchcase(name, pattern) for pattern in patterns)
            if len(verdicts) < _MOST_VERDICTS:
                verdicts[name] = verdict
        return verdict


def _facts(provider: Provider, upstream_model: str) -> ModelFacts | None:
    catalogue = registry[provider.type].catalogue
    return catalog.load().find(catalogue, upstream_model) if catalogue else None


def nearest(name: str, names: Iterable[str], most: int = 3) -> list[str]:
    """Give up to `most` names that look like `name`."""
    return difflib.get_close_matches(name, list(names), n=most, cutoff=0.6)
