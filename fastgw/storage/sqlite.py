"""The store on SQLite: WAL, one writer, a few readers, each connection in a thread of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import aiosqlite

from fastgw.errors import Conflict, GatewayError, InvalidRequest, StoreUnavailable
from fastgw.storage.store import (
    INSERTED_AT_ONCE,
    LOCK_PAUSE_S,
    LOCK_TIMEOUT_S,
    STATEMENT_TIMEOUT_S,
    Load,
    Row,
    Session,
    Store,
    Transaction,
    check_text,
)

READERS = 2
NAMES = tuple(str(number) for number in range(1, 100))
"""SQLite takes `$1` for a name, so arguments are bound by a dict of these."""
PROGRESS_STEPS = 20_000
"""Virtual machine steps between two looks at the clock, about 0.2 ms."""

UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
CONFLICTS = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
        sqlite3.SQLITE_CONSTRAINT_TRIGGER,
    }
)


def translate(error: Exception) -> Exception:
    """Give our error for one of the driver's; defects of ours stay what they are."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0)  # absent when the driver itself complains
        if code in CONFLICTS:
            return _conflict(code, str(error))
        if code & 0xFF == sqlite3.SQLITE_CONSTRAINT:
            return InvalidRequest(f"the database refuses the value: {error}")
        if code & 0xFF in UNAVAILABLE:
            return StoreUnavailable(f"the database cannot be asked: {error.sqlite_errorname}")
    if isinstance(error, (UnicodeEncodeError, OverflowError)):
        return InvalidRequest(f"the database cannot hold the value: {error}")
    return error


def _conflict(code: int, text: str) -> GatewayError:
    if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
        return Conflict("refers to an object that does not exist, or is still referred to")
    if code == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
        return Conflict(text)
    columns = text.rpartition(": ")[2]  # "UNIQUE constraint failed: providers.name"
    names = ", ".join(column.rpartition(".")[2] for column in columns.split(", "))
    return Conflict(f"this {names} is already taken", param=names)


class Connection:
    """One SQLite connection; statements run one after the other, each under a deadline."""

    def __init__(self, raw: aiosqlite.Connection) -> None:
        self.raw = raw
        self._deadline = 0.0

    @classmethod
    async def open(cls, path: Path, *, readonly: bool) -> Connection:
        """Open a connection with our settings."""
        # A connection that cannot be made leaves aiosqlite's thread talking to a loop that may be
        # closed by then: find out without a thread.
        sqlite3.connect(path).close()
        raw = await aiosqlite.connect(path, isolation_level=None)
        try:
            return await cls._set_up(raw, readonly=readonly)
        except BaseException:
            await raw.close()
            raise

    @classmethod
    async def _set_up(cls, raw: aiosqlite.Connection, *, readonly: bool) -> Connection:
        self = cls(raw)
        raw.row_factory = _as_dict  # type: ignore[assignment] # any callable will do
        await raw.execute_fetchall("PRAGMA busy_timeout = 5000")
        await raw.execute_fetchall("PRAGMA synchronous = NORMAL")
        await raw.execute_fetchall("PRAGMA foreign_keys = ON")
        await raw.execute_fetchall("PRAGMA temp_store = MEMORY")
        if readonly:
            await raw.execute_fetchall("PRAGMA query_only = ON")
        await raw.set_progress_handler(self._overdue, PROGRESS_STEPS)
        return self

    def _overdue(self) -> bool:
        return time.monotonic() > self._deadline

    async def fetch(self, sql: str, args: tuple[object, ...]) -> list[Row]:
        """Run one statement and give its rows."""
        check_text(args)
        self._deadline = time.monotonic() + STATEMENT_TIMEOUT_S
        try:
            rows: Iterable[Any] = await self.raw.execute_fetchall(
                sql.removesuffix(" FOR UPDATE"),  # one writer: the transaction holds the lock
                dict(zip(NAMES, args, strict=False)),
            )
        except Exception as error:
            raise translate(error) from error
        return [*rows]

    async def execute(self, sql: str, args: tuple[object, ...]) -> int:
        """Run one statement and give how many rows it wrote."""
        check_text(args)
        self._deadline = time.monotonic() + STATEMENT_TIMEOUT_S
        try:
            cursor = await self.raw.execute(sql, dict(zip(NAMES, args, strict=False)))
            written = cursor.rowcount
            await cursor.close()
        except Exception as error:
            raise translate(error) from error
        return max(written, 0)

    async def many(self, sql: str, rows: Iterable[Any]) -> None:
        """Run one statement for each row of arguments."""
        self._deadline = time.monotonic() + STATEMENT_TIMEOUT_S
        try:
            cursor = await self.raw.executemany(sql, rows)
            await cursor.close()
        except Exception as error:
            raise translate(error) from error

    async def begin(self) -> None:
        """Start to write; waits for writers of other processes."""
        await self.execute("BEGIN IMMEDIATE", ())

    async def rollback(self) -> None:
        """Undo the open transaction, if one is open.

        Whoever was cancelled comes here too. The statement it left behind runs first and the
        rollback after it, even when we are cancelled once more: the thread keeps the order.
        """
        self._deadline = time.monotonic() + STATEMENT_TIMEOUT_S
        try:
            await self.raw.rollback()
        except Exception as error:
            raise translate(error) from error

    async def close(self) -> None:
        """Close the connection and end its thread."""
        await self.raw.close()


