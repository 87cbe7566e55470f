"""`fastgw usage`: what was used and what it cost, as records, sums and exports."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
import typer

from fastgw.cli import values
from fastgw.cli.files import private_file
from fastgw.cli.output import csv_line, note, progress
from fastgw.cli.records import PAGE, shown
from fastgw.cli.run import Run, verb
from fastgw.domain import UsageRecord
from fastgw.storage import Store
from fastgw.storage.sql import keys, usage_reports
from fastgw.storage.sql.usage_reports import Filter

COLUMNS = (
    "created_at", "key_id", "requested_model", "provider", "status", "input_tokens",
    "output_tokens", "cost_usd", "usage_source", "duration_ms", "id",
)  # fmt: skip
FIELDS = tuple(
    "cost_usd" if name == "cost_nano" else name for name in UsageRecord.__struct_fields__
)
SUMS = ("requests", "errors", "input_tokens", "output_tokens", "cost_usd")
OWNERS = {"key": "key_id", "user": "user_id", "team": "team_id", "org": "org_id"}

Since = Annotated[
    str | None, typer.Option(metavar="TIME|7d", help="From then on; UTC, or so long ago.")
]
Until = Annotated[
    str | None, typer.Option(metavar="TIME|1d", help="Up to then; a day is taken whole.")
]
Key = Annotated[str | None, typer.Option(metavar="ID|NAME", help="Only of this key.")]
User = Annotated[str | None, typer.Option(metavar="ID", help="Only of this user.")]
Team = Annotated[str | None, typer.Option(metavar="ID", help="Only of this team.")]
Org = Annotated[str | None, typer.Option(metavar="ID", help="Only of this organisation.")]
Provider = Annotated[str | None, typer.Option(help="Only by this provider.")]
Model = Annotated[str | None, typer.Option(help="Only of this requested model.")]
Status = Annotated[int | None, typer.Option(help="Only with this status.")]
Tag = Annotated[str | None, typer.Option(metavar="K=V", help="Only with this tag.")]


class Format(Enum):
    """What an export is written as."""

    CSV = "csv"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(help="What was used and what it cost.", no_args_is_help=True)
    app.add_typer(group, name="usage")
    verb(group, "list")(list_usage)
    verb(group, "summary")(summary)
    verb(group, "export")(export)


async def list_usage(
    run: Run,
    *,
    since: Since = None,
    until: Until = None,
    key: Key = None,
    user: User = None,
    team: Team = None,
    org: Org = None,
    provider: Provider = None,
    model: Model = None,
    status: Status = None,
    tag: Tag = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 100,
) -> None:
    """List usage records, newest first."""
    given = _filter(since, until, user, team, org, provider, model, status, tag)
    store = await run.store()
    wanted = await _of_key(store, given, key)
    rows: list[dict[str, Any]] = []
    cursor = None
    while not limit or len(rows) < limit:
        size = min(PAGE, limit - len(rows)) if limit else PAGE
        page = await usage_reports.page(store, wanted, limit=size, cursor=cursor)
        rows += map(shown, page.items)
        cursor = page.cursor
        if cursor is None:
            break
    run.rows(rows, COLUMNS if run.form == "table" else FIELDS)


async def summary(
    run: Run,
    *,
    by: Annotated[
        str,
        typer.Option(
            help="key, user, team, org, provider, model, upstream_model, day, month, tag, "
            "tag:NAME or total."
        ),
    ] = "model",
    since: Since = None,
    until: Until = None,
    key: Key = None,
    user: User = None,
    team: Team = None,
    org: Org = None,
    provider: Provider = None,
    model: Model = None,
    status: Status = None,
    tag: Tag = None,
) -> None:
    """Sum up in whole UTC days."""
    if by.partition(":")[0] != "tag" and by not in usage_reports.SUMMARIES:
        known = ", ".join(sorted([*usage_reports.SUMMARIES, "tag", "tag:NAME"]))
        raise typer.BadParameter(f"{by!a} is nothing to sum up by; known: {known}")
    given = _filter(since, until, user, team, org, provider, model, status, tag)
    store = await run.store()
    sums = await usage_reports.summary(store, by, await _of_key(store, given, key))
    name = OWNERS.get(by, by.partition(":")[0])
    rows = []
    for each in sums:
        row = shown(each)
        group = row.pop("group")
        rows.append(row if by == "total" else {name: group} | row)
    run.rows(rows, SUMS if by == "total" else (name, *SUMS))


async def export(
    run: Run,
    *,
    form: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.CSV,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to; standard output if not given.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite a file that is there.")] = False,
    since: Since = None,
    until: Until = None,
    key: Key = None,
    user: User = None,
    team: Team = None,
    org: Org = None,
    provider: Provider = None,
    model: Model = None,
    status: Status = None,
    tag: Tag = None,
) -> None:
    """Write every record, oldest first."""
    if run.form != "table":
        form = Format(run.form)
    given = _filter(since, until, user, team, org, provider, model, status, tag)
    store = await run.store()
    wanted = await _of_key(store, given, key)
    target = private_file(out, force=force) if out is not None else nullcontext(sys.stdout)
    with target as file:
        count = await (_export_csv if form is Format.CSV else _export_json)(store, wanted, file)
    if out is not None:
        note(f"{count} records written to {out}")


async def _export_csv(store: Store, wanted: Filter, file: TextIO) -> int:
    file.write(csv_line(FIELDS))
    count = 0
    async for row in _rows(store, wanted):
        file.write(csv_line(row[field] for field in FIELDS))
        count += 1
    return count


async def _export_json(store: Store, wanted: Filter, file: TextIO) -> int:
    """Write an array, one record a line: a reader of lines and a reader of JSON both can use it."""
    count = 0
    file.write("[")
    async for row in _rows(store, wanted):
        file.write(",\n" if count else "\n")
        file.write(msgspec.json.encode(row).decode())
        count += 1
    file.write("\n]\n")
    return count


async def _rows(store: Store, wanted: Filter) -> AsyncIterator[dict[str, Any]]:
    count = 0
    async for record in usage_reports.export(store, wanted):
        yield shown(record)
        count += 1
        if count % PAGE == 0:
            progress(f"{count} records ...")
    progress("")


def _filter(
    since: str | None,
    until: str | None,
    user: str | None,
    team: str | None,
    org: str | None,
    provider: str | None,
    model: str | None,
    status: int | None,
    tag: str | None,
) -> Filter:
    times: dict[str, Any] = {}
    if since is not None:
        times["since"] = values.since_ms(since)
    if until is not None:
        times["until"] = values.until_ms(until)
    tags = list(values.tags([tag] if tag else None).items())
    if len(tags) > 1:
        raise typer.BadParameter("one tag at a time")
    return Filter(
        **times,
        user_id=user,
        team_id=team,
        org_id=org,
        provider=provider,
        model=model,
        status=status,
        tag=tags[0] if tags else None,
    )


async def _of_key(store: Store, wanted: Filter, key: str | None) -> Filter:
    if key is None:
        return wanted
    return msgspec.structs.replace(wanted, key_id=(await keys.find(store, key)).id)
