"""Bring a database's schema up or down with Alembic; imported only when there is work to do.

A whole upgrade is one transaction under a lock, so any number of processes may start at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from fastgw.errors import SchemaMismatch
from fastgw.storage import postgres, sqlite
from fastgw.storage.address import Address, parse

LOCK_KEY = 0x66617374_6777  # "fastgw": any number that nobody else locks on
LOCK_TIMEOUT_S = 60

Work = Callable[[sa.Connection], Any]


async def upgrade(url: str, revision: str = "head") -> None:
    """Bring the schema up to `revision`."""
    await _run(url, lambda connection: command.upgrade(_config(connection), revision))


async def downgrade(url: str, revision: str) -> None:
    """Bring the schema down to `revision`, such as `base` or `-1`."""
    await _run(url, lambda connection: command.downgrade(_config(connection), revision))


async def current(url: str) -> str | None:
    """Give the revision the schema has; None when there is none yet."""
    revision: str | None = await _run(
        url, lambda connection: MigrationContext.configure(connection).get_current_revision()
    )
    return revision


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


async def _run(url: str, work: Work) -> Any:
    # Alembic tells each step at INFO; the caller says what was done.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    address = parse(url)
    try:
        if address.path is not None:
            return await asyncio.to_thread(_run_sqlite, address.path, work)
        return await _run_postgres(address, work)
    except CommandError as error:
        raise SchemaMismatch(f"the schema cannot be changed: {error}") from error


async def _run_postgres(address: Address, work: Work) -> Any:
    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(address.url, timeout=postgres.CONNECT_TIMEOUT_S)

    def locked(connection: sa.Connection) -> Any:
        # Held until the transaction ends, also when this process is killed.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        return work(connection)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(locked)
    except (sa.exc.DBAPIError, OSError, asyncpg.PostgresError) as error:
        raise postgres.translate(_driver_error(error)) from error
    finally:
        await engine.dispose()


def _driver_error(error: Exception) -> Exception:
    """Give the driver's error inside SQLAlchemy's wrappings."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (OSError, asyncpg.PostgresError)):
        cause = cause.__cause__
    return cause or error


def _run_sqlite(path: Path, work: Work) -> Any:
    try:
        with sqlite_lock(path):
            sqlite.make_file(path)
            return _run_sqlite_alone(path, work)
    except (sqlite3.Error, OSError) as error:
        raise sqlite.translate(error) from error


def _run_sqlite_alone(path: Path, work: Work) -> Any:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=LOCK_TIMEOUT_S)) as raw:
        raw.execute("PRAGMA journal_mode = WAL")
        engine = sa.create_engine("sqlite://", creator=lambda: raw, poolclass=sa.pool.StaticPool)
        sa.event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        try:
            with engine.begin() as connection:
                return work(connection)
        except sa.exc.DBAPIError as error:
            raise error.orig or error from error
        finally:
            engine.dispose()


@contextmanager
def sqlite_lock(path: Path) -> Iterator[None]:
    """Keep other processes from preparing the same file.

    Needed beside SQLite's own lock: changing to WAL fails at once when another does the same.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = sqlite.open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
