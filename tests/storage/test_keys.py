"""Keys in the store: who calls, and what stops a key."""

from __future__ import annotations

import pytest

from fastgw.domain import Principal, now_ms
from fastgw.errors import Conflict, InvalidRequest, NotFound
from fastgw.storage.sql import keys, orgs, teams, users
from fastgw.wire.apikey import digest, is_well_formed

HOUR = 3_600_000


async def owners(store):
    org = await orgs.create(store, name="org")
    team = await teams.create(store, name="team", org_id=org.id, priority=7)
    user = await users.create(store, name="user", team_id=team.id)
    return org, team, user


async def find(store, secret) -> Principal | None:
    return await keys.find_by_hash(store, digest(secret.reveal()))


async def test_a_key_gives_its_whole_principal(store):
    """One look-up knows the owner's team and organisation, the tags and what is allowed."""
    org, team, user = await owners(store)
    key, secret = await keys.create(
        store,
        name="ci",
        user_id=user.id,
        allowed_models=("gpt-*", "claude"),
        tags={"app": "ci"},
        client_tags=("job",),
        expires_at=now_ms() + HOUR,
    )
    assert is_well_formed(secret.reveal())
    assert await find(store, secret) == Principal(
        key_id=key.id,
        name="ci",
        enabled=True,
        expires_at=key.expires_at,
        allowed_models=("gpt-*", "claude"),
        tags={"app": "ci"},
        client_tags=("job",),
        user_id=user.id,
        team_id=team.id,
        org_id=org.id,
        priority=7,
    )


async def test_a_key_without_owner_is_its_own(store):
    """No owner, the middle priority, every model."""
    key, secret = await keys.create(store, name="alone")
    assert await find(store, secret) == Principal(key_id=key.id, name="alone")


async def test_the_keys_own_word_goes_first(store):
    """A key's own team, organisation and priority win over its user's."""
    _, _, user = await owners(store)
    other_org = await orgs.create(store, name="other org")
    other_team = await teams.create(store, name="other team")
    _, secret = await keys.create(
        store,
        name="k",
        user_id=user.id,
        team_id=other_team.id,
        org_id=other_org.id,
        priority=0,
    )
    found = await find(store, secret)
    assert (found.team_id, found.org_id, found.priority) == (other_team.id, other_org.id, 0)


async def test_an_unknown_key_is_nobody(store):
    """No row, no principal."""
    await keys.create(store, name="k")
    assert await keys.find_by_hash(store, bytes(32)) is None


@pytest.mark.parametrize("what", ["key", "user", "team", "org"])
async def test_whatever_is_disabled_disables_the_key(store, what):
    """A disabled key or owner at any height disables the key, and enabling it heals it."""
    org, team, user = await owners(store)
    key, secret = await keys.create(store, name="k", user_id=user.id)
    module, target = {
        "key": (keys, key),
        "user": (users, user),
        "team": (teams, team),
        "org": (orgs, org),
    }[what]
    await module.update(store, target.id, {"enabled": False})
    assert not (await find(store, secret)).enabled
    await module.update(store, target.id, {"enabled": True})
    assert (await find(store, secret)).enabled


@pytest.mark.parametrize("what", ["user", "team", "org"])
async def test_a_deleted_owner_disables_the_key(store, what):
    """Deleting hides the owner; its keys must not go on as keys of nobody."""
    org, team, user = await owners(store)
    _, secret = await keys.create(store, name="k", user_id=user.id)
    module, target = {"user": (users, user), "team": (teams, team), "org": (orgs, org)}[what]
    await module.hide(store, target.id)
    assert not (await find(store, secret)).enabled
    with pytest.raises(Conflict):
        await module.purge(store, target.id)


