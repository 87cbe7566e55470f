"""The credential as an `Authorization: Bearer` field (RFC 6750 §2.1)."""

from __future__ import annotations

from fastgw.domain import Provider
from fastgw.providers.record import Headers


def bearer(provider: Provider) -> Headers:
    """Give the field, or nothing for a provider that needs no credential."""
    if provider.credential is None:
        return ()
    return (("authorization", f"Bearer {provider.credential.reveal()}"),)
