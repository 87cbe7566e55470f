"""Admin access tokens: JWT (RFC 7519), one fixed algorithm, one issuer, one audience, short-lived.

A token's header must be ours to the byte, so nothing in it can be talked into another algorithm or
key. The account's token version must still be the one signed: a password or role change ends all
its tokens.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import jwt
import msgspec

from fastgw.domain import Secret
from fastgw.errors import InvalidAdminToken

LIFETIME_S = 3600
_ALGORITHM = "HS256"
_ISSUER = "fastgw"
_AUDIENCE = "fastgw-admin"
_TYPE = "at+jwt"  # RFC 9068 §2.1
_LONGEST = 2048


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a token says, all of it required: whose it is, and of which login."""

    iss: str
    aud: str
    iat: int
    exp: int
    sub: str
    """The admin's id."""
    ver: int
    """The account's token version."""
    sid: str
    """The login, which is a family of refresh tokens."""


class Tokens:
    """Signs and reads access tokens with one secret."""

    def __init__(self, secret: Secret) -> None:
        # Only this use of the secret, so that a token can never double as something else signed.
        self._key = hashlib.sha256(b"fastgw admin jwt:" + secret.reveal().encode()).digest()
        kid = hashlib.sha256(b"fastgw admin kid:" + self._key).hexdigest()[:16]
        self._headers = {"kid": kid, "typ": _TYPE}
        self._head = self._sign({}).partition(".")[0]

    def issue(self, admin_id: str, token_version: int, session_id: str) -> str:
        """Give an access token for one account and session."""
        now = int(time.time())
        claims = Claims(
            iss=_ISSUER,
            aud=_AUDIENCE,
            iat=now,
            exp=now + LIFETIME_S,
            sub=admin_id,
            ver=token_version,
            sid=session_id,
        )
        return self._sign(msgspec.to_builtins(claims))

    def read(self, token: str) -> Claims:
        """Give the claims of a token that is ours and not expired; raises `InvalidAdminToken`."""
        if len(token) > _LONGEST or not token.isascii() or token.partition(".")[0] != self._head:
            raise InvalidAdminToken("this token is not one of ours")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                audience=_AUDIENCE,
                options={"require": [*Claims.__struct_fields__]},
            )
            read = msgspec.convert(claims, Claims)
        except (jwt.PyJWTError, msgspec.ValidationError) as exc:
            raise InvalidAdminToken("this token is invalid or has expired") from exc
        if read.exp - read.iat > LIFETIME_S:
            raise InvalidAdminToken("this token would live too long")
        return read

    def _sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers=self._headers)
