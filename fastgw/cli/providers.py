"""`fastgw providers`: accounts with providers, in the database; those of the file are shown too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from fastgw.cli import values
from fastgw.cli.options import Enabled, Name, Search
from fastgw.cli.output import note
from fastgw.cli.probe import probe
from fastgw.cli.records import listing, shown
from fastgw.cli.run import Failed, Run, verb
from fastgw.cli.secrets import read_secret
from fastgw.config.errors import suggest
from fastgw.config.schema import Provider as Schema
from fastgw.domain import Provider, Secret
from fastgw.providers import registry
from fastgw.server.snapshot import provider_of
from fastgw.storage.sql import providers

COLUMNS = ("name", "type", "base_url", "credential_hint", "models", "enabled", "source")
RESULTS = {True: "ok", False: "FAILED", None: "-"}

BaseURL = Annotated[
    str | None, typer.Option(metavar="URL", help="Where it is, with /v1 for OpenAI types.")
]
Models = Annotated[
    list[str] | None, typer.Option(metavar="A,B", help="Upstream models it serves, if known.")
]
Header = Annotated[
    list[str] | None, typer.Option(metavar="NAME:VALUE", help="Sent with every attempt; repeat.")
]
Timeouts = Annotated[
    list[str] | None, typer.Option(metavar="STEP=S", help="connect_s=5, first_byte_s=60, ...")
]
Credential = Annotated[
    str | None, typer.Option(metavar="SECRET", help="The credential itself; others can see it.")
]
CredentialEnv = Annotated[
    str | None, typer.Option(metavar="VAR", help="Variable that holds the credential.")
]
CredentialStdin = Annotated[bool, typer.Option(help="Read the credential from standard input.")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(help="Accounts with providers.", no_args_is_help=True)
    app.add_typer(group, name="providers")
    verb(group, "add")(add)
    verb(group, "list")(list_providers)
    verb(group, "show")(show)
    verb(group, "update")(update)
    verb(group, "disable")(disable)
    verb(group, "test")(test)


async def add(
    run: Run,
    name: Annotated[str, typer.Argument(help="What it is called here.")],
    *,
    kind: Annotated[str, typer.Option("--type", help="The adapter: openai, ...")],
    base_url: BaseURL = None,
    models: Models = None,
    header: Header = None,
    timeouts: Timeouts = None,
    credential: Credential = None,
    credential_env: CredentialEnv = None,
    credential_stdin: CredentialStdin = False,
) -> None:
    """Add a provider. The credential is asked for at a terminal if no option names it."""
    if kind not in registry:
        raise typer.BadParameter(f"no type {kind!a}; {suggest(kind, registry)}")
    wanted = _checked(
        {"name": name, "type": kind, "base_url": base_url or registry[kind].base_url}
        | _given(models, header, timeouts)
    )
    if wanted["base_url"] is None:
        raise typer.BadParameter(f"type {kind} has no address of its own: give --base-url")
    secret = read_secret(
        "credential", argument=credential, variable=credential_env, from_stdin=credential_stdin
    )
    _check_credential(secret)
    store = await run.store()
    run.one(_row(await providers.create(store, run.vault(), credential=secret, **wanted)))
    if any(entry.name == name for entry in run.loaded().settings.providers):
        note(f"warning: the configuration has a provider {name} too, and it goes before")


async def list_providers(run: Run, *, search: Search = "") -> None:
    """List the providers of the configuration and those in the database."""
    configured = [
        _configured_row(run, number)
        for number, entry in enumerate(run.loaded().settings.providers)
        if search.lower() in entry.name.lower()
    ]
    stored = await listing(
        await run.store(), providers.PROVIDERS, search=search, limit=0, show=_row
    )
    run.rows(configured + stored, COLUMNS)


async def show(run: Run, provider: Name) -> None:
    """Show one provider."""
    for number, entry in enumerate(run.loaded().settings.providers):
        if entry.name == provider:
            run.one(_configured_row(run, number))
            return
    run.one(_row(await providers.find(await run.store(), provider)))


async def update(
    run: Run,
    provider: Name,
    *,
    base_url: BaseURL = None,
    models: Models = None,
    header: Header = None,
    timeouts: Timeouts = None,
    enabled: Enabled = None,
    credential: Credential = None,
    credential_env: CredentialEnv = None,
    credential_stdin: CredentialStdin = False,
) -> None:
    """Change a provider. What is given replaces what was there; '' empties a list."""
    changes = _given(models, header, timeouts)
    if base_url is not None:
        changes["base_url"] = base_url
    if enabled is not None:
        changes["enabled"] = enabled
    secret = None
    if credential is not None or credential_env is not None or credential_stdin:
        secret = read_secret(
            "credential", argument=credential, variable=credential_env, from_stdin=credential_stdin
        )
        _check_credential(secret)
    elif not changes:
        raise typer.BadParameter("say what to change")
    found = await _stored(run, provider)
    store = await run.store()
    checked = _checked({"name": found.name, "type": found.type} | changes)
    changes = {field: checked[field] for field in changes}
    async with store.transaction() as tx:
        if changes:
            found = await providers.update(tx, found.id, changes)
        if secret is not None:
            found = await providers.set_credential(tx, run.vault(), found.id, secret)
    run.one(_row(found))


async def disable(run: Run, provider: Name) -> None:
    """Take a provider out of service; `update --enable` brings it back."""
    found = await _stored(run, provider)
    await providers.update(await run.store(), found.id, {"enabled": False})
    run.done(f"disabled {found.name}", {"id": found.id, "enabled": False})


async def test(run: Run, provider: Name) -> None:
    """Ask a provider for its models and say precisely what is wrong."""
    steps = await probe(await _whole(run, provider))
    rows = [
        {"step": step.name, "result": RESULTS[step.ok], "detail": step.detail} for step in steps
    ]
    run.rows(rows, ("step", "result", "detail"))
    failed = next((step for step in steps if step.ok is False), None)
    if failed is not None:
        raise Failed(f"{provider}: {failed.name}: {failed.detail}")


async def _whole(run: Run, name: str) -> Provider:
    """Find a provider with its credential, as the gateway does: the configuration goes before."""
    for entry in run.loaded().settings.providers:
        if entry.name == name:
            return provider_of(entry)
    found = await _stored(run, name)
    everyone = await providers.load_all(await run.store(), run.vault())
    return next(each for each in everyone if each.name == found.name)


async def _stored(run: Run, name: str) -> providers.StoredProvider:
    """Find a provider in the database; one that only the configuration has cannot be changed."""
    if any(entry.name == name for entry in run.loaded().settings.providers):
        origin = run.loaded().path or "the environment"
        raise Failed(f"{name} stands in the configuration ({origin}); change it there")
    return await providers.find(await run.store(), name)


def _given(
    models: list[str] | None, header: list[str] | None, timeouts: list[str] | None
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if models is not None:
        result["models"] = values.several(models)
    if header is not None:
        pairs = [each.partition(":") for each in header if each]
        result["headers"] = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if timeouts is not None:
        result["timeouts"] = values.tags(timeouts)
    return result


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check a provider as the configuration file's would be."""
    try:
        checked = Schema.model_validate(given)
    except ValidationError as exc:
        faults = [
            f"{'.'.join(map(str, error['loc']))} {_fault(error['type'], error['msg'])}"
            for error in exc.errors(include_url=False, include_input=False)
        ]
        raise typer.BadParameter("; ".join(faults)) from None
    result: dict[str, Any] = {
        "name": checked.name,
        "type": checked.type,
        "base_url": checked.base_url,
        "models": checked.models,
        "headers": {name: value.reveal() for name, value in checked.headers.items()},
        "timeouts": checked.timeouts.model_dump(exclude_unset=True),
        "enabled": checked.enabled,
    }
    return result


