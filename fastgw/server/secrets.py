"""The gateway's own secrets: configured, or in files it makes in the data folder."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec

from fastgw.config import Settings
from fastgw.domain import Secret
from fastgw.storage.crypto import Vault, load_or_create_master_key, read_master_key


class Secrets(msgspec.Struct, frozen=True):
    """What encrypts credentials, what signs admin tokens, and the folder of both files."""

    vault: Vault
    jwt_secret: Secret
    folder: Path


def open_secrets(settings: Settings) -> Secrets:
    """Read the secrets, or make them at the first start (0600, in the data folder)."""
    folder = data_folder(settings)
    security = settings.security
    if security.master_key is not None:
        master_key = read_master_key(security.master_key)
    else:
        master_key = load_or_create_master_key(folder / "master.key")
    # Two files: the key that encrypts must never be the key that signs.
    jwt_secret = security.jwt_secret or Secret(
        base64.b64encode(load_or_create_master_key(folder / "jwt.key")).decode()
    )
    return Secrets(Vault(master_key), jwt_secret, folder)


def data_folder(settings: Settings) -> Path:
    """Give the folder of everything that is neither database nor configuration."""
    return Path(settings.journal.dir).parent
