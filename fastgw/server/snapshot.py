"""Builds the directory of what can be asked for: configuration first, then the store's rows."""

from __future__ import annotations

from fastgw.config import Settings
from fastgw.config.schema import Provider as ProviderSettings
from fastgw.domain import Alias, Provider, Timeouts
from fastgw.flow.directory import Directory, Known, Route
from fastgw.providers import registry
from fastgw.storage import Store
from fastgw.storage.crypto import Vault
from fastgw.storage.sql import aliases, deployments, models, providers


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
