"""The database: one SQL text for SQLite and PostgreSQL, a repository for each noun in `sql/`.

Touches sockets and files of the database and nothing else. `open_store` is the way in.
"""

from __future__ import annotations

from fastgw.errors import Conflict, SchemaMismatch, StoreUnavailable
from fastgw.storage.address import Address, parse
from fastgw.storage.postgres import PostgresStore
from fastgw.storage.sqlite import SQLiteStore
from fastgw.storage.store import Load, Row, Session, Store

__all__ = [
    "HEAD",
    "Conflict",
    "Load",
    "Row",
    "Session",
    "Store",
    "StoreUnavailable",
    "open_store",
]

HEAD = "0002"
"""The schema revision this version works with."""


async def open_store(url: str, *, migrate: bool) -> Store:
    """Open the database at `url`; with `migrate` its schema is made or brought up to date first.

    Raises StoreUnavailable when it cannot be reached and SchemaMismatch when the schema is not
    ours and `migrate` is off, or is newer than we are.
    """
    address = parse(url)
    found = None
    if address.path is None or address.path.exists():
        store, found = await _connect(address)
        if found == HEAD:
            return store
        await store.close()
    if not migrate:
        state = f"is at revision {found}" if found else "has no schema yet"
        raise SchemaMismatch(f"the database {state}, not {HEAD}; run `fastgw db upgrade`")
    # Alembic and SQLAlchemy are half of our start-up time and memory: only when there is work.
    from fastgw.storage.migrate import upgrade  # noqa: PLC0415

    await upgrade(url)
    store, _ = await _connect(address)
    return store


async def _connect(address: Address) -> tuple[Store, str | None]:
    """Open the store and read its schema's revision."""
    store: Store
    if address.path is None:
        store = PostgresStore(address.url)
    else:
        store = await SQLiteStore.open(address.path)
    try:
        return store, await _revision(store)
    except BaseException:
        await store.close()
        raise


async def _revision(store: Store) -> str | None:
    if store.engine == "postgresql":
        exists = await store.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL")
    else:
        exists = await store.fetchval(
            "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"
        )
    if not exists:
        return None
    found: str | None = await store.fetchval("SELECT version_num FROM alembic_version")
    return found
