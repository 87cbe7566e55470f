"""Credentials at rest: bound to their place, unreadable with another key, never in the file."""

from __future__ import annotations

import asyncio
import base64
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fastgw.domain import Secret
from fastgw.errors import VaultError
from fastgw.storage.crypto import Vault, load_or_create_master_key, read_master_key
from fastgw.storage.sql import providers

PLACE = {"table": "providers", "row": "provider_1", "column": "credential"}
TEXT = Secret("sk-canary-0123456789abcdef")


@pytest.fixture
def vault():
    return Vault(bytes(32))


def test_what_was_encrypted_can_be_read(vault):
    """The same place and key give the text back, whatever it is."""
    for text in ("", "sk-x", "ü" * 1000):
        data = vault.encrypt(Secret(text), **PLACE)
        assert vault.decrypt(data, **PLACE) == Secret(text)


def test_nonces_are_random(vault):
    """The same text is never the same ciphertext."""
    assert len({vault.encrypt(TEXT, **PLACE) for _ in range(50)}) == 50


@pytest.mark.parametrize("changed", ["table", "row", "column"])
def test_a_moved_ciphertext_cannot_be_read(vault, changed):
    """Table, row and column are associated data."""
    data = vault.encrypt(TEXT, **PLACE)
    with pytest.raises(VaultError, match="changed or moved"):
        vault.decrypt(data, **{**PLACE, changed: "other"})


def test_places_cannot_be_confused(vault):
    """A separator moved from one part of the place to another makes another place."""
    data = vault.encrypt(TEXT, table="a", row="b:c", column="d")
    with pytest.raises(VaultError):
        vault.decrypt(data, table="a:b", row="c", column="d")


def test_every_changed_byte_is_noticed(vault):
    """Head, text and tag are all covered."""
    data = vault.encrypt(TEXT, **PLACE)
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(VaultError):
            vault.decrypt(damaged, **PLACE)
    for length in range(len(data)):
        with pytest.raises(VaultError):
            vault.decrypt(data[:length], **PLACE)


def test_another_master_key_is_told_from_damage(vault):
    """The error names both keys by id, and neither key nor text."""
    other = Vault(b"\x01" * 32)
    with pytest.raises(VaultError) as caught:
        other.decrypt(vault.encrypt(TEXT, **PLACE), **PLACE)
    message = caught.value.message
    assert vault.key_id.hex() in message
    assert other.key_id.hex() in message
    assert "canary" not in message


def test_a_vault_shows_no_key():
    """repr gives the key id alone."""
    key = bytes(range(32))
    vault = Vault(key)
    assert key.hex()[:16] not in repr(vault)
    assert key[:8] != vault.key_id


def test_the_master_key_file_is_made_once(tmp_path):
    """32 random bytes in base64, 0600, the same at the next start."""
    path = tmp_path / "new" / "master.key"
    key = load_or_create_master_key(path)
    assert len(key) == 32
    assert base64.b64decode(path.read_text()) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_or_create_master_key(path) == key
    assert [file.name for file in path.parent.iterdir()] == ["master.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_master_key_that_others_can_read_is_refused(tmp_path, mode):
    """Group and world have no business with it."""
    path = tmp_path / "master.key"
    load_or_create_master_key(path)
    path.chmod(mode)
    with pytest.raises(VaultError, match="chmod 600"):
        load_or_create_master_key(path)


async def test_processes_that_start_together_share_one_key(tmp_path):
    """Whoever comes second finds the first one's key."""
    path = tmp_path / "master.key"
    script = (
        "import sys; from pathlib import Path\n"
        "from fastgw.storage.crypto import load_or_create_master_key as load\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(load(Path(sys.argv[1])).hex())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = await asyncio.gather(*(asyncio.to_thread(each.communicate) for each in processes))
    assert {end[0].strip() for end in ends} == {load_or_create_master_key(path).hex()}


def test_a_master_key_may_be_a_text():
    """From the configuration it is base64, plain or url-safe, padded or not."""
    key = bytes(range(224, 256))
    for text in (base64.b64encode(key), base64.urlsafe_b64encode(key).rstrip(b"=") + b"\n"):
        assert read_master_key(Secret(text.decode())) == key


@pytest.mark.parametrize("text", ["", "no base64!", "c2hvcnQ=", "é" * 43, "A" * 100])
def test_a_master_key_that_is_none_is_refused(text):
    """The error says what is wrong and does not show the text."""
    with pytest.raises(VaultError) as caught:
        read_master_key(Secret(text))
    assert not text or text not in caught.value.message


async def test_swapped_credentials_cannot_be_read(store, vault):
    """Somebody who can write the database cannot give one provider another's credential."""
    made = [
        await providers.create(
            store, vault, name=name, type="openai", base_url="https://x/v1", credential=TEXT
        )
        for name in ("one", "two")
    ]
    assert [one.credential for one in await providers.load_all(store, vault)] == [TEXT, TEXT]
    await store.execute(
        "UPDATE providers SET credential = (SELECT credential FROM providers WHERE id = $1)"
        " WHERE id = $2",
        made[0].id,
        made[1].id,
    )
    with pytest.raises(VaultError, match=made[1].id):
        await providers.load_all(store, vault)


async def test_a_database_without_its_master_key_gives_nothing_away(store, vault):
    """A stolen copy is useless, and a restore without the key says what is missing."""
    await providers.create(
        store, vault, name="one", type="openai", base_url="https://x/v1", credential=TEXT
    )
    with pytest.raises(VaultError, match="master key"):
        await providers.load_all(store, Vault(b"\x02" * 32))


async def test_no_plaintext_reaches_the_file(store, store_url, vault):
    """The credential is in no file of the database, nor is a key we issued."""
    await providers.create(
        store, vault, name="one", type="openai", base_url="https://x/v1", credential=TEXT
    )
    if store.engine == "postgresql":
        row = await store.fetchrow("SELECT * FROM providers")
        assert TEXT.reveal() not in str(dict(row))
        assert TEXT.reveal().encode() not in row["credential"]
        return
    await store.close()
    folder = Path(store_url.removeprefix("sqlite:///")).parent
    bodies = [file.read_bytes() for file in folder.iterdir()]
    assert any(b"https://x/v1" in body for body in bodies)
    assert not any(b"canary" in body for body in bodies)
