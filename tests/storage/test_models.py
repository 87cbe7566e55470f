"""Models and their prices: seeded, synced, and never taken back from an admin."""

from __future__ import annotations

import pytest

from fastgw import catalog
from fastgw.catalog import CatalogError, ModelFacts
from fastgw.domain import Price
from fastgw.errors import NotFound
from fastgw.storage import seed
from fastgw.storage.sql import catalog_syncs, config_version, keys, models
from fastgw.wire.apikey import digest


def facts(name: str, price: int | None = 100, **values) -> ModelFacts:
    return ModelFacts(
        provider="openai",
        name=name,
        mode="chat",
        context_window=128_000,
        price=None if price is None else Price(input=price, output=2 * price),
        features=("vision",),
        **values,
    )


async def known(store) -> dict[str, dict]:
    return {one["name"]: one for one in await models.load_known(store, dict)}


async def test_the_whole_catalogue_is_seeded_once(store):
    """Every model of the snapshot reads back with the same facts; seeding again changes nothing."""
    snapshot = catalog.load().models
    seeded = await seed.catalogue(store, snapshot.values())
    assert (seeded.added, seeded.changed, seeded.unchanged) == (len(snapshot), 0, 0)
    version = await config_version.current(store)
    again = await seed.catalogue(store, snapshot.values())
    assert (again.added, again.changed, again.unchanged) == (0, 0, len(snapshot))
    assert await config_version.current(store) == version
    stored = await catalog_syncs.read(store)
    assert {key: catalog_syncs.facts_of(model) for key, model in stored.items()} == snapshot
    row = await store.fetchrow(
        "SELECT name, provider, context_window, enabled FROM models WHERE name = 'gpt-4o-mini'"
        " AND provider = 'openai'"
    )
    assert dict(row) == {
        "name": "gpt-4o-mini",
        "provider": "openai",
        "context_window": 128_000,
        "enabled": 1,
    }


async def test_an_unknown_price_is_not_a_free_one(store):
    """No price, a price of nothing and a price stay three things."""
    await seed.catalogue(store, [facts("unknown", None), facts("free", 0), facts("paid", 7)])
    found = await known(store)
    assert found["unknown"]["price"] is None
    assert found["free"]["price"] == Price()
    assert found["paid"]["price"] == Price(input=7, output=14)


async def test_a_newer_snapshot_updates_what_was_seeded(store):
    """A new version of fastgw brings its prices along, and removes nothing."""
    await seed.catalogue(store, [facts("a"), facts("b")])
    seeded = await seed.catalogue(store, [facts("a", 200), facts("c")])
    assert (seeded.added, seeded.changed) == (1, 1)
    found = await known(store)
    assert found["a"]["price"].input == 200
    assert set(found) == {"a", "b", "c"}
    assert await store.fetchval("SELECT count(*) FROM models WHERE deprecated_at > 0") == 0


async def test_a_seeding_does_not_undo_a_sync(store):
    """What was fetched later is newer than what came with the package."""
    await seed.catalogue(store, [facts("a"), facts("b")])
    await catalog_syncs.sync(store, [facts("a", 300), facts("b")], source="test")
    await seed.catalogue(store, [facts("a"), facts("b")])
    assert (await known(store))["a"]["price"].input == 300


async def test_an_admins_price_outlives_every_sync(store):
    """What an admin set stays; the other facts of the model follow the file."""
    await seed.catalogue(store, [facts("a"), facts("b")])
    model = await models.find(store, "a")
    await models.update(store, model.id, {"input_pico": 1, "cached_pico": None, "enabled": False})
    changes, record = await catalog_syncs.sync(
        store, [facts("a", 500, max_output_tokens=9), facts("b")], source="test"
    )
    assert [(one.name, one.field, one.after) for one in changes.changed] == [
        ("a", "max_output_tokens", 9),
        ("a", "price.output", 1000),
    ]
    assert (record.added, record.changed, record.kept_overrides) == (0, 1, 1)
    found = await models.get(store, model.id)
    assert (found.input_pico, found.output_pico, found.max_output_tokens) == (1, 1000, 9)
    assert not found.enabled
    _, again = await catalog_syncs.sync(
        store, [facts("a", 500, max_output_tokens=9), facts("b")], source="test"
    )
    assert (again.changed, again.unchanged) == (0, 2)


