"""The store on PostgreSQL: a few held connections of asyncpg with their statements prepared.

asyncpg's own pool is not used: it costs as much CPU as a query (about 65 us) for a session reset
that we do not need, since nobody but this file touches the connections.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from asyncpg.transaction import Transaction as Transact

from fastgw._ext import rows as rows_
from fastgw.errors import Conflict, InvalidRequest, StoreUnavailable
from fastgw.storage.store import (
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

CONNECTIONS = 8
CONNECT_TIMEOUT_S = 5.0
CLIENT_TIMEOUT_S = STATEMENT_TIMEOUT_S + 1
"""The server ends a statement first; this one is for a server that says nothing any more."""

ALONE_KEY = 0x66617374_6178
"""Advisory lock of `alone`; migrations have another."""

SETTINGS = {
    "application_name": "fastgw",
    "statement_timeout": str(int(STATEMENT_TIMEOUT_S * 1000)),
    # A stopped process must not keep others from changing the configuration.
    "idle_in_transaction_session_timeout": "30000",
    "jit": "off",
    # Else each CREATE ... IF NOT EXISTS is answered by a notice that somebody has to read.
    "client_min_messages": "warning",
}

UNAVAILABLE = (
    OSError,  # includes TimeoutError and refused connections
    asyncpg.InterfaceError,  # the connection is closed
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutdown, crash, statement time-out
    asyncpg.InsufficientResourcesError,  # connections, disk, memory
    asyncpg.InvalidAuthorizationSpecificationError,  # the password was changed under us
    asyncpg.InvalidCatalogNameError,  # the database is gone
    asyncpg.ReadOnlySQLTransactionError,  # we reached a standby
    asyncpg.TransactionRollbackError,  # deadlock, serialisation
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.PostgresIOError,
    asyncpg.InternalClientError,  # the connection broke in the middle of an answer
)
REFUSED = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    ValueError,  # asyncpg checks arguments itself as well
    OverflowError,
)
STALE_PLAN = (
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
    asyncpg.ProtocolError,  # "the number of columns is different from what was described"
)
"""A migration changed a table under a prepared statement."""

_DETAIL_COLUMNS = re.compile(r"Key \(([^)]*)\)")


def translate(error: Exception) -> Exception:
    """Give our error for one of the driver's; defects of ours stay what they are."""
    ours: Exception = error
    if isinstance(error, asyncpg.UniqueViolationError):
        match = _DETAIL_COLUMNS.match(error.detail or "")
        names = match[1] if match else "value"
        ours = Conflict(f"this {names} is already taken", param=names)
    elif isinstance(error, asyncpg.ForeignKeyViolationError):
        ours = Conflict("refers to an object that does not exist, or is still referred to")
    elif isinstance(error, asyncpg.RaiseError):
        ours = Conflict(error.args[0])
    elif isinstance(error, REFUSED):
        # str() would add DETAIL, which holds the whole row with its hash or ciphertext.
        ours = InvalidRequest(f"the database refuses the value: {error.args[0]}")
    elif isinstance(error, (*STALE_PLAN, *UNAVAILABLE)):
        ours = StoreUnavailable(f"the database cannot be asked: {type(error).__name__}")
    return ours


class Held:
    """One connection with the statements prepared on it."""

    __slots__ = ("raw", "statements")

    def __init__(self, raw: asyncpg.Connection) -> None:
        self.raw = raw
        self.statements: dict[str, PreparedStatement[asyncpg.Record]] = {}

    async def statement(self, sql: str) -> PreparedStatement[asyncpg.Record]:
        """Give the prepared statement for a text; our texts are a fixed set."""
        found = self.statements.get(sql)
        if found is None:
            found = self.statements[sql] = await self.raw.prepare(sql)
        return found

    async def fetch(self, sql: str, args: tuple[object, ...]) -> list[Row]:
        """Run one statement and give its rows."""
        check_text(args)
        try:
            try:
                rows = await (await self.statement(sql)).fetch(*args)
            except STALE_PLAN:
                self.statements.clear()
                # A write may have been done, and a transaction is over: the caller tries again.
                if self.raw.is_in_transaction() or not sql.startswith(("SELECT", "WITH")):
                    raise
                await self.raw.reload_schema_state()
                rows = await (await self.statement(sql)).fetch(*args)
        except Exception as error:
            raise translate(error) from error
        return cast(list[Row], rows)

    async def execute(self, sql: str, args: tuple[object, ...]) -> int:
        """Run one statement and give how many rows it wrote."""
        if not args and not sql.startswith(("INSERT", "UPDATE", "DELETE")):
            try:
                await self.raw.execute(sql)
            except Exception as error:
                raise translate(error) from error
            return 0
        await self.fetch(sql, args)
        status: str = (await self.statement(sql)).get_statusmsg()
        return int(status.rpartition(" ")[2])


