"""One run of a command: its options, the configuration and the database behind them.

`verb` turns a coroutine into a command with the options every command has; `Run` opens what the
command asks for and closes it again. Errors of other rooms become `Failed` here.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import msgspec
import typer

from fastgw.cli import output

if TYPE_CHECKING:  # heavy rooms: a command loads those it needs, when it needs them
    from fastgw.config import Loaded
    from fastgw.storage import Store
    from fastgw.storage.crypto import Vault

Command = TypeVar("Command", bound=Callable[..., Awaitable[None]])


class Failed(Exception):
    """A command could not do what it was asked; the text is for its user, one line a reason."""


class Shared(msgspec.Struct, frozen=True):
    """Options that every command has; they may also stand before the verb."""

    config: str | None = None
    as_json: bool = False
    as_csv: bool = False


class Run:
    """What a command gets: what it prints with, the configuration and the database."""

    def __init__(self, shared: Shared) -> None:
        if shared.as_json and shared.as_csv:
            raise typer.BadParameter("--json and --csv exclude each other")
        self.form = "json" if shared.as_json else "csv" if shared.as_csv else "table"
        self._path = shared.config
        self._loaded: Loaded | None = None
        self._store: Store | None = None

    def rows(self, rows: Sequence[output.Row], columns: Sequence[str]) -> None:
        """Print a listing."""
        output.show_rows(rows, columns, self.form)

    def one(self, row: output.Row) -> None:
        """Print one object."""
        output.show_one(row, self.form)

    def lines(self, lines: Sequence[str]) -> None:
        """Print lines for people."""
        output.write("".join(output.printable(line) + "\n" for line in lines))

    def done(self, text: str, row: output.Row) -> None:
        """Say what was done: a line for people, the object for programs."""
        if self.form == "table":
            self.lines([text])
        else:
            output.show_one(row, self.form)

    def loaded(self) -> Loaded:
        """Give the configuration."""
        from fastgw.config import ConfigError, load  # noqa: PLC0415 - see TYPE_CHECKING above
        from fastgw.providers import discovery, registry  # noqa: PLC0415

        if self._loaded is None:
            try:
                self._loaded = load(path=self._path, discovery=discovery(), provider_types=registry)
            except ConfigError as exc:
                raise Failed(str(exc)) from exc
            for warning in self._loaded.warnings:
                output.note(f"warning: {warning}")
        return self._loaded

    def database_url(self) -> str:
        """Give where the configured database is."""
        return self.loaded().settings.database.url.reveal()

    async def store(self, *, migrate: bool | None = None) -> Store:
        """Open the configured database, its schema brought up to date if the settings say so."""
        from fastgw.storage import open_store  # noqa: PLC0415 - see TYPE_CHECKING above

        if self._store is None:
            settings = self.loaded().settings.database
            migrate = settings.auto_migrate if migrate is None else migrate
            self._store = await open_store(settings.url.reveal(), migrate=migrate)
        return self._store

    def vault(self) -> Vault:
        """Give what encrypts credentials, with the master key that `serve` uses."""
        from fastgw.server.secrets import open_secrets  # noqa: PLC0415 - see TYPE_CHECKING above

        return open_secrets(self.loaded().settings).vault

    async def close(self) -> None:
        """Close what was opened."""
        if self._store is not None:
            await self._store.close()


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Base of options that go together: a parameter of such a type stands for all its fields."""


def verb(app: typer.Typer, name: str) -> Callable[[Command], Command]:
    """Make a coroutine that takes a Run a command, with the options every command has."""

    def register(function: Command) -> Command:
        def command(ctx: typer.Context, **values: Any) -> None:
            before = ctx.find_object(Shared) or Shared()
            shared = Shared(
                config=values.pop("config") or before.config,
                as_json=values.pop("as_json") or before.as_json,
                as_csv=values.pop("as_csv") or before.as_csv,
            )
            for group, kind in groups.items():
                fields = kind.__struct_fields__
                values[group] = kind(**{field: values.pop(field) for field in fields})
            asyncio.run(_execute(function, Run(shared), values))

        _, *own = inspect.signature(function).parameters.values()
        hints = get_type_hints(function, include_extras=True)
        groups = {each.name: hints[each.name] for each in own if _is_group(hints[each.name])}
        parameters = [
            inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        ]
        for each in own:
            if each.name in groups:
                parameters += _members(groups[each.name])
            else:
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters.append(each.replace(kind=kind, annotation=hints[each.name]))
        parameters += _COMMON
        command.__doc__ = function.__doc__
        # What Typer reads instead of the body's own parameters.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(name)(command)
        return function

    return register


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Group)


def _members(kind: type[Group]) -> list[inspect.Parameter]:
    """Give the options of a group; all have a default."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in msgspec.structs.fields(kind)
    ]


async def _execute(function: Callable[..., Awaitable[None]], run: Run, values: Any) -> None:
    try:
        await function(run, **values)
    finally:
        await run.close()


def _option(name: str, kind: Any, default: Any, *declared: str, **settings: Any) -> Any:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(*declared, **settings)],
    )


_COMMON = (
    _option("config", str | None, None, "--config", metavar="FILE", help="Configuration file."),
    _option("as_json", bool, False, "--json", help="Print JSON."),
    _option("as_csv", bool, False, "--csv", help="Print CSV."),
)
