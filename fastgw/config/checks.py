"""What must agree between sections. Each finding has the path of the value that is at fault."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from fastgw.config.errors import suggest
from fastgw.config.schema import Model, Provider, Settings
from fastgw.config.tree import Path

Finding = tuple[Path, str]

_ONLY_FOR = {
    "project": ("vertex",),
    "location": ("vertex",),
    "region": ("bedrock",),
    "profile": ("bedrock",),
    "role_arn": ("bedrock",),
    "credentials": ("vertex", "bedrock"),
}


def disagreements(settings: Settings, provider_types: Collection[str] | None) -> Iterator[Finding]:
    """Find everything that cannot be. Without `provider_types`, types are not judged."""
    yield from _repeated("providers", [each.name for each in settings.providers])
    yield from _repeated("models", [each.name for each in settings.models])
    yield from _repeated("aliases", [each.name for each in settings.aliases])
    for index, provider in enumerate(settings.providers):
        yield from _provider(index, provider, provider_types)
    known = [each.name for each in settings.providers]
    for index, model in enumerate(settings.models):
        yield from _model(index, model, known)
    for index, alias in enumerate(settings.aliases):
        if alias.name == alias.model:
            yield ("aliases", index, "model"), "an alias cannot stand for itself"
    security = settings.security
    if security.master_key is not None and security.master_key == security.jwt_secret:
        yield ("security", "jwt_secret"), "must not be the same as security.master_key"
    if settings.journal.mode == "redis":
        yield ("journal", "mode"), "this build keeps no journal in redis; use file, or none"


def _repeated(section: str, names: Sequence[str]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first:
            yield (section, index, "name"), f"`{name}` is {section}[{first[name]}] already"
        first.setdefault(name, index)


def _provider(index: int, provider: Provider, types: Collection[str] | None) -> Iterator[Finding]:
    if types is not None and provider.type not in types:
        text = f"no provider type is called `{provider.type}`; {suggest(provider.type, types)}"
        yield ("providers", index, "type"), text
    for field, only in _ONLY_FOR.items():
        if getattr(provider, field) is not None and provider.type not in only:
            yield ("providers", index, field), f"belongs to type {' or '.join(only)}"


def _model(index: int, model: Model, providers: Sequence[str]) -> Iterator[Finding]:
    for place, deployment in enumerate(model.deployments):
        if deployment.provider not in providers:
            text = f"no provider is called `{deployment.provider}`; "
            text += suggest(deployment.provider, providers)
            yield ("models", index, "deployments", place, "provider"), text
    if model.name in model.fallbacks:
        place = model.fallbacks.index(model.name)
        yield ("models", index, "fallbacks", place), "a model cannot be its own fallback"