def _fault(kind: str, message: str) -> str:
    return "is unknown" if kind == "extra_forbidden" else message.removeprefix("Value error, ")


def _check_credential(secret: Secret | None) -> None:
    """Refuse what cannot travel in a header (RFC 9110 §5.5)."""
    if secret is not None and not (secret.reveal().isascii() and secret.reveal().isprintable()):
        raise Failed("the credential holds characters that no header can carry")


def _row(provider: providers.StoredProvider) -> dict[str, Any]:
    row = shown(provider) | {"source": "database"}
    # A constant header may be a credential.
    row["headers"] = {name: Secret(text).masked() for name, text in provider.headers.items()}
    return row


def _configured_row(run: Run, number: int) -> dict[str, Any]:
    loaded = run.loaded()
    entry = loaded.settings.providers[number]
    provider = provider_of(entry)
    return {
        "id": None,
        "name": provider.name,
        "type": provider.type,
        "base_url": provider.base_url,
        "credential_hint": provider.credential and provider.credential.masked(),
        "models": list(provider.models),
        "timeouts": entry.timeouts.model_dump(),
        "headers": {name: Secret(text).masked() for name, text in provider.headers.items()},
        "enabled": provider.enabled,
        "source": loaded.origins.get(f"providers[{number}].name", "config"),
    }
