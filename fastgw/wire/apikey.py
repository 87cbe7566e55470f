"""The keys we issue: `fgw-` + 43 random url-safe characters + 6 base62 characters of their CRC-32.

The checksum refuses garbage without a look-up and lets secret scanners recognise a leaked key. Only
the SHA-256 of the whole token is ever stored. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib

from fastgw.domain import Secret

PREFIX = "fgw-"
LENGTH = len(PREFIX) + 43 + 6

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(r"fgw-[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}", re.ASCII)


def make_key() -> tuple[Secret, bytes, str]:
    """Make a key: its text, the digest to store, and a hint by which its owner recognises it."""
    body = secrets.token_urlsafe(32)
    secret = Secret(PREFIX + body + checksum(body))
    return secret, digest(secret.reveal()), secret.masked()


def checksum(body: str) -> str:
    """Give the CRC-32 of the random part in base62, most significant first, padded with zeros."""
    number = zlib.crc32(body.encode())
    text = ""
    for _ in range(6):
        number, rest = divmod(number, 62)
        text = _BASE62[rest] + text
    return text


def is_well_formed(token: str) -> bool:
    """Tell whether `token` can be one of our keys: prefix, length, alphabet and checksum."""
    if len(token) != LENGTH or _SHAPE.fullmatch(token) is None:
        return False
    return token[-6:] == checksum(token[len(PREFIX) : -6])


def digest(token: str) -> bytes:
    """Give what is stored of a key."""
    return hashlib.sha256(token.encode()).digest()


def same_digest(one: bytes, other: bytes) -> bool:
    """Compare two digests in constant time."""
    return hmac.compare_digest(one, other)
