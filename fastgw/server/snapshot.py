"""Builds what a worker goes by from configuration and store: the directory, limits and budgets."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import structlog

from fastgw.catalog.facts import pico
from fastgw.config import Settings
from fastgw.config.schema import Budgets as BudgetSettings
from fastgw.config.schema import LimitRule
from fastgw.config.schema import PriceOverride as PriceSettings
from fastgw.config.schema import Provider as ProviderSettings
from fastgw.domain import Alias, PriceOverride, Principal, Provider, Timeouts, nano_usd
from fastgw.errors import Conflict, NotFound
from fastgw.flow.directory import Directory, Known, Route
from fastgw.flow.limits import Terms
from fastgw.flow.rules import MONEY, WILDCARD, Rule, Rules, split_match
from fastgw.providers import registry
from fastgw.storage import Store
from fastgw.storage.crypto import Vault
from fastgw.storage.sql import (
    aliases,
    budgets,
    deployments,
    keys,
    limits,
    models,
    orgs,
    price_overrides,
    providers,
    teams,
    users,
)
from fastgw.storage.sql.limits import RESET_AT
from fastgw.storage.sql.noun import Noun

_OWNERS: dict[str, Noun[Any]] = {"user": users.USERS, "team": teams.TEAMS, "org": orgs.ORGS}

log = structlog.get_logger(__name__)


async def read_directory(settings: Settings, store: Store, vault: Vault) -> Directory:
    """Read everything once and give the snapshot.

    Where both name the same thing, the configuration wins: it is what the operator of this process
    wrote.
    """
    configured = [provider_of(entry) for entry in settings.providers]
    stored = await providers.load_all(store, vault)
    names = {provider.name for provider in configured}
    configured += [
        provider for provider in stored if provider.name not in names and provider.type in registry
    ]
    routes = {route.name: route for route in await deployments.load_routes(store, Route)}
    routes |= {
        model.name: Route(
            name=model.name,
            deployments=tuple((d.provider, d.model, d.weight) for d in model.deployments),
            fallbacks=model.fallbacks,
        )
        for model in settings.models
    }
    named = {alias.name: alias for alias in await aliases.load_all(store)}
    named |= {
        alias.name: Alias(
            name=alias.name,
            model=alias.model,
            tags=dict(alias.tags),
            billing_key_id=alias.billing_key_id,
        )
        for alias in settings.aliases
    }
    known = await models.load_known(store, Known)
    overrides = [
        *(override_of(entry, place) for place, entry in enumerate(settings.prices)),
        *await price_overrides.load_all(store),
    ]
    return Directory(
        configured, routes.values(), named.values(), known, overrides,
        await _read_payers(named.values(), store),
    )  # fmt: skip


async def _read_payers(named: Iterable[Alias], store: Store) -> list[Principal]:
    ids = sorted({alias.billing_key_id for alias in named if alias.billing_key_id is not None})
    found = [(key_id, await keys.find_principal(store, key_id)) for key_id in ids]
    for key_id, payer in found:
        if payer is None:
            log.warning("billing_key_unknown", key_id=key_id)
    return [payer for _, payer in found if payer is not None]


def terms_of(budgets: BudgetSettings) -> Terms:
    """Give how budgets are enforced."""
    return Terms(
        unpriced=budgets.unpriced,
        flat_nano=nano_usd(budgets.flat_usd),
        clamps=budgets.on_tight == "clamp",
        tool_fees={kind: nano_usd(fee) for kind, fee in budgets.tool_fees_usd.items()},
    )


def override_of(entry: PriceSettings, place: int) -> PriceOverride:
    """Give a configured override."""
    table = entry.usd_per_mtok or entry.usd_per_request is not None
    lines = {name: pico_of(usd) // 10**6 for name, usd in entry.usd_per_mtok.items()}
    if entry.usd_per_request is not None:
        lines["per_request"] = pico_of(entry.usd_per_request)
    return PriceOverride(
        id=f"config {place}",
        scope=entry.scope,
        match=entry.match,
        model=entry.model,
        multiplier_ppm=None if entry.multiplier is None else int(entry.multiplier * 10**6),
        lines=lines if table else None,
        starts_at=_epoch_ms(entry.starts) or 0,
        ends_at=_epoch_ms(entry.ends),
    )


def pico_of(usd: Decimal) -> int:
    """Give dollars as whole pico-dollars."""
    return pico(usd)[0]


def _epoch_ms(when: datetime | None) -> int | None:
    if when is None:
        return None
    aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)


async def read_rules(settings: Settings, store: Store) -> Rules:
    """Read all limits and budgets once; those of the configuration are defaults."""
    defaults = [_default_rule(rule) for rule in settings.limits.defaults]
    return Rules(
        [
            *(limit_rule(limit) for limit in await limits.load_all(store)),
            *(budget_rule(budget) for budget in await budgets.load_all(store)),
            *[await _with_ids(rule, store) for rule in defaults],
        ]
    )


async def _with_ids(rule: Rule, store: Store) -> Rule:
    """Give a rule with the ids of the users, teams and orgs that it names: requests bear ids."""
    match = await _id_of(rule.scope, rule.match, store)
    also = [(scope, await _id_of(scope, match, store)) for scope, match in rule.also]
    return msgspec.structs.replace(rule, match=match, also=tuple(also))


async def _id_of(scope: str, match: str, store: Store) -> str:
    noun = _OWNERS.get(scope)
    if noun is None or WILDCARD in match:
        return match
    try:
        return str((await noun.find(store, match)).id)
    except (NotFound, Conflict):  # nobody yet, or nobody in particular
        return match


def limit_rule(limit: limits.Limit) -> Rule:
    """Give the rule of a stored limit."""
    match, also = split_match(limit.match)
    return Rule(
        id=limit.id,
        scope=limit.scope,
        match=match,
        metric=limit.metric,
        limit=limit.limit,
        window_s=limit.window_s,
        algorithm=limit.algorithm,
        burst=limit.burst,
        shared=limit.shared,
        also=also,
        reset_at=_reset_at(limit.metadata),
    )


def budget_rule(budget: budgets.Budget) -> Rule:
    """Give the rule of a stored budget."""
    return Rule(
        id=budget.id,
        scope=budget.scope,
        match=budget.match,
        metric=MONEY,
        limit=budget.limit_nano,
        period=budget.period,
        hard=budget.hard,
        shared=budget.shared,
        reset_at=_reset_at(budget.metadata),
    )


def _reset_at(metadata: dict[str, Any]) -> int:
    at = metadata.get(RESET_AT)
    return at if type(at) is int else 0


def _default_rule(rule: LimitRule) -> Rule:
    """Give a default; it is known by what it is about, so that its counters outlive a reload."""
    scope, _, tag = rule.scope.partition(":")
    own, also = split_match(rule.match)
    match = f"{tag}={own}" if tag else own
    return Rule(
        id=f"default {' '.join(map(str, rule.kind))}",
        scope=scope,
        match=match,
        metric=rule.metric,
        limit=rule.limit,
        window_s=rule.window_s,
        algorithm=rule.algorithm,
        burst=rule.burst,
        shared=rule.shared,
        also=also,
        default=True,
    )


def provider_of(entry: ProviderSettings) -> Provider:
    """Give the record of a configured provider."""
    base_url = entry.base_url or registry[entry.type].base_url
    assert base_url is not None, "checked at load"
    return Provider(
        name=entry.name,
        type=entry.type,
        base_url=base_url,
        credential=entry.api_key,
        models=entry.models,
        timeouts=Timeouts(**entry.timeouts.model_dump()),
        headers={name: value.reveal() for name, value in entry.headers.items()},
        ca_file=entry.ca_file,
        enabled=entry.enabled,
    )