async def test_a_sync_is_recorded_with_what_changed(store):
    """Added, changed and deprecated models are counted, and each fact is kept."""
    await seed.catalogue(store, [facts("stays"), facts("moves"), facts("goes")])
    _, record = await catalog_syncs.sync(
        store, [facts("stays"), facts("moves", 200), facts("new")], source="file:prices.json"
    )
    stored = (await catalog_syncs.list(store)).items
    assert stored == [record]
    assert (record.added, record.changed, record.deprecated, record.unchanged) == (1, 1, 1, 1)
    assert record.changes == tuple(
        {
            "provider": "openai",
            "name": "moves",
            "field": f"price.{line}",
            "before": before,
            "after": 2 * before,
        }
        for line, before in (("input", 100), ("output", 200))
    )
    goes = await models.find(store, "goes")
    assert goes.deprecated_at > 0
    assert goes.enabled
    _, second = await catalog_syncs.sync(
        store, [facts("stays"), facts("moves", 200), facts("new")], source="again"
    )
    assert (second.added, second.changed, second.deprecated) == (0, 0, 0)
    await catalog_syncs.sync(
        store, [facts("stays"), facts("moves", 200), facts("new"), facts("goes")], source="back"
    )
    assert (await models.find(store, "goes")).deprecated_at is None


async def test_a_dry_run_changes_nothing(store):
    """It says what would change."""
    await seed.catalogue(store, [facts("a")])
    version = await config_version.current(store)
    changes, record = await catalog_syncs.sync(store, [facts("b")], source="x", dry_run=True)
    assert (len(changes.added), len(changes.deprecated), record.added) == (1, 1, 1)
    assert await config_version.current(store) == version
    assert (await catalog_syncs.list(store)).items == []


async def test_a_fragment_is_refused_and_the_failure_recorded(store):
    """A file that loses most models changes nothing."""
    await seed.catalogue(store, [facts(f"m{number}") for number in range(40)])
    version = await config_version.current(store)
    with pytest.raises(CatalogError):
        await catalog_syncs.sync(store, [facts("m1")], source="x")
    assert await config_version.current(store) == version
    failed = await catalog_syncs.fail(store, source="x", error="a fragment")
    assert (failed.status, failed.error) == ("failed", "a fragment")


async def test_a_model_is_put_whether_known_or_not(store):
    """An admin prices a model of the configuration file, and one of the catalogue, by name."""
    await seed.catalogue(store, [facts("known")])
    made = await models.put(store, "openai", "own", input_pico=5, output_pico=6)
    assert (made.source, made.overrides) == ("admin", {"input_pico": 5, "output_pico": 6})
    assert (await known(store))["own"]["price"] == Price(input=5, output=6)
    again = await models.put(store, "openai", "own", per_request_pico=7)
    assert again.id == made.id
    assert models.price_of(
        await store.fetchrow("SELECT * FROM models WHERE id = $1", made.id)
    ) == Price(input=5, output=6, per_request=7)
    changed = await models.put(store, "openai", "known", input_pico=1)
    assert (changed.input_pico, changed.output_pico) == (1, 200)


async def test_a_deleted_model_stays_deleted(store):
    """Neither a seeding nor a sync brings it back; an admin does."""
    await seed.catalogue(store, [facts("a"), facts("b")])
    model = await models.find(store, "a")
    await models.hide(store, model.id)
    await seed.catalogue(store, [facts("a", 200), facts("b")])
    await catalog_syncs.sync(store, [facts("a", 300), facts("b")], source="x")
    assert set(await known(store)) == {"b"}
    with pytest.raises(NotFound):
        await models.get(store, model.id)
    assert (await models.put(store, "openai", "a", input_pico=1)).id == model.id
    assert set(await known(store)) == {"a", "b"}


async def test_demo_data_is_made_once(store):
    """The second time changes nothing and shows no key."""
    first = await seed.demo(store)
    assert set(first.keys) == set(seed.DEMO_KEYS)
    for name, secret in first.keys.items():
        principal = await keys.find_by_hash(store, digest(secret.reveal()))
        assert principal.name == name
        assert (principal.user_id, principal.team_id, principal.org_id) == (
            first.user_id,
            first.team_id,
            first.org_id,
        )
    version = await config_version.current(store)
    second = await seed.demo(store)
    assert (second.org_id, second.keys) == (first.org_id, {})
    assert await config_version.current(store) == version
