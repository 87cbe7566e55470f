"""Admins: the people who manage the gateway, with argon2id password hashes."""

from __future__ import annotations

from typing import Any

import msgspec

from fastgw.domain import Secret, now_ms
from fastgw.storage.sql.noun import Noun, Stored
from fastgw.storage.store import Session

ROLES = ("viewer", "editor", "admin")


class Admin(Stored, kw_only=True):
    """An admin. The password hash has no field here, so it cannot be returned.

    `token_version` grows with every change of password or role and ends all tokens.
    """

    email: str
    name: str = ""
    role: str
    token_version: int = 1
    last_login_at: int | None = None
    enabled: bool = True
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


ADMINS = Noun(
    "admins",
    Admin,
    "admin",
    named="email",
    fixed=("token_version", "last_login_at"),
    hidden=("password_hash",),
)

BY_EMAIL = "SELECT * FROM admins WHERE email = $1 AND deleted_at IS NULL"
TOUCH_LOGIN = "UPDATE admins SET last_login_at = $2 WHERE id = $1"
SET_PASSWORD = """UPDATE admins SET password_hash = $2, token_version = token_version + 1
WHERE id = $1 AND deleted_at IS NULL"""
REHASH = "UPDATE admins SET password_hash = $3 WHERE id = $1 AND password_hash = $2"
END_TOKENS = "UPDATE admins SET token_version = token_version + 1 WHERE id = $1"

get, find = ADMINS.get, ADMINS.find
list = ADMINS.page  # noqa: A001 - read as `admins.list(...)`


async def create(db: Session, *, password_hash: str, email: str, **values: Any) -> Admin:
    """Store an admin; addresses that differ in case alone are one."""
    admin = ADMINS.make(**values, email=email.strip().lower())
    await ADMINS.insert(db, admin, password_hash)
    return admin


async def find_by_email(db: Session, email: str) -> tuple[Admin, Secret] | None:
    """Give the admin and the password hash to check; None when nobody has this address."""
    row = await db.fetchrow(BY_EMAIL, email.strip().lower())
    return None if row is None else (ADMINS.read(row), Secret(row["password_hash"]))


async def touch_login(db: Session, admin_id: str) -> None:
    """Note that the admin logged in now."""
    await db.execute(TOUCH_LOGIN, admin_id, now_ms())


async def set_password(db: Session, admin_id: str, password_hash: str) -> None:
    """Set another password, which ends all tokens."""
    if not await db.execute(SET_PASSWORD, admin_id, password_hash):
        raise ADMINS.absent(admin_id)


async def rehash(db: Session, admin_id: str, old_hash: str, new_hash: str) -> None:
    """Keep the same password as another hash, unless it has been changed meanwhile."""
    await db.execute(REHASH, admin_id, old_hash, new_hash)


async def update(db: Session, admin_id: str, changes: dict[str, Any]) -> Admin:
    """Change the named fields; a change of role or of `enabled` ends all tokens."""
    async with db.transaction() as tx:
        admin = await ADMINS.update(tx, admin_id, changes)
        if changes.keys() & {"role", "enabled"}:
            await tx.execute(END_TOKENS, admin_id)
            admin = msgspec.structs.replace(admin, token_version=admin.token_version + 1)
        return admin


async def hide(db: Session, admin_id: str) -> None:
    """Delete as users see it, and end all tokens."""
    async with db.transaction() as tx:
        await ADMINS.hide(tx, admin_id)
        await tx.execute(END_TOKENS, admin_id)