async def test_the_earliest_expiry_counts(store):
    """A key is over when it or any of its owners is."""
    org, team, user = await owners(store)
    key, secret = await keys.create(store, name="k", user_id=user.id)
    assert (await find(store, secret)).expires_at is None
    for module, target, at in ((keys, key, 400), (users, user, 300), (orgs, org, 100)):
        await module.update(store, target.id, {"expires_at": at})
        assert (await find(store, secret)).expires_at == at
    await teams.update(store, team.id, {"expires_at": 200})
    assert (await find(store, secret)).expires_at == 100


async def test_a_revoked_key_is_unknown_and_stays_for_reports(store):
    """Revoking hides the key at once; its row stays."""
    key, secret = await keys.create(store, name="k")
    await keys.revoke(store, key.id)
    assert await find(store, secret) is None
    assert (await keys.list(store)).items == []
    with pytest.raises(NotFound):
        await keys.get(store, key.id)
    with pytest.raises(NotFound):
        await keys.revoke(store, key.id)
    with pytest.raises(NotFound):
        await keys.regenerate(store, key.id)
    assert await store.fetchval("SELECT count(*) FROM api_keys WHERE id = $1", key.id) == 1


async def test_a_regenerated_key_replaces_the_old(store):
    """Same id and settings, another text; the old one is unknown at once."""
    key, old = await keys.create(store, name="k", tags={"a": "b"})
    again, new = await keys.regenerate(store, key.id)
    assert again.id == key.id
    assert again.hint == new.masked() != key.hint
    assert await find(store, old) is None
    assert (await find(store, new)).tags == {"a": "b"}


async def test_no_secret_can_be_read_back(store):
    """Neither the text nor the hash is in a record or a column that shows it."""
    key, secret = await keys.create(store, name="k")
    text = secret.reveal()
    row = await store.fetchrow("SELECT * FROM api_keys")
    shown = f"{key!r}{await keys.get(store, key.id)!r}{dict(row)!r}"
    assert text not in shown
    assert text[4:-4] not in shown
    assert not hasattr(key, "hash")


async def test_an_update_changes_only_what_it_names(store):
    """Concurrent changes of different fields both stay."""
    key, _ = await keys.create(store, name="k", tags={"a": "b"}, metadata={"x": [1, None]})
    await keys.update(store, key.id, {"priority": 9})
    await keys.update(store, key.id, {"name": "new", "expires_at": None})
    found = await keys.get(store, key.id)
    assert (found.name, found.priority, found.tags, found.metadata) == (
        "new",
        9,
        {"a": "b"},
        {"x": [1, None]},
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"hash": b"x"},
        {"hint": "x"},
        {"id": "x"},
        {"created_at": 1},
        {"deleted_at": 1},
        {"nonsense": 1},
        {"enabled": "yes"},
        {"enabled": 1},
        {"tags": {"a": 1}},
        {"tags": None},
        {"name": None},
        {"allowed_models": "gpt-4"},
        {"priority": 10},
        {"priority": 1.5},
        {"metadata": []},
    ],
)
async def test_a_change_that_may_not_be_is_refused(store, changes):
    """Foreign fields, wrong types and values out of range change nothing."""
    key, _ = await keys.create(store, name="k")
    with pytest.raises(InvalidRequest):
        await keys.update(store, key.id, changes)
    assert await keys.get(store, key.id) == key


async def test_a_key_is_found_by_id_or_name(store):
    """A name that several keys have is ambiguous; an id never is."""
    one, _ = await keys.create(store, name="one")
    twin, _ = await keys.create(store, name="twin")
    await keys.create(store, name="twin")
    assert (await keys.find(store, "one")).id == one.id
    assert (await keys.find(store, twin.id)).id == twin.id
    with pytest.raises(Conflict, match="several"):
        await keys.find(store, "twin")
    with pytest.raises(NotFound):
        await keys.find(store, "nobody")


async def test_an_owner_must_exist(store):
    """A key of nobody's user is a conflict, not a key."""
    with pytest.raises(Conflict):
        await keys.create(store, name="k", user_id="nobody")
