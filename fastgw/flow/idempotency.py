"""Requests with an `Idempotency-Key`: which of them are one, and which answers count as the first.

The key belongs to the API key it came with. What was asked is part of it: the same key with another
body or route is a mistake of the client's.
"""

from __future__ import annotations

import hashlib

import msgspec

from fastgw.errors import IdempotencyMismatch, InvalidRequest
from fastgw.flow.exchange import Exchange

HEADER = "idempotency-key"
_MOST_NAME = 255
_PASSING = frozenset({408, 409, 425, 429})
"""Refusals of a provider that another try may not meet."""


class Claim(msgspec.Struct, frozen=True):
    """What makes two requests one."""

    id: str
    key_id: str
    fingerprint: bytes
    """Of everything that was asked."""

    def check(self, fingerprint: bytes) -> None:
        """Refuse another request under the same key."""
        if fingerprint != self.fingerprint:
            raise IdempotencyMismatch(
                "this Idempotency-Key was used for another request", param=HEADER
            )


def claim_of(exchange: Exchange, body: bytes) -> Claim:
    """Give the claim of a request that bears the header."""
    name = exchange.headers[HEADER]
    if not 0 < len(name) <= _MOST_NAME or not name.isascii() or not name.isprintable():
        raise InvalidRequest(
            f"Idempotency-Key must be 1 to {_MOST_NAME} visible ASCII characters", param=HEADER
        )
    assert exchange.principal is not None
    key_id = exchange.principal.key_id
    target = (exchange.client_api, exchange.endpoint, exchange.query, exchange.pinned or "")
    asked = hashlib.sha256("\0".join(target).encode() + b"\0" + body)
    return Claim(hashlib.sha256(f"{key_id}\0{name}".encode()).hexdigest(), key_id, asked.digest())


def is_final(status: int) -> bool:
    """Tell whether an answer is the one to give again.

    What failed is not: the next request under the key is a first one. A provider's verdict on the
    request itself would be the same again.
    """
    return status < 400 or (status < 500 and status not in _PASSING)