class PostgresTransaction(Transaction):
    """An open transaction on one connection."""

    engine = "postgresql"

    def __init__(self, held: Held) -> None:
        self._held = held

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """Give all rows."""
        return await self._held.fetch(sql, args)

    async def execute(self, sql: str, *args: object) -> int:
        """Run a statement and give how many rows it wrote."""
        return await self._held.execute(sql, args)

    async def executemany(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Run a statement once for each row of arguments."""
        for row in rows:
            check_text(row)
        try:
            await self._held.raw.executemany(sql, rows)
        except Exception as error:
            raise translate(error) from error

    async def load(self, into: Load, rows: list[tuple[object, ...]]) -> None:
        """Write many new rows by COPY, encoded at once: asyncpg takes 0.1 us for each value."""
        try:
            # A view, since bytes would be taken for the name of a file.
            encoded = memoryview(rows_.copy_binary(rows))
            await self._held.raw.copy_to_table(
                into.table, columns=into.columns, source=encoded, format="binary"
            )
        except Exception as error:
            raise translate(error) from error


class PostgresStore(Store):
    """A PostgreSQL database; connections are made when they are needed and made again when lost."""

    engine = "postgresql"

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[Held] = []
        self._free = asyncio.Semaphore(CONNECTIONS)
        self._closed = False

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """Give all rows."""
        held = await self._take()
        try:
            return await held.fetch(sql, args)
        finally:
            self._give(held)

    async def execute(self, sql: str, *args: object) -> int:
        """Run a statement and give how many rows it wrote."""
        held = await self._take()
        try:
            return await held.execute(sql, args)
        finally:
            self._give(held)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Open a transaction on a connection of its own."""
        held = await self._take()
        try:
            transaction = held.raw.transaction()
            await _step(held, transaction.start())
            try:
                yield PostgresTransaction(held)
            except BaseException:
                await _undo(held, transaction)
                raise
            await _step(held, transaction.commit())
        finally:
            self._give(held)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Session]:
        """Open a transaction when no other process is in one like it."""
        async with self.transaction() as tx:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            # Asked again and again, since no statement may wait for longer than its time-out.
            while not await tx.fetchval("SELECT pg_try_advisory_xact_lock($1)", ALONE_KEY):
                if time.monotonic() > deadline:
                    raise StoreUnavailable("another process holds the database")
                await asyncio.sleep(LOCK_PAUSE_S)
            yield tx

    async def close(self) -> None:
        """Close all connections; waits for statements that run."""
        self._closed = True
        for _ in range(CONNECTIONS):
            await self._free.acquire()
        while self._idle:
            raw = self._idle.pop().raw
            try:
                await raw.close(timeout=CONNECT_TIMEOUT_S)
            except UNAVAILABLE:  # the server does not listen any more
                raw.terminate()
        for _ in range(CONNECTIONS):
            self._free.release()

    async def connect(self) -> Held:
        """Make one connection."""
        try:
            raw = await asyncpg.connect(
                self._url,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=CLIENT_TIMEOUT_S,
                server_settings=SETTINGS,
            )
        except asyncpg.ClientConfigurationError as error:  # no waiting helps
            raise InvalidRequest(f"the database URL cannot be used: {error}") from error
        except Exception as error:
            raise translate(error) from error
        return Held(raw)

    async def _take(self) -> Held:
        """Take a connection: the one used last, or a new one; `_give` it back."""
        if self._free.locked():
            try:
                async with asyncio.timeout(STATEMENT_TIMEOUT_S):
                    await self._free.acquire()
            except TimeoutError as error:
                raise StoreUnavailable("all database connections are busy") from error
        else:
            await self._free.acquire()
        if self._closed:
            self._free.release()
            raise StoreUnavailable("the database is closed")
        while self._idle:
            held = self._idle.pop()
            if not held.raw.is_closed():
                return held
        try:
            return await self.connect()
        except BaseException:
            self._free.release()
            raise

    def _give(self, held: Held) -> None:
        if not held.raw.is_closed():
            self._idle.append(held)
        self._free.release()


async def _undo(held: Held, transaction: Transact) -> None:
    """Roll back; the error that led here is the one to tell, so a second one is not raised."""
    if held.raw.is_closed():
        return
    try:
        await transaction.rollback()
    except UNAVAILABLE:
        held.raw.terminate()
    except BaseException:
        held.raw.terminate()
        raise


async def _step(held: Held, step: Awaitable[None]) -> None:
    """Begin or end a transaction.

    A connection whose step did not succeed is in an unknown state and is dropped; the server
    undoes what was not committed.
    """
    try:
        await step
    except BaseException as error:
        held.raw.terminate()
        if isinstance(error, Exception):
            raise translate(error) from error
        raise