class SQLiteTransaction(Transaction):
    """The open transaction of the one writer."""

    engine = "sqlite"

    def __init__(self, writer: Connection) -> None:
        self._writer = writer

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """Give all rows."""
        return await self._writer.fetch(sql, args)

    async def execute(self, sql: str, *args: object) -> int:
        """Run a statement and give how many rows it wrote."""
        return await self._writer.execute(sql, args)

    async def executemany(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Run a statement once for each row of arguments."""
        for row in rows:
            check_text(row)
        await self._writer.many(sql, [dict(zip(NAMES, row, strict=False)) for row in rows])

    async def load(self, into: Load, rows: list[tuple[object, ...]]) -> None:
        """Write many new rows."""
        whole = len(rows) - len(rows) % INSERTED_AT_ONCE
        some = [
            tuple(chain.from_iterable(rows[at : at + INSERTED_AT_ONCE]))
            for at in range(0, whole, INSERTED_AT_ONCE)
        ]
        await self._writer.many(into.insert_some, some)
        await self._writer.many(into.insert, rows[whole:])


class SQLiteStore(Store):
    """A database file. Reads go to reading connections, writes wait for the one writer."""

    engine = "sqlite"

    def __init__(self, path: Path, writer: Connection) -> None:
        self._path = path
        self._writer = writer
        self._turn = asyncio.Lock()
        self._idle: list[Connection] = []
        self._reading = asyncio.Semaphore(READERS)
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> SQLiteStore:
        """Open the file; it exists and has its schema."""
        try:
            return cls(path, await Connection.open(path, readonly=False))
        except Exception as error:
            raise translate(error) from error

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """Give all rows, on a reading connection unless the statement writes."""
        if not sql.startswith(("SELECT", "WITH")):
            async with self._writing() as writer:
                return await writer.fetch(sql, args)
        async with self._reading:
            if self._closed:
                raise StoreUnavailable("the database is closed")
            reader = self._idle.pop() if self._idle else await self._open_reader()
            try:
                return await reader.fetch(sql, args)
            finally:
                self._idle.append(reader)

    async def execute(self, sql: str, *args: object) -> int:
        """Run a statement and give how many rows it wrote."""
        async with self._writing() as writer:
            return await writer.execute(sql, args)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Open a transaction; it has the writer for itself."""
        async with self._writing() as writer:
            try:
                await writer.begin()
                yield SQLiteTransaction(writer)
                await writer.execute("COMMIT", ())
            except BaseException:
                await writer.rollback()
                raise

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Session]:
        """Open a transaction when no other process is in one like it."""
        lock = open_lock(self._path)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while not _locked(lock):
                if time.monotonic() > deadline:
                    raise StoreUnavailable("another process holds the database")
                await asyncio.sleep(LOCK_PAUSE_S)
            async with self.transaction() as tx:
                yield tx
        finally:
            os.close(lock)

    async def close(self) -> None:
        """Close all connections; waits for statements that run."""
        if self._closed:
            return
        self._closed = True
        async with self._turn:
            await self._writer.close()
        for _ in range(READERS):
            await self._reading.acquire()
        for reader in self._idle:
            await reader.close()
        for _ in range(READERS):
            self._reading.release()

    async def _open_reader(self) -> Connection:
        try:
            return await Connection.open(self._path, readonly=True)
        except Exception as error:
            raise translate(error) from error

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[Connection]:
        """Wait for our turn to write; a writer that never ends is an error, not a hang."""
        try:
            async with asyncio.timeout(2 * STATEMENT_TIMEOUT_S):
                await self._turn.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("the database is busy writing") from error
        try:
            if self._closed:
                raise StoreUnavailable("the database is closed")
            yield self._writer
        finally:
            self._turn.release()


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def open_lock(path: Path) -> int:
    """Open the file beside the database that processes lock while they prepare it."""
    return os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_file(path: Path) -> None:
    """Make the folder and an empty file that only we can read; the rest of it inherits."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
