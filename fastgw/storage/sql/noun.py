"""The verbs every configured object has: create, get, find, page, update, hide, purge.

A noun's columns are the fields of its record, so its texts are made here, once, at import. No value
and nothing a caller sent ever becomes part of a text.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, get_origin, get_type_hints

import msgspec

from fastgw.domain import now_ms
from fastgw.errors import Conflict, InvalidRequest, NotFound
from fastgw.storage.store import Row, Session

MAX_PAGE = 500
MAX_QUERY = 100
LATEST = (2**63 - 1, "")
READ_ONLY = frozenset({"id", "created_at", "updated_at", "deleted_at"})


class Stored(msgspec.Struct, kw_only=True):
    """Base of stored objects. Times are epoch milliseconds."""

    id: str
    created_at: int = 0
    updated_at: int = 0


R = TypeVar("R", bound=Stored)
T = TypeVar("T")


class Page(msgspec.Struct, Generic[T]):
    """One page of a listing; `cursor` asks for the next, None at the end."""

    items: list[T]
    cursor: str | None


def new_id(prefix: str) -> str:
    """Make an id that nobody can guess."""
    return f"{prefix}_{secrets.token_hex(12)}"


def to_json(value: Any) -> str:
    """Write JSON with sorted keys, so that equal values are equal texts."""
    return msgspec.json.encode(value, order="deterministic").decode()


def like(text: str) -> str:
    """Give a LIKE pattern, escaped by backslashes, that finds `text` anywhere; "" finds all."""
    if len(text) > MAX_QUERY:
        raise InvalidRequest(f"q is longer than {MAX_QUERY} characters", param="q")
    text = text.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{text}%" if text else ""


def read_cursor(cursor: str | None) -> tuple[int, str]:
    """Read where the last page ended."""
    if not cursor:
        return LATEST
    try:
        created_at, _, object_id = base64.urlsafe_b64decode(cursor).decode().partition(":")
        return int(created_at), object_id
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest("cursor is not one of ours", param="cursor") from error


def write_cursor(created_at: int, object_id: str) -> str:
    """Write where a page ended."""
    return base64.urlsafe_b64encode(f"{created_at}:{object_id}".encode()).decode()


def page_size(limit: int) -> int:
    """Check how many items are asked for."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit must be between 1 and {MAX_PAGE}", param="limit")
    return limit


