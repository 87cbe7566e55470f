"""What is true of every configured object: names, pages, searches, hiding, texts of any kind."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.domain import Alias, Provider, Secret, Timeouts
from fastgw.errors import Conflict, InvalidRequest, NotFound
from fastgw.storage.crypto import Vault
from fastgw.storage.sql import (
    admins,
    aliases,
    budgets,
    deployments,
    keys,
    limits,
    orgs,
    providers,
    service_tokens,
    sessions,
    teams,
    users,
)
from fastgw.storage.sql.noun import like
from fastgw.wire.apikey import digest
from tests.corpora import shared

VAULT = Vault(bytes(32))


@pytest.mark.parametrize("module", [orgs, teams])
async def test_a_name_is_taken_once_and_free_again_when_hidden(store, module):
    """Names are unique among what is visible."""
    first = await module.create(store, name="twin")
    with pytest.raises(Conflict, match="name"):
        await module.create(store, name="twin")
    await module.hide(store, first.id)
    second = await module.create(store, name="twin")
    assert (await module.find(store, "twin")).id == second.id
    with pytest.raises(NotFound):
        await module.get(store, first.id)
    await module.purge(store, second.id)
    assert (await module.list(store)).items == []
    with pytest.raises(NotFound):
        await module.purge(store, second.id)


async def test_pages_follow_each_other(store, monkeypatch):
    """Newest first; objects of one millisecond are neither lost nor doubled between pages."""
    monkeypatch.setattr("fastgw.storage.sql.noun.now_ms", lambda: 1_000)
    made = {(await orgs.create(store, name=f"o{number}")).id for number in range(23)}
    seen, cursor = [], None
    while True:
        page = await orgs.list(store, limit=5, cursor=cursor)
        seen += [org.id for org in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(seen) == 23
    assert set(seen) == made


@pytest.mark.parametrize("limit", [0, -1, 501, 10**9])
async def test_a_page_has_a_largest_size(store, limit):
    """Nobody reads a whole table by asking for it."""
    with pytest.raises(InvalidRequest, match="limit"):
        await orgs.list(store, limit=limit)


@pytest.mark.parametrize(
    "cursor", ["x", "e30=", "é", "' OR 1=1 --", "OTk5OTk5OTk5OTk5OTk5OTk5OTk6"]
)
async def test_a_cursor_that_is_not_ours_is_refused(store, cursor):
    """A cursor somebody made up is a bad request, never an error of the database."""
    with pytest.raises(InvalidRequest):
        await orgs.list(store, cursor=cursor)


async def test_a_search_takes_wildcards_literally(store):
    """%, _ and \\ are found as themselves; case does not matter."""
    for name in ("100%", "1000", "a_b", "aXb", "back\\slash", "Quote'", "UPPER"):
        await orgs.create(store, name=name)

    async def found(q: str) -> set[str]:
        return {org.name for org in (await orgs.list(store, q=q)).items}

    assert await found("%") == {"100%"}
    assert await found("_") == {"a_b"}
    assert await found("\\") == {"back\\slash"}
    assert await found("'") == {"Quote'"}
    assert await found("upper") == {"UPPER"}
    assert await found("10") == {"100%", "1000"}
    assert await found("nothing") == set()
    assert len(await found("")) == 7


def test_a_search_has_a_longest_text():
    """A long text in q is refused before the database sees it."""
    with pytest.raises(InvalidRequest):
        like("x" * 101)


def naughty_strings() -> list[str]:
    return json.loads((shared("naughty_strings") / "blns.json").read_text())


async def test_naughty_strings_come_back_identical(store):
    """Any text in any text field, on both engines; one with NUL would be refused."""
    for number, text in enumerate(naughty_strings()):
        org = await orgs.create(
            store, name=f"{number} {text}", tags={text: text}, metadata={text: [text]}
        )
        assert await orgs.get(store, org.id) == org
        assert (org.tags, org.metadata) == ({text: text}, {text: [text]})
    page = await orgs.list(store, limit=500)
    assert len(page.items) == 500


async def test_naughty_strings_find_only_themselves(store):
    """A text in q is never taken for SQL or a pattern."""
    await orgs.create(store, name="canary")
    for text in naughty_strings():
        if text and text.lower() not in "canary" and len(text) <= 100:
            assert (await orgs.list(store, q=text)).items == []


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
async def test_any_text_comes_back_identical(store, text):
    """Unicode of any kind, normalised or not, in a field and inside JSON."""
    user = await users.create(store, name=text, tags={"t": text}, metadata={"deep": {"t": text}})
    assert await users.get(store, user.id) == user
    assert user.name == text


async def test_nul_is_refused_where_it_would_be_a_column(store):
    """PostgreSQL cannot hold NUL in a text, so neither engine does."""
    with pytest.raises(InvalidRequest, match="NUL"):
        await orgs.create(store, name="a\0b")


async def test_an_alias_is_put_and_loaded(store):
    """`put` creates, then changes; the flow sees the aliases in force."""
    key, _ = await keys.create(store, name="payer")
    made = await aliases.put(store, name="smart", model="gpt-5", tags={"app": "x"})
    again = await aliases.put(store, name="smart", model="claude", billing_key_id=key.id)
    assert again.id == made.id
    assert await aliases.load_all(store) == [
        Alias(name="smart", model="claude", tags={"app": "x"}, billing_key_id=key.id)
    ]
    await aliases.update(store, made.id, {"enabled": False})
    assert await aliases.load_all(store) == []
    with pytest.raises(Conflict):
        await aliases.put(store, name="other", model="m", billing_key_id="nobody")


async def test_limits_and_budgets_are_put_and_loaded(store):
    """The same rule is changed, another one is another; disabled ones are not in force."""
    one = await limits.put(store, scope="key", match="k", metric="requests", limit=10)
    same = await limits.put(store, scope="key", match="k", metric="requests", limit=20, burst=5)
    await limits.put(store, scope="key", match="*", metric="requests", limit=5, shared=True)
    assert same.id == one.id
    assert [(rule.match, rule.limit, rule.shared) for rule in await limits.load_all(store)] == [
        ("k", 20, False),
        ("*", 5, True),
    ]
    await limits.update(store, one.id, {"enabled": False})
    assert [rule.match for rule in await limits.load_all(store)] == ["*"]

    budget = await budgets.put(store, scope="org", match="o", limit_nano=10**9, period="month")
    await budgets.put(store, scope="org", match="o", limit_nano=5, period="month", hard=False)
    assert [(b.id, b.limit_nano, b.hard) for b in await budgets.load_all(store)] == [
        (budget.id, 5, False)
    ]
    for wrong in ({"scope": "moon"}, {"metric": "speed"}, {"limit": -1}, {"window_s": 0}):
        values = {"scope": "key", "match": "x", "metric": "tokens", "limit": 1, **wrong}
        with pytest.raises(InvalidRequest):
            await limits.put(store, **values)


async def test_deployments_are_put_and_loaded_in_order(store):
    """Order and weights are kept; putting again replaces all."""
    await deployments.put(store, "smart", [("b", "m1", 1), ("a", "m2", 3)], ["cheap", "last"])
    await deployments.put(store, "other", [("a", "m", 1)])

    async def loaded() -> dict:
        routes = await deployments.load_routes(store, dict)
        return {route["name"]: (route["deployments"], route["fallbacks"]) for route in routes}

    assert await loaded() == {
        "smart": ((("b", "m1", 1), ("a", "m2", 3)), ("cheap", "last")),
        "other": ((("a", "m", 1),), ()),
    }
    await deployments.put(store, "smart", [("c", "m3", 1)])
    assert (await loaded())["smart"] == ((("c", "m3", 1),), ())
    await deployments.delete(store, "smart")
    assert set(await loaded()) == {"other"}
    with pytest.raises(NotFound):
        await deployments.delete(store, "smart")
    with pytest.raises(Conflict):
        await deployments.put(store, "twice", [("a", "m", 1), ("a", "m", 2)])


async def test_a_provider_is_loaded_as_the_flow_sees_it(store):
    """Credential, time-outs, headers and order; a new credential replaces the old."""
    made = await providers.create(
        store,
        VAULT,
        name="openai",
        type="openai",
        base_url="https://api.openai.com/v1",
        credential=Secret("sk-0123456789abcdefgh"),
        models=("gpt-5",),
        timeouts={"connect_s": 2.5},
        headers={"openai-organization": "org"},
        position=2,
    )
    await providers.create(store, VAULT, name="first", type="ollama", base_url="http://h/v1")
    assert made.credential_hint == "sk-…efgh"
    loaded = await providers.load_all(store, VAULT)
    assert loaded == [
        Provider(name="first", type="ollama", base_url="http://h/v1", source="database"),
        Provider(
            name="openai",
            type="openai",
            base_url="https://api.openai.com/v1",
            credential=Secret("sk-0123456789abcdefgh"),
            models=("gpt-5",),
            timeouts=Timeouts(connect_s=2.5),
            headers={"openai-organization": "org"},
            source="database",
        ),
    ]
    new = await providers.set_credential(store, VAULT, made.id, Secret("sk-another-credential"))
    assert new.credential_hint == "sk-…tial"
    assert (await providers.load_all(store, VAULT))[1].credential == Secret("sk-another-credential")
    await providers.set_credential(store, VAULT, made.id, None)
    assert (await providers.load_all(store, VAULT))[1].credential is None
    await providers.update(store, made.id, {"enabled": False, "position": -1})
    assert [p.enabled for p in await providers.load_all(store, VAULT)] == [False, True]
    with pytest.raises(Conflict, match="name"):
        await providers.create(store, VAULT, name="openai", type="x", base_url="https://x")
    for timeouts in ({"nonsense_s": 1}, {"connect_s": "x"}, [1]):
        with pytest.raises(InvalidRequest, match="timeouts"):
            await providers.update(store, made.id, {"timeouts": timeouts})
    with pytest.raises(InvalidRequest):
        await providers.update(store, made.id, {"credential_hint": "x"})
    await providers.hide(store, made.id)
    assert [p.name for p in await providers.load_all(store, VAULT)] == ["first"]
    with pytest.raises(NotFound):
        await providers.set_credential(store, VAULT, made.id, None)


async def test_an_admins_tokens_end_with_role_and_password(store):
    """token_version grows with what must end sessions, and with nothing else."""
    admin = await admins.create(
        store, email=" Ann@Example.com ", role="admin", password_hash="$argon2id$1"
    )
    assert admin.email == "ann@example.com"
    found, hashed = await admins.find_by_email(store, "ANN@example.com")
    assert (found, hashed) == (admin, Secret("$argon2id$1"))
    assert await admins.find_by_email(store, "bob@example.com") is None
    assert "argon2" not in repr(found)
    with pytest.raises(Conflict, match="email"):
        await admins.create(store, email="ann@example.com", role="viewer", password_hash="x")
    with pytest.raises(InvalidRequest):
        await admins.create(store, email="bob@example.com", role="god", password_hash="x")

    await admins.touch_login(store, admin.id)
    await admins.rehash(store, admin.id, "$argon2id$1", "$argon2id$2")
    await admins.rehash(store, admin.id, "$argon2id$1", "$argon2id$late")
    assert (await admins.find_by_email(store, admin.email))[1] == Secret("$argon2id$2")
    now = await admins.get(store, admin.id)
    assert now.token_version == 1
    assert now.last_login_at > 0
    await admins.set_password(store, admin.id, "$argon2id$3")
    assert (await admins.update(store, admin.id, {"name": "Ann"})).token_version == 2
    assert (await admins.update(store, admin.id, {"role": "viewer"})).token_version == 3
    assert (await admins.get(store, admin.id)).token_version == 3
    with pytest.raises(InvalidRequest):
        await admins.update(store, admin.id, {"token_version": 1})
    await admins.hide(store, admin.id)
    assert await admins.find_by_email(store, "ann@example.com") is None
    with pytest.raises(NotFound):
        await admins.set_password(store, admin.id, "x")


async def test_a_refresh_token_works_once(store):
    """Each use gives the next; a used one that comes again ends the whole family."""
    admin = await admins.create(store, email="a@b", role="admin", password_hash="x")
    late = 2**62
    start = await sessions.start(store, refresh_hash=b"1" * 32, expires_at=late, admin_id=admin.id)
    assert await sessions.is_alive(store, start.family)
    second = await sessions.rotate(store, b"1" * 32, next_hash=b"2" * 32, expires_at=late)
    assert (second.family, second.admin_id) == (start.family, admin.id)
    third = await sessions.rotate(store, b"2" * 32, next_hash=b"3" * 32, expires_at=late)
    assert third is not None
    again = await sessions.rotate(store, b"1" * 32, next_hash=b"4" * 32, expires_at=late)
    assert again == sessions.Reused(admin.id, None)
    assert not await sessions.is_alive(store, start.family)
    assert await sessions.rotate(store, b"3" * 32, next_hash=b"5" * 32, expires_at=late) is None
    assert await sessions.rotate(store, b"?" * 32, next_hash=b"6" * 32, expires_at=late) is None


async def test_a_session_ends_by_logout_and_by_time(store):
    """Neither an ended nor an expired session can be refreshed."""
    admin = await admins.create(store, email="a@b", role="admin", password_hash="x")
    one = await sessions.start(store, refresh_hash=b"1", expires_at=2**62, admin_id=admin.id)
    await sessions.end(store, one.family)
    assert not await sessions.is_alive(store, one.family)
    assert await sessions.rotate(store, b"1", next_hash=b"2", expires_at=2**62) is None
    old = await sessions.start(store, refresh_hash=b"3", expires_at=1, admin_id=admin.id)
    assert not await sessions.is_alive(store, old.family)
    assert await sessions.rotate(store, b"3", next_hash=b"4", expires_at=2**62) is None
    assert await sessions.prune(store) == 1
    with pytest.raises(InvalidRequest):
        await sessions.start(store, refresh_hash=b"5", expires_at=2**62)


async def test_a_service_token_is_checked_by_name_and_text(store):
    """Wrong text, disabled, expired or hidden: nobody."""
    token = await service_tokens.create(
        store, digest=digest("text"), name="ci", role="editor", hint="…text"
    )
    assert (await service_tokens.check(store, "ci", digest("text"))).id == token.id
    assert (await service_tokens.get(store, token.id)).last_used_at > 0
    assert await service_tokens.check(store, "ci", digest("other")) is None
    assert await service_tokens.check(store, "other", digest("text")) is None
    await store.execute("UPDATE service_tokens SET expires_at = 1")
    assert await service_tokens.check(store, "ci", digest("text")) is None
    await store.execute("UPDATE service_tokens SET expires_at = NULL, enabled = 0")
    assert await service_tokens.check(store, "ci", digest("text")) is None
    await store.execute("UPDATE service_tokens SET enabled = 1")
    await service_tokens.hide(store, token.id)
    assert await service_tokens.check(store, "ci", digest("text")) is None
