"""Fill a database with what makes fastgw govern: keys, limits, budgets, a price.

Everything that can apply to a request does: three limits and two budgets, so high that they refuse
nothing. One more key is over its limit from its second request on.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastgw.storage import Store, open_store
from fastgw.storage.sql import budgets, keys, limits, models

MODEL = "bench"
PROVIDER_TYPE = "openai_compatible"
EDITED_KEYS = 1000
_MUCH = 10**12
_DAY_S = 86_400


@dataclass(frozen=True)
class Governed:
    """The texts of the two keys, and the ids of the keys that others may edit meanwhile."""

    key: str
    refused_key: str
    edited: tuple[str, ...]


async def govern(url: str, *, edited: int = 0) -> Governed:
    """Make the schema and the rows."""
    store = await open_store(url, migrate=True)
    try:
        return await _fill(store, edited)
    finally:
        await store.close()


async def _fill(store: Store, edited: int) -> Governed:
    key, text = await keys.create(store, name="bench", tags={"team": "bench"})
    refused, refused_text = await keys.create(store, name="bench-refused")
    await models.put(store, PROVIDER_TYPE, MODEL, input_pico=150_000, output_pico=600_000)
    mine = {"scope": "key", "match": key.id}
    await limits.put(store, **mine, metric="requests", limit=_MUCH)
    await limits.put(store, **mine, metric="tokens", limit=_MUCH)
    await limits.put(store, scope="model", match=MODEL, metric="concurrent", limit=_MUCH)
    await budgets.put(store, **mine, limit_nano=10**18, period="month")
    await budgets.put(store, scope="global", limit_nano=10**18, period="day")
    await limits.put(
        store, scope="key", match=refused.id, metric="requests", limit=1, window_s=_DAY_S
    )
    others = [(await keys.create(store, name=f"bench-{n}"))[0].id for n in range(edited)]
    return Governed(text.reveal(), refused_text.reveal(), tuple(others))
