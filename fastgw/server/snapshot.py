"""Builds what a worker goes by from configuration and store: the directory, limits and budgets."""

from __future__ import annotations

from typing import Any

import msgspec

from fastgw.config import Settings
from fastgw.config.schema import LimitRule
from fastgw.config.schema import Provider as ProviderSettings
from fastgw.domain import Alias, Provider, Timeouts
from fastgw.errors import Conflict, NotFound
from fastgw.flow.directory import Directory, Known, Route
from fastgw.flow.rules import MONEY, WILDCARD, Rule, Rules, split_match
from fastgw.providers import registry
from fastgw.storage import Store
from fastgw.storage.crypto import Vault
from fastgw.storage.sql import (
    aliases,
    budgets,
    deployments,
    limits,
    models,
    orgs,
    providers,
    teams,
    users,
)
from fastgw.storage.sql.limits import RESET_AT
from fastgw.storage.sql.noun import Noun

_OWNERS: dict[str, Noun[Any]] = {"user": users.USERS, "team": teams.TEAMS, "org": orgs.ORGS}


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
    return Directory(configured, routes.values(), named.values(), known)


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
