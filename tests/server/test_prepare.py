"""The first start makes all that is needed, once, however many processes begin at the same time."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastgw.config import Settings
from fastgw.domain import Secret
from fastgw.errors import CannotStart, SchemaMismatch, VaultError
from fastgw.server.prepare import prepare
from fastgw.storage import open_store
from fastgw.storage.crypto import Vault
from fastgw.storage.sql import admins, providers
from tests.processes import ROOT
from tests.server.preparing import MODELS

SCRIPT = Path(__file__).with_name("preparing.py")
pytestmark = pytest.mark.usefixtures("small_catalogue")


def settings_of(url: str, folder: Path, **sections: object) -> Settings:
    return Settings.model_validate(
        {"database": {"url": url}, "journal": {"dir": str(folder / "data" / "journal")}} | sections
    )


async def count(store, table: str) -> int:
    return await store.fetchval(f"SELECT count(*) FROM {table}")


async def test_four_processes_start_at_once_on_an_empty_database(empty_pg_url, tmp_path):
    """Schema, models and the first account are made once; one process tells the password."""
    urls = [f"sqlite:///{tmp_path}/new/folder/fastgw.db", empty_pg_url]
    folders = [tmp_path / "sqlite", tmp_path / "postgresql"]
    settings = [settings_of(*each) for each in zip(urls, folders, strict=True)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=b"\n".join(each.to_json() for each in settings),
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    told = done.stdout.decode().splitlines()
    passwords = [re.fullmatch(r"Admin account admin@localhost, .*: (\S+)", line) for line in told]
    assert len(passwords) == 2
    assert all(found and len(found[1]) >= 24 for found in passwords)
    for url, folder in zip(urls, folders, strict=True):
        store = await open_store(url, migrate=False)
        try:
            assert await count(store, "models") == MODELS
            assert await count(store, "admins") == 1
        finally:
            await store.close()
        modes = {path.name: path.stat().st_mode & 0o777 for path in (folder / "data").iterdir()}
        assert modes == {"master.key": 0o600, "jwt.key": 0o600, "journal": 0o700}


async def test_the_second_start_changes_nothing(sqlite_url, tmp_path):
    """It says nothing either; a configured account that is missing is made at any start."""
    said: list[str] = []
    settings = settings_of(sqlite_url, tmp_path)
    await prepare(settings, said.append)
    assert len(said) == 1
    store = await open_store(sqlite_url, migrate=False)
    try:
        version = await store.fetchval("SELECT version FROM config_version")
        await prepare(settings, said.append)
        assert len(said) == 1
        assert await store.fetchval("SELECT version FROM config_version") == version
        assert await count(store, "admins") == 1
        email, password = "late@example.com", "a password of mine"
        with_admin = settings_of(
            sqlite_url, tmp_path, admin={"email": email, "password": Secret(password)}
        )
        await prepare(with_admin, said.append)
        assert len(said) == 1  # a password that was given is not repeated
        assert await admins.find_by_email(store, email) is not None
    finally:
        await store.close()


async def test_a_password_that_is_too_short(sqlite_url, tmp_path):
    """Named with its length; no account comes of it, and nothing is printed."""
    admin = {"email": "root@example.com", "password": Secret("short")}
    with pytest.raises(CannotStart, match=r"admin\.password must have at least 12 characters"):
        await prepare(settings_of(sqlite_url, tmp_path, admin=admin), pytest.fail)
    store = await open_store(sqlite_url, migrate=False)
    assert await count(store, "admins") == 0
    await store.close()


async def test_a_key_file_that_others_can_read(sqlite_url, tmp_path):
    """Refused by name, before the database is touched."""
    settings = settings_of(sqlite_url, tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("jwt.key", "master.key"):
        file = tmp_path / "data" / name
        file.write_text("A" * 43 + "=\n")
        for mode in (0o640, 0o604, 0o660):
            file.chmod(mode)
            with pytest.raises(VaultError, match=rf"{name} is readable by others .*chmod 600"):
                await prepare(settings, pytest.fail)


async def test_credentials_of_another_master_key(sqlite_url, tmp_path):
    """A database that was moved without its key file is found out before anything is served."""
    store = await open_store(sqlite_url, migrate=False)
    await providers.create(
        store,
        Vault(bytes(32)),
        name="p",
        type="openai",
        base_url="https://api.openai.com/v1",
        credential=Secret("sk-a-credential-1234"),
    )
    await store.close()
    with pytest.raises(VaultError, match="encrypted with master key"):
        await prepare(settings_of(sqlite_url, tmp_path), lambda _: None)


async def test_without_auto_migrate_postgres_is_left_alone(empty_pg_url, tmp_path):
    """The operator migrates; the error says how."""
    settings = settings_of(empty_pg_url, tmp_path)
    database = settings.database.model_copy(update={"auto_migrate": False})
    with pytest.raises(SchemaMismatch, match="fastgw db upgrade"):
        await prepare(settings.model_copy(update={"database": database}), pytest.fail)


async def test_a_lock_is_waited_for(store):
    """`Store.alone` takes turns with other processes, and gives the turn back."""
    order: list[str] = []

    async def enter(name: str, other) -> None:
        async with other.alone() as tx:
            order.append(f"{name} in")
            await asyncio.sleep(0.05)
            await tx.fetchval("SELECT 1")
            order.append(f"{name} out")

    await asyncio.gather(enter("a", store), enter("b", store), enter("c", store))
    assert [step.split()[1] for step in order] == ["in", "out"] * 3
