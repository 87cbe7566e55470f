"""What a database looks like to everybody else: a few verbs and a transaction, whatever the engine.

Placeholders are `$1`, `$2`, ...; times are epoch milliseconds, booleans 0/1, JSON is text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

from fastgw.errors import InvalidRequest

Engine = Literal["sqlite", "postgresql"]
Row = Mapping[str, Any]

STATEMENT_TIMEOUT_S = 5.0
"""No statement runs longer; the caller sees StoreUnavailable."""


LOCK_TIMEOUT_S = 60.0
"""Longest wait for another process that prepares the same database."""
LOCK_PAUSE_S = 0.05


INSERTED_AT_ONCE = 10
"""Rows of one INSERT on SQLite: what it does once a statement costs as much as half a row."""


class Load:
    """Where many rows go at once: by COPY on PostgreSQL, by prepared INSERTs on SQLite."""

    __slots__ = ("columns", "insert", "insert_some", "table")

    def __init__(self, table: str, columns: tuple[str, ...]) -> None:
        self.table = table
        self.columns = columns
        row = f"({', '.join('?' * len(columns))})"
        self.insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES {row}"
        self.insert_some = self.insert + f", {row}" * (INSERTED_AT_ONCE - 1)


class Session(ABC):
    """Something SQL can be sent to: a store or an open transaction."""

    engine: Engine

    @abstractmethod
    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """Give all rows."""

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        """Give the first row."""
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *args: object) -> Any:
        """Give the first column of the first row; None when there is no row."""
        row = await self.fetchrow(sql, *args)
        return None if row is None else next(iter(row.values()))

    @abstractmethod
    async def execute(self, sql: str, *args: object) -> int:
        """Run a statement and give how many rows it wrote."""

    @abstractmethod
    async def executemany(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Run a statement once for each row of arguments, all or nothing."""

    @abstractmethod
    async def load(self, into: Load, rows: list[tuple[object, ...]]) -> None:
        """Write many new rows of texts, whole numbers and None, all or nothing."""

    @abstractmethod
    def transaction(self) -> AbstractAsyncContextManager[Session]:
        """Open a transaction; inside one, join it.

        Send everything that belongs to it to the session it gives: SQLite has one writer, and
        whoever writes to the store meanwhile waits.
        """


class Transaction(Session):
    """An open transaction."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Join this one."""
        yield self


class Store(Session):
    """A database, shared by everything in one process.

    Errors are ours: StoreUnavailable when it cannot be asked, Conflict when a constraint objects,
    InvalidRequest for values it cannot hold.
    """

    async def ping(self) -> None:
        """Ask the database something; StoreUnavailable when it does not answer."""
        await self.fetchval("SELECT 1")

    async def executemany(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Run a statement once for each row of arguments, all or nothing."""
        async with self.transaction() as tx:
            await tx.executemany(sql, rows)

    async def load(self, into: Load, rows: list[tuple[object, ...]]) -> None:
        """Write many new rows of texts, whole numbers and None, all or nothing."""
        async with self.transaction() as tx:
            await tx.load(into, rows)

    @abstractmethod
    def alone(self) -> AbstractAsyncContextManager[Session]:
        """Open a transaction, after every other process that asked for this has ended its own.

        StoreUnavailable when the turn does not come within LOCK_TIMEOUT_S.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close all connections; waits for statements that run."""


def check_text(args: Iterable[object]) -> None:
    """Refuse NUL, which PostgreSQL cannot hold, so that both engines hold the same."""
    for value in args:
        if type(value) is str and "\0" in value:
            raise InvalidRequest("text must not contain the NUL character")
