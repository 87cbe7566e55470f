"""After the login: refresh tokens are good for once, and every end is an end."""

from __future__ import annotations

import asyncio

from fastgw.admin.passwords import hash_now
from fastgw.domain import now_ms
from fastgw.storage.sql import admins
from tests.admin.conftest import EMAIL, PASSWORD

NEW_PASSWORD = "an even longer password"


async def test_a_refresh_token_is_exchanged_once(api, root):
    """The next pair works, the login is the same one."""
    first = (await api.login()).json
    second = await api.refresh(first["refresh_token"])
    assert second.status == 200
    assert second.json["refresh_token"] != first["refresh_token"]
    assert (await api.me(second.json["access_token"])).status == 200
    assert (await api.me(first["access_token"])).status == 200
    third = await api.refresh(second.json["refresh_token"])
    assert third.status == 200


async def test_a_refresh_token_that_comes_twice_ends_the_whole_login(api, root):
    """Somebody has a copy: neither he nor the owner goes on. It is on record once."""
    first = (await api.login()).json
    second = (await api.refresh(first["refresh_token"])).json
    other = (await api.login()).json
    assert (await api.refresh(first["refresh_token"])).status == 401
    assert (await api.refresh(second["refresh_token"])).status == 401
    assert (await api.refresh(first["refresh_token"])).status == 401
    assert (await api.me(second["access_token"])).status == 401
    assert (await api.me(first["access_token"])).status == 401
    assert (await api.me(other["access_token"])).status == 200
    actions = [(action, actor) for action, _, actor in await api.audited()]
    assert actions == [("login", root.id), ("login", root.id), ("refresh_reused", root.id)]


async def test_of_two_at_once_only_one_gets_tokens(api, root):
    """However close they come."""
    first = (await api.login()).json
    answers = await asyncio.gather(*(api.refresh(first["refresh_token"]) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [200, 401, 401, 401, 401]


async def test_a_refresh_token_of_yesterday(api, root):
    """It is over, although the login was never ended."""
    first = (await api.login()).json
    await api.store.execute("UPDATE admin_sessions SET expires_at = $1", now_ms() - 1)
    assert (await api.refresh(first["refresh_token"])).status == 401
    assert (await api.me(first["access_token"])).status == 401


async def test_unknown_refresh_tokens(api, root):
    """An access token is not a refresh token, and made-up ones are unknown."""
    tokens = (await api.login()).json
    for token in ("", "made up", tokens["access_token"][:200], tokens["refresh_token"][:-1], "é€"):
        answer = await api.refresh(token)
        assert (answer.status, answer.code) == (401, "invalid_token")


async def test_logout_ends_access_and_refresh(api, root):
    """At once, this login and no other."""
    tokens, other = (await api.login()).json, (await api.login()).json
    gone = await api.ask("POST", "/admin/auth/logout", tokens["access_token"])
    assert (gone.status, gone.text) == (204, "")
    assert (await api.me(tokens["access_token"])).status == 401
    assert (await api.refresh(tokens["refresh_token"])).status == 401
    assert (await api.ask("POST", "/admin/auth/logout", tokens["access_token"])).status == 401
    assert (await api.me(other["access_token"])).status == 200
    assert (await api.audited())[-1] == ("logout", EMAIL, root.id)


async def both_dead(api, tokens):
    assert (await api.me(tokens["access_token"])).status == 401
    assert (await api.refresh(tokens["refresh_token"])).status == 401
    assert (await api.me(tokens["access_token"])).status == 401


async def test_a_change_of_password_ends_all_tokens(api, root):
    """Who stole a refresh token is thrown out by a new password."""
    tokens = (await api.login()).json
    await admins.set_password(api.store, root.id, hash_now(NEW_PASSWORD))
    await both_dead(api, tokens)
    assert (await api.login()).status == 401
    assert (await api.login(password=NEW_PASSWORD)).status == 200


async def test_a_change_of_role_ends_all_tokens(api, root):
    """The next login has the new role."""
    tokens = (await api.login()).json
    await admins.update(api.store, root.id, {"role": "viewer"})
    await both_dead(api, tokens)
    again = (await api.login()).json
    assert (await api.me(again["access_token"])).json["role"] == "viewer"


async def test_a_disabled_or_deleted_account_ends_all_tokens(api, root, password_hash):
    """Also when it is enabled again later."""
    tokens = (await api.login()).json
    await admins.update(api.store, root.id, {"enabled": False})
    await both_dead(api, tokens)
    await admins.update(api.store, root.id, {"enabled": True})
    await both_dead(api, tokens)
    tokens = (await api.login()).json
    await admins.hide(api.store, root.id)
    await both_dead(api, tokens)
    assert (await api.login()).status == 401


async def test_audit_rows_say_from_where_and_with_which_request(api, root):
    """The client's label and address are kept."""
    await api.ask(
        "POST",
        "/admin/auth/login",
        json={"email": EMAIL, "password": PASSWORD},
        headers={"x-request-id": "from-the-client"},
    )
    row = await api.store.fetchrow("SELECT * FROM audit_log")
    assert (row["address"], row["request_id"]) == ("127.0.0.1", "from-the-client")
    assert (row["actor_type"], row["noun"]) == ("admin", "admin_sessions")
    assert PASSWORD not in str(dict(row))
