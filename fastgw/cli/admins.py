"""`fastgw admins`: accounts of the admin API."""

from __future__ import annotations

import secrets
from enum import Enum
from typing import Annotated

import typer

from fastgw.admin.passwords import LEAST, hash_now
from fastgw.cli import values
from fastgw.cli.options import Limit, Search
from fastgw.cli.output import note
from fastgw.cli.records import listing, shown
from fastgw.cli.run import Failed, Run, verb
from fastgw.cli.secrets import read_secret
from fastgw.domain import Secret
from fastgw.storage.sql import admins

COLUMNS = ("email", "role", "enabled", "last_login_at", "created_at", "id")


class Role(Enum):
    """What an account may do; each includes the one before."""

    VIEWER = "viewer"
    EDITOR = "editor"
    ADMIN = "admin"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(help="Accounts of the admin API.", no_args_is_help=True)
    app.add_typer(group, name="admins")
    verb(group, "create")(create)
    verb(group, "list")(list_admins)


async def create(
    run: Run,
    email: Annotated[str, typer.Argument()],
    *,
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.VIEWER,
    name: Annotated[str, typer.Option(help="Who it is.")] = "",
    password_env: Annotated[
        str | None, typer.Option(metavar="VAR", help="Variable that holds the password.")
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option(help="Read the password from standard input.")
    ] = False,
) -> None:
    """Make an account. Without a password one is generated and printed, this once."""
    if "@" not in values.word(email, "an e-mail address"):
        raise typer.BadParameter(f"{email!a} is no e-mail address")
    given = read_secret("password", argument=None, variable=password_env, from_stdin=password_stdin)
    if given is not None and len(given.reveal()) < LEAST:
        raise Failed(f"a password has at least {LEAST} characters")
    password = given or Secret(secrets.token_urlsafe(18))
    admin = await admins.create(
        await run.store(),
        email=email,
        name=name and values.word(name),
        role=role.value,
        password_hash=hash_now(password.reveal()),
    )
    row = shown(admin)
    run.one(row if given else row | {"password": password.reveal()})
    if given is None and run.form == "table":
        note("keep the password now: it is shown this once")


async def list_admins(run: Run, *, search: Search = "", limit: Limit = 0) -> None:
    """List accounts, newest first."""
    rows = await listing(await run.store(), admins.ADMINS, search=search, limit=limit)
    run.rows(rows, COLUMNS)
