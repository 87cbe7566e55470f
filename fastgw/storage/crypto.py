"""Credentials at rest: AES-256-GCM under a key derived from the master key.

The master key comes from a file or the configuration, never from the database. What is encrypted
is bound to its table, row and column, so a ciphertext that was moved cannot be read.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fastgw.domain import Secret
from fastgw.errors import VaultError

KEY_BYTES = 32
VERSION = b"\x01"
KEY_ID_BYTES = 8
NONCE_BYTES = 12
HEAD_BYTES = len(VERSION) + KEY_ID_BYTES + NONCE_BYTES


class Vault:
    """Encrypts and decrypts with one master key.

    A ciphertext is version (1) · key id (8) · nonce (12) · AES-256-GCM text and tag. The key id
    tells a wrong master key from a damaged text; it says nothing about the key.
    """

    __slots__ = ("_cipher", "key_id")

    def __init__(self, master_key: bytes) -> None:
        if len(master_key) != KEY_BYTES:
            raise VaultError(f"the master key must have {KEY_BYTES} bytes")
        self._cipher = AESGCM(_derive(master_key, b"fastgw credentials", KEY_BYTES))
        self.key_id = _derive(master_key, b"fastgw key id", KEY_ID_BYTES)

    def __repr__(self) -> str:
        return f"Vault({self.key_id.hex()})"

    def encrypt(self, secret: Secret, *, table: str, row: str, column: str) -> bytes:
        """Encrypt for one place in the database."""
        head = VERSION + self.key_id + secrets.token_bytes(NONCE_BYTES)
        place = _place(table, row, column)
        text = secret.reveal().encode()
        return head + self._cipher.encrypt(head[-NONCE_BYTES:], text, head + place)

    def decrypt(self, data: bytes, *, table: str, row: str, column: str) -> Secret:
        """Decrypt what was encrypted for this place; VaultError says why it cannot be."""
        where = f"{table}.{column} of {row}"
        if len(data) < HEAD_BYTES or data[:1] != VERSION:
            raise VaultError(f"{where} is not encrypted by this version")
        head = data[:HEAD_BYTES]
        key_id = head[1 : 1 + KEY_ID_BYTES]
        if key_id != self.key_id:
            raise VaultError(
                f"{where} was encrypted with master key {key_id.hex()},"
                f" but the master key in use is {self.key_id.hex()}"
            )
        try:
            text = self._cipher.decrypt(
                head[-NONCE_BYTES:], data[HEAD_BYTES:], head + _place(table, row, column)
            )
        except InvalidTag as error:
            raise VaultError(f"{where} was changed or moved after it was encrypted") from error
        return Secret(text.decode())


def load_or_create_master_key(path: Path) -> bytes:
    """Read the master key file, or make it: 32 random bytes in base64, readable by us alone.

    Any number of processes may do this at once; they get the same key.
    """
    if not path.exists():
        _create(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise VaultError(f"{path} is readable by others (mode {mode:04o}); run chmod 600 on it")
    return read_master_key(Secret(path.read_text()), str(path))


def read_master_key(secret: Secret, origin: str = "security.master_key") -> bytes:
    """Read a master key from its text: 32 bytes in base64, plain or url-safe."""
    text = secret.reveal().strip().replace("-", "+").replace("_", "/").rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise VaultError(f"{origin} is not base64") from error
    if len(key) != KEY_BYTES:
        raise VaultError(f"{origin} has {len(key)} bytes instead of {KEY_BYTES}")
    return key


def _create(path: Path) -> None:
    """Write a new key beside `path` and link it there; whoever comes second finds the first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def _derive(master_key: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(master_key)


def _place(table: str, row: str, column: str) -> bytes:
    return b"\0".join(part.encode() for part in (table, row, column))