class Noun(Generic[R]):
    """One table and its record."""

    def __init__(
        self,
        table: str,
        record: type[R],
        prefix: str,
        *,
        named: str = "name",
        fixed: Sequence[str] = (),
        hidden: Sequence[str] = (),
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """Make the texts.

        `fixed` fields are never updated; `hidden` columns have no field, their values are given to
        `insert`; `columns` maps fields to columns of another name.
        """
        self.table = table
        self.record = record
        self.prefix = prefix
        hints = get_type_hints(record)
        renamed = columns or {}
        self.columns = {name: renamed.get(name, name) for name in record.__struct_fields__}
        self._json = {
            name: msgspec.json.Decoder(hint)
            for name, hint in hints.items()
            if get_origin(hint) in (dict, tuple, list)
        }
        self._flags = frozenset(name for name, hint in hints.items() if hint is bool)
        self.writable = tuple(name for name in self.columns if name not in {*READ_ONLY, *fixed})

        self.fields_inserted = (*self.writable, *fixed, "id", "created_at", "updated_at")
        self.inserted = (*(self.columns[name] for name in self.fields_inserted), *hidden)
        names = ", ".join(self.inserted)
        marks = ", ".join(f"${n}" for n in range(1, len(self.inserted) + 1))
        sets = ", ".join(f"{self.columns[x]} = ${n}" for n, x in enumerate(self.writable, 2))
        alive = "deleted_at IS NULL" if "deleted_at" in self.columns else "true"
        self.insert_sql = f"INSERT INTO {table} ({names}) VALUES ({marks})"
        self.get_sql = f"SELECT * FROM {table} WHERE id = $1 AND {alive}"
        self.find_sql = (
            f"SELECT * FROM {table} WHERE (id = $1 OR {named} = $1) AND {alive}"
            " ORDER BY created_at DESC, id DESC LIMIT 3"
        )
        self.list_sql = (
            f"SELECT * FROM {table} WHERE {alive} AND (created_at, id) < ($1, $2)"
            f" AND ($3 = '' OR lower({named}) LIKE $3 ESCAPE '\\')"
            " ORDER BY created_at DESC, id DESC LIMIT $4"
        )
        self.update_sql = f"UPDATE {table} SET {sets} WHERE id = $1"
        self.hide_sql = f"UPDATE {table} SET deleted_at = $2 WHERE id = $1 AND {alive}"
        self.purge_sql = f"DELETE FROM {table} WHERE id = $1"
        self.lock_sql = self.get_sql + " FOR UPDATE"

    def read(self, row: Row) -> R:
        """Give the record of a row."""
        values: dict[str, Any] = {}
        for name, column in self.columns.items():
            value = row[column]
            if name in self._json:
                value = self._json[name].decode(value)
            elif name in self._flags:
                value = bool(value)
            values[name] = value
        return self.record(**values)

    def write(self, record: R, names: Sequence[str]) -> list[object]:
        """Give the values of a record as the database holds them."""
        values: list[object] = []
        for name in names:
            value = getattr(record, name)
            if name in self._json:
                value = to_json(value)
            elif name in self._flags:
                value = int(value)
            values.append(value)
        return values

    def checked(self, record: R) -> R:
        """Refuse values of a wrong type, and fill in what a new object needs."""
        try:
            return msgspec.convert(msgspec.structs.asdict(record), self.record)
        except msgspec.ValidationError as error:
            raise InvalidRequest(str(error)) from error

    def make(self, **values: Any) -> R:
        """Make a new record with an id and the time."""
        now = now_ms()
        fresh = {"id": new_id(self.prefix), "created_at": now, "updated_at": now}
        try:
            return msgspec.convert({**fresh, **values}, self.record)
        except msgspec.ValidationError as error:
            raise InvalidRequest(str(error)) from error

    async def create(self, db: Session, **values: Any) -> R:
        """Store a new object; Conflict when its name is taken."""
        record = self.make(**values)
        await self.insert(db, record)
        return record

    async def insert(self, db: Session, record: R, *hidden: object) -> None:
        """Store a record that `make` made."""
        await db.execute(self.insert_sql, *self.write(record, self.fields_inserted), *hidden)

    async def get(self, db: Session, object_id: str) -> R:
        """Give one object by its id; NotFound."""
        row = await db.fetchrow(self.get_sql, object_id)
        if row is None:
            raise self.absent(object_id)
        return self.read(row)

    async def find(self, db: Session, id_or_name: str) -> R:
        """Give one object by its id or its name; NotFound, Conflict when the name is ambiguous."""
        found = [self.read(row) for row in await db.fetch(self.find_sql, id_or_name)]
        exact = [record for record in found if record.id == id_or_name] or found
        if not exact:
            raise self.absent(id_or_name)
        if len(exact) > 1:
            raise Conflict(f"several have the name {id_or_name!r}; use the id")
        return exact[0]

    async def page(
        self, db: Session, *, q: str = "", limit: int = 50, cursor: str | None = None
    ) -> Page[R]:
        """Give a page of objects, newest first; `q` is a part of the name."""
        rows = await db.fetch(self.list_sql, *read_cursor(cursor), like(q), page_size(limit) + 1)
        items = [self.read(row) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(items, write_cursor(items[-1].created_at, items[-1].id) if more else None)

    async def update(self, db: Session, object_id: str, changes: Mapping[str, Any]) -> R:
        """Change the named fields; InvalidRequest for a field that does not exist."""
        for name in changes:
            if name not in self.writable:
                raise InvalidRequest(f"{name} cannot be changed", param=name)
        async with db.transaction() as tx:
            row = await tx.fetchrow(self.lock_sql, object_id)
            if row is None:
                raise self.absent(object_id)
            record = self.checked(msgspec.structs.replace(self.read(row), **changes))
            await tx.execute(self.update_sql, object_id, *self.write(record, self.writable))
            return await self.get(tx, object_id)

    async def hide(self, db: Session, object_id: str) -> None:
        """Delete as users see it; the row stays for reports."""
        if not await db.execute(self.hide_sql, object_id, now_ms()):
            raise self.absent(object_id)

    async def purge(self, db: Session, object_id: str) -> None:
        """Erase the row; Conflict while something refers to it."""
        if not await db.execute(self.purge_sql, object_id):
            raise self.absent(object_id)

    def absent(self, what: str) -> NotFound:
        """Make the error for an object that is not there."""
        return NotFound(f"no {self.prefix} {what!r}")
