"""Providers: configured accounts; their credentials are stored encrypted for their own row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fastgw.domain import Provider, Secret, Timeouts
from fastgw.errors import InvalidRequest
from fastgw.storage.crypto import Vault
from fastgw.storage.sql.noun import Noun, Stored
from fastgw.storage.store import Session


class StoredProvider(Stored, kw_only=True):
    """A provider as it is stored, without its credential.

    `fastgw.domain.Provider` is what the flow sees. `options` are settings of the provider type,
    such as a region; `position` orders providers that list the same model.
    """

    name: str
    type: str
    base_url: str
    credential_hint: str | None = None
    models: tuple[str, ...] = ()
    timeouts: dict[str, float] = {}
    headers: dict[str, str] = {}
    options: dict[str, Any] = {}
    position: int = 0
    enabled: bool = True
    tags: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    deleted_at: int | None = None


PROVIDERS = Noun(
    "providers", StoredProvider, "provider", fixed=("credential_hint",), hidden=("credential",)
)

LOAD_ALL = "SELECT * FROM providers WHERE deleted_at IS NULL ORDER BY position, created_at, id"
SET_CREDENTIAL = """UPDATE providers SET credential = $2, credential_hint = $3
WHERE id = $1 AND deleted_at IS NULL"""

get, find = PROVIDERS.get, PROVIDERS.find
list = PROVIDERS.page  # noqa: A001 - read as `providers.list(...)`
hide, purge = PROVIDERS.hide, PROVIDERS.purge


async def create(
    db: Session, vault: Vault, *, credential: Secret | None = None, **values: Any
) -> StoredProvider:
    """Store a provider and its credential."""
    hint = credential and credential.masked()
    provider = PROVIDERS.make(**values, credential_hint=hint)
    _check_timeouts(provider.timeouts)
    await PROVIDERS.insert(db, provider, _encrypt(vault, provider.id, credential))
    return provider


async def update(db: Session, provider_id: str, changes: Mapping[str, Any]) -> StoredProvider:
    """Change the named fields; the credential has a function of its own."""
    _check_timeouts(changes.get("timeouts", {}))
    return await PROVIDERS.update(db, provider_id, changes)


async def set_credential(
    db: Session, vault: Vault, provider_id: str, credential: Secret | None
) -> StoredProvider:
    """Replace the credential, or remove it."""
    hint = credential and credential.masked()
    data = _encrypt(vault, provider_id, credential)
    async with db.transaction() as tx:
        if not await tx.execute(SET_CREDENTIAL, provider_id, data, hint):
            raise PROVIDERS.absent(provider_id)
        return await get(tx, provider_id)


async def load_all(db: Session, vault: Vault) -> Sequence[Provider]:
    """Give every provider with its credential, in order; VaultError when one cannot be read."""
    loaded = []
    for row in await db.fetch(LOAD_ALL):
        stored = PROVIDERS.read(row)
        data = row["credential"]
        loaded.append(
            Provider(
                name=stored.name,
                type=stored.type,
                base_url=stored.base_url,
                credential=None if data is None else _decrypt(vault, stored.id, data),
                models=stored.models,
                timeouts=Timeouts(**stored.timeouts),
                headers=stored.headers,
                enabled=stored.enabled,
                source="database",
            )
        )
    return loaded


def _encrypt(vault: Vault, provider_id: str, credential: Secret | None) -> bytes | None:
    if credential is None:
        return None
    return vault.encrypt(credential, table="providers", row=provider_id, column="credential")


def _decrypt(vault: Vault, provider_id: str, data: bytes) -> Secret:
    return vault.decrypt(data, table="providers", row=provider_id, column="credential")


def _check_timeouts(timeouts: object) -> None:
    """Refuse names that are not time-outs: they would make the row unreadable."""
    try:
        given = msgspec.convert(timeouts, dict[str, float])
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"timeouts: {error}", param="timeouts") from error
    unknown = given.keys() - set(Timeouts.__struct_fields__)
    if unknown:
        raise InvalidRequest(f"timeouts has no {min(unknown)}", param="timeouts")
