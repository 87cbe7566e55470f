"""What a start does once, before there are workers: secrets, schema, seeds, the first account."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from fastgw import catalog
from fastgw.admin.passwords import LEAST, hash_now
from fastgw.config import Settings
from fastgw.domain import Secret
from fastgw.errors import CannotStart, InvalidRequest, StoreUnavailable
from fastgw.events.journal import Place
from fastgw.server import demo as demo_
from fastgw.server.secrets import open_secrets
from fastgw.server.snapshot import read_directory
from fastgw.storage import Session, Store, open_store, seed
from fastgw.storage.sql import admins, usage

_FIRST_ADMIN = "admin@localhost"


async def prepare(
    settings: Settings, say: Callable[[str], None], *, demo: bool = False
) -> Secret | None:
    """Make everything a worker relies on; gives the demo's key when there is to be one.

    Idempotent, and any number of processes may do it at once: they take turns. CannotStart says
    what is missing.
    """
    try:
        opened = open_secrets(settings)
        opened.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if settings.journal.mode == "file":
            _check_journal(Path(settings.journal.dir))
        store = await _open(settings)
    except OSError as exc:
        raise CannotStart(f"cannot use {exc.filename or 'a file'}: {exc.strerror}") from exc
    try:
        async with store.alone() as tx:
            await usage.ensure_partitions(tx)
            await seed.catalogue(tx, catalog.load().models.values())
            announcement = await _make_admin(settings, tx)
            key = await demo_.create_key(tx) if demo else None
        # What no worker could serve is found out now: the wrong master key, an unreadable row.
        await read_directory(settings, store, opened.vault)
    finally:
        await store.close()
    if announcement is not None:
        say(announcement)  # only now: before the commit there is no such account
    return key


def _check_journal(folder: Path) -> None:
    """Make the folder if need be, and a file in it: OSError now, not when money is at stake."""
    Place.make(folder)
    with tempfile.TemporaryFile(dir=folder):
        pass


async def _open(settings: Settings) -> Store:
    url = settings.database.url.reveal()
    migrate = settings.database.auto_migrate or url.startswith("sqlite")
    try:
        return await open_store(url, migrate=migrate)
    except (StoreUnavailable, InvalidRequest) as exc:
        where = urlsplit(url)
        shown = f"{where.scheme}://{where.netloc.rpartition('@')[2]}{where.path}"
        raise CannotStart(f"cannot open {shown}: {exc.message}") from exc


async def _make_admin(settings: Settings, db: Session) -> str | None:
    """Make the configured account if it is missing, or one at the very first start.

    Gives what its owner has to be told, which is a generated password.
    """
    email = settings.admin.email
    if email is None:
        if (await admins.list(db, limit=1)).items:
            return None
        email = _FIRST_ADMIN
    if await admins.find_by_email(db, email) is not None:
        return None
    password = settings.admin.password
    if password is not None and len(password.reveal()) < LEAST:
        raise CannotStart(f"admin.password must have at least {LEAST} characters")
    generated = password or Secret(secrets.token_urlsafe(18))
    await admins.create(db, email=email, password_hash=hash_now(generated.reveal()), role="admin")
    if password is not None:
        return None
    return f"Admin account {email}, password (shown once): {generated.reveal()}"
