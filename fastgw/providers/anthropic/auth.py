"""The credential as an `x-api-key` field (Anthropic's API reference, "Authentication")."""

from __future__ import annotations

from fastgw.domain import Provider
from fastgw.providers.record import Headers


def authorize(provider: Provider) -> Headers:
    """Give the field, or nothing for a server that needs no credential."""
    if provider.credential is None:
        return ()
    return (("x-api-key", provider.credential.reveal()),)
