"""`fastgw models`: what is known of models, what they cost, and the catalogue behind it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from fastgw import catalog
from fastgw.catalog import sync as source_
from fastgw.catalog.facts import CatalogError
from fastgw.catalog.sync import Change, Changes
from fastgw.cli import values
from fastgw.cli.options import Enabled, Limit, Search
from fastgw.cli.output import note
from fastgw.cli.records import listing, shown
from fastgw.cli.run import Failed, Run, verb
from fastgw.providers import registry
from fastgw.storage import Store
from fastgw.storage.sql import catalog_syncs, models, providers
from fastgw.storage.sql.models import StoredModel

PICO_IN_USD_PER_MTOK = 10**6
LINES = ("input", "output", "cached", "cache_write", "reasoning")
COLUMNS = (
    "name", "provider", "mode", "context_window", "input_usd_per_mtok", "output_usd_per_mtok",
    "enabled", "deprecated_at",
)  # fmt: skip
SHOWN_CHANGES = 40
"""Lines of a diff on a terminal; JSON has them all."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model, or PROVIDER/MODEL.")]
Provider = Annotated[
    str | None, typer.Option(metavar="NAME", help="Provider or provider type it is served by.")
]
Usd = Annotated[str | None, typer.Option(metavar="USD", help="Per million tokens.")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(help="Models, their prices, and the catalogue.", no_args_is_help=True)
    app.add_typer(group, name="models")
    verb(group, "list")(list_models)
    verb(group, "show")(show)
    verb(group, "set")(set_model)
    verb(group, "sync")(sync)


async def list_models(
    run: Run, *, search: Search = "", provider: Provider = None, limit: Limit = 0
) -> None:
    """List the models that are known, by provider type and name."""
    found = [
        model
        for model in await models.load_all(await run.store())
        if search.lower() in model.name.lower() and provider in (None, model.provider)
    ]
    run.rows([_row(model) for model in found[: limit or None]], COLUMNS)


async def show(run: Run, name: Name, *, provider: Provider = None) -> None:
    """Show one model."""
    run.one(_row(await _find(run, name, provider)))


async def set_model(
    run: Run,
    name: Name,
    *,
    provider: Provider = None,
    input_usd_per_mtok: Usd = None,
    output_usd_per_mtok: Usd = None,
    cached_usd_per_mtok: Usd = None,
    cache_write_usd_per_mtok: Usd = None,
    reasoning_usd_per_mtok: Usd = None,
    usd_per_request: Annotated[str | None, typer.Option(metavar="USD", help="A flat fee.")] = None,
    context_window: Annotated[int | None, typer.Option(min=1, metavar="TOKENS")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(min=1, metavar="TOKENS")] = None,
    enabled: Enabled = None,
) -> None:
    """Say what a model costs. No sync undoes it.

    NAME alone is the name that clients send, whoever serves it; PROVIDER/MODEL is one provider's.
    """
    prices = (
        input_usd_per_mtok,
        output_usd_per_mtok,
        cached_usd_per_mtok,
        cache_write_usd_per_mtok,
        reasoning_usd_per_mtok,
    )
    changes: dict[str, Any] = {
        f"{line}_pico": values.pico_per_token(usd)
        for line, usd in zip(LINES, prices, strict=True)
        if usd is not None
    }
    if usd_per_request is not None:
        changes["per_request_pico"] = values.pico_per_token(usd_per_request) * 10**6
    given = {
        "context_window": context_window,
        "max_output_tokens": max_output_tokens,
        "enabled": enabled,
    }
    changes |= {field: value for field, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("say what to change")
    store = await run.store()
    holder, model = await _holder(run, store, values.word(name), provider)
    run.one(_row(await models.put(store, holder, model, **changes)))


async def sync(
    run: Run,
    *,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A price file in litellm's shape.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where one is; catalog.sync_url if not given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only show what would change.")] = False,
) -> None:
    """Bring models and prices up to date; what was set by `models set` stays."""
    if file is not None and url is not None:
        raise typer.BadParameter("give --file or --url, not both")
    store = await run.store()
    address = url or run.loaded().settings.catalog.sync_url
    where = str(file) if file is not None else source_.shown(address)
    try:
        if file is None:
            note(f"fetching {where} ...")
        text = await source_.fetch(address) if file is None else source_.read_source(file)
        reading = source_.judge(text)
        changes, record = await catalog_syncs.sync(
            store, reading.models.values(), source=where, dry_run=dry_run
        )
    except CatalogError as exc:
        if not dry_run:
            await catalog_syncs.fail(store, source=where, error=str(exc))
        raise Failed(f"{where}: {exc}") from exc
    for problem in reading.problems:
        note(f"skipped {problem.name!a}: {problem.reason}")
    row = shown(record)
    row["changes"] = [_change_row(change) for change in changes.changed]
    row["added_models"] = [f"{facts.provider}/{facts.name}" for facts in changes.added]
    row["deprecated_models"] = ["/".join(key) for key in changes.deprecated]
    row["skipped"] = [problem.name for problem in reading.problems]
    row["rounded_prices"] = reading.rounded
    row["dry_run"] = dry_run
    if run.form == "table":
        run.lines(_tell(changes, row))
    else:
        run.one(row)


def _tell(changes: Changes, row: dict[str, Any]) -> list[str]:
    """Say for people what a sync changed."""
    lines = [f"+ {name}" for name in row["added_models"]]
    lines += [f"- {name} (deprecated)" for name in row["deprecated_models"]]
    lines += [
        f"  {each['model']}: {each['field']} {each['before']} -> {each['after']}"
        for each in row["changes"]
    ]
    if len(lines) > SHOWN_CHANGES:
        lines[SHOWN_CHANGES:] = [f"  ... and {len(lines) - SHOWN_CHANGES} more (--json has all)"]
    would = "would be " if row["dry_run"] else ""
    lines.append(
        f"{len(changes.added)} models {would}added, {len(changes.updated)} {would}changed, "
        f"{len(changes.deprecated)} {would}deprecated, {row['unchanged']} as they were; "
        f"{row['kept_overrides']} keep what was set by hand, {len(row['skipped'])} entries skipped"
    )
    return lines


def _change_row(change: Change) -> dict[str, Any]:
    """Give one change with prices in dollars per million units, dates as dates."""
    before, after = change.before, change.after
    if change.field.startswith(("price.", "extra.")):
        before, after = _usd_per_mtok(before), _usd_per_mtok(after)
    return {
        "model": f"{change.provider}/{change.name}",
        "field": change.field,
        "before": before,
        "after": after,
    }


def _row(model: StoredModel) -> dict[str, Any]:
    """Show a model, prices as dollars per million tokens."""
    row = shown(model)
    result: dict[str, Any] = {}
    for field, value in row.items():
        if field == "per_request_pico":
            result["usd_per_request"] = _decimal(value, 10**12)
        elif field.endswith("_pico"):
            result[field.removesuffix("_pico") + "_usd_per_mtok"] = _usd_per_mtok(value)
        elif field == "prices":
            result["other_usd_per_munit"] = {
                name: _usd_per_mtok(pico) for name, pico in value.items()
            }
        elif field == "overrides":
            result["set_by_hand"] = sorted(value)
        else:
            result[field] = value
    return result


def _usd_per_mtok(pico: int | None) -> str | None:
    return _decimal(pico, PICO_IN_USD_PER_MTOK)


def _decimal(amount: int | None, unit: int) -> str | None:
    if amount is None:
        return None
    text = f"{Decimal(amount) / unit:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


async def _find(run: Run, name: str, provider: str | None) -> StoredModel:
    """Find a model by provider and name, or by a name that only one provider has; else Failed.

    A price set for a public name goes before what providers have of the same name.
    """
    everything = await models.load_all(await run.store())
    by_key = {(each.provider, each.name): each for each in everything}
    prefix, _, rest = name.partition("/")
    keys = [(provider, name)] if provider is not None else [(prefix, rest), ("", name)]
    found = [by_key[key] for key in keys if key in by_key][:1]
    if not found and provider is None:
        found = [each for each in everything if each.name == name]
    if not found:
        raise Failed(f"no model {name!a}{_nearest(name, everything)}")
    if len(found) > 1:
        ways = ", ".join(f"{each.provider}/{name}" for each in found[:12])
        raise Failed(f"several providers have {name!a}; say which: {ways}")
    return found[0]


def _nearest(name: str, known: Sequence[StoredModel]) -> str:
    near = catalog.Catalog(
        {(each.provider, each.name): catalog_syncs.facts_of(each) for each in known}
    ).nearest(name)
    return f"; near: {', '.join(near)}" if near else ""


async def _holder(run: Run, store: Store, name: str, provider: str | None) -> tuple[str, str]:
    """Tell whose price it is: (provider or its type, upstream model), or ("", public name)."""
    if provider is not None:
        return values.word(provider), name
    prefix, slash, rest = name.partition("/")
    if slash and rest:
        known = {entry.name for entry in run.loaded().settings.providers} | registry.keys()
        known |= {row["name"] for row in await listing(store, providers.PROVIDERS)}
        if prefix in known or await store.fetchval(models.BY_NAME, prefix, rest):
            return prefix, rest
    return "", name
