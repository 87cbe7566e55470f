"""Logging in: nothing is told to who does not know the password, and guessing gets slow."""

from __future__ import annotations

import asyncio

import argon2
import pytest

from fastgw.admin import session
from fastgw.admin.passwords import Passwords, hash_now, needs_rehash
from fastgw.admin.throttle import Throttle
from fastgw.errors import TooManyAttempts
from fastgw.storage.sql import admins
from tests.admin.conftest import EMAIL, PASSWORD, REAL_HASHER, REAL_NOBODY, served


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_the_right_password_gives_tokens_that_work(api, root):
    """Access token, refresh token and how long the first lives, at most a day."""
    answer = await api.login()
    assert answer.status == 200
    assert answer.json.keys() == {"access_token", "refresh_token", "expires_in"}
    assert 0 < answer.json["expires_in"] <= 24 * 3600
    me = await api.me(answer.json["access_token"])
    assert me.status == 200
    assert me.json == {"id": root.id, "email": EMAIL, "name": "", "role": "admin"}
    assert (await admins.get(api.store, root.id)).last_login_at is not None
    assert await api.audited() == [("login", EMAIL, root.id)]


async def test_the_email_address_may_be_written_in_any_case(api, root):
    """As it may when an account is made."""
    assert (await api.login(" Root@Example.COM ")).status == 200


async def test_wrong_unknown_and_disabled_get_the_same_answer(api, root, password_hash):
    """Nobody learns which accounts there are; the attempts are on record."""
    await admins.create(
        api.store, email="off@example.com", password_hash=password_hash, role="admin", enabled=False
    )
    wrong = await api.login(password="wrong password indeed")
    unknown = await api.login("nobody@example.com")
    disabled = await api.login("off@example.com")
    assert (wrong.status, wrong.code) == (401, "invalid_token")
    assert wrong.text == unknown.text == disabled.text
    names = ["root@example.com", "nobody@example.com", "off@example.com"]
    assert await api.audited() == [("login_failed", name, None) for name in names]


def test_an_unknown_account_costs_the_same_work():
    """Its stand-in is a hash with today's parameters, which takes a whole check to refuse."""
    assert not REAL_HASHER.check_needs_rehash(REAL_NOBODY)
    today = argon2.extract_parameters(REAL_NOBODY)
    assert today.type is argon2.Type.ID
    assert today.memory_cost >= 19_456
    assert today.time_cost >= 2
    with pytest.raises(argon2.exceptions.VerifyMismatchError):
        REAL_HASHER.verify(REAL_NOBODY, PASSWORD)


async def test_a_hash_of_the_past_is_made_anew_and_ends_no_tokens(api, old_password_hash):
    """The next login with stronger parameters writes them; the password stays."""
    admin = await admins.create(
        api.store, email=EMAIL, password_hash=old_password_hash, role="viewer"
    )
    first = await api.login()
    assert first.status == 200
    _, stored = await admins.find_by_email(api.store, EMAIL)
    assert not needs_rehash(stored.reveal())
    assert (await api.login()).status == 200
    assert (await api.me(first.json["access_token"])).status == 200
    assert (await admins.get(api.store, admin.id)).token_version == admin.token_version


async def test_a_rehash_does_not_undo_a_change_of_password(store, root, password_hash):
    """A login with the old password that was checked just before must not bring it back."""
    new = hash_now("another long password")
    await admins.set_password(store, root.id, new)
    await admins.rehash(store, root.id, password_hash, "old password, new parameters")
    _, stored = await admins.find_by_email(store, EMAIL)
    assert stored.reveal() == new


# -- throttling ---------------------------------------------------------------------------------


async def test_an_account_that_is_guessed_at_waits_longer_each_time(one_store, password_hash):
    """Past the free failures: 429 with retry-after, even for the right password; others go on."""
    for email in (EMAIL, "b@example.com"):
        await admins.create(one_store, email=email, password_hash=password_hash, role="viewer")
    clock = Clock()
    serving = served(one_store)
    serving.admin[session.ACCOUNTS] = Throttle(1, clock)
    async with serving as api:
        for wait in (1, 2, 4):
            assert (await api.login(password="a long guess")).status == 401
            refused = await api.login()
            assert (refused.status, refused.code) == (429, "too_many_attempts")
            assert refused.headers["retry-after"] == str(wait)
            clock.now += wait
        assert (await api.login("b@example.com")).status == 200
        assert (await api.login()).status == 200
        assert (await api.login(password="a long guess")).status == 401


async def test_guesses_side_by_side_gain_nothing(one_store):
    """An attempt counts before it is checked."""
    serving = served(one_store)
    serving.admin[session.ACCOUNTS] = Throttle(2, Clock())
    async with serving as api:
        answers = await asyncio.gather(*(api.login(password=f"guess {n} long") for n in range(8)))
        assert sorted(answer.status for answer in answers) == [401, 401] + [429] * 6
        assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status == 429)
        assert len(await api.audited()) == 2


async def test_an_address_that_guesses_many_accounts_waits_too(one_store, password_hash):
    """A success does not wipe out what the address did before, or one account would open all."""
    await admins.create(one_store, email=EMAIL, password_hash=password_hash, role="viewer")
    serving = served(one_store)
    serving.admin[session.ADDRESSES] = Throttle(2, Clock())
    async with serving as api:
        assert (await api.login("a@example.com")).status == 401
        assert (await api.login()).status == 200
        assert (await api.login("b@example.com")).status == 401
        assert (await api.login()).status == 429
        assert (await api.refresh("made up")).status == 429


async def test_a_store_that_is_away_is_no_failed_attempt(store):
    """503, and nobody is locked out when it is back."""
    serving = served(store)
    serving.admin[session.ACCOUNTS] = Throttle(1, Clock())
    serving.admin[session.ADDRESSES] = Throttle(1, Clock())
    await store.close()
    async with serving as api:
        for _ in range(3):
            answer = await api.login()
            assert (answer.status, answer.code) == (503, "store_unavailable")


def test_the_wait_doubles_has_an_end_and_is_forgotten():
    """1, 2, 4 ... at most 300 s; a quarter of an hour of peace forgets all."""
    clock = Clock()
    throttle = Throttle(1, clock)
    throttle.begin("x")
    waits = []
    for _ in range(12):
        with pytest.raises(TooManyAttempts) as caught:
            throttle.begin("x")
        waits.append(caught.value.retry_after)
        clock.now += caught.value.retry_after
        throttle.begin("x")
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    clock.now += 901
    throttle.begin("x")
    throttle.begin("y")


def test_the_throttle_remembers_a_bounded_number():
    """The longest silent are forgotten first, so a flood of names cannot wipe out a busy one."""
    throttle = Throttle(2, Clock())
    for number in range(10_050):
        throttle.begin(f"name {number}")
        if number % 5_000 == 0:
            throttle.forget("busy")
            throttle.begin("busy")
            throttle.begin("busy")
    with pytest.raises(TooManyAttempts):
        throttle.begin("busy")
    assert len(throttle._failures) == 10_000


async def test_who_leaves_early_frees_no_place():
    """A thread goes on when its caller has left: no flood of dropped logins can start more."""
    working = Passwords()
    try:
        logins = [asyncio.ensure_future(working.verify(None, "x")) for _ in range(64)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyAttempts):
            await working.verify(None, "x")
        for login in logins:
            login.cancel()
        await asyncio.gather(*logins, return_exceptions=True)
        assert working._threads._max_workers == 2
        assert await working.verify(None, "x") is False
    finally:
        working.close()
