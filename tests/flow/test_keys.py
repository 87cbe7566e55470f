"""The key cache never vouches for more than the store said, and never asks it too much."""

from __future__ import annotations

from collections import defaultdict

import pytest

from fastgw.domain import Principal
from fastgw.errors import InvalidAPIKey, StoreUnavailable
from fastgw.flow.keys import KeyCache


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Counted:
    def __init__(self) -> None:
        self.value = 0

    def add(self, n: int, /) -> None:
        self.value += n


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock) -> KeyCache:
    cache = KeyCache(clock, defaultdict(Counted))
    cache.configure(size=3, negative_ttl_s=5, max_stale_s=300)
    return cache


def someone(key_id: str, **fields) -> Principal:
    return Principal(key_id=key_id, name=key_id, **fields)


def test_an_unknown_key_is_refused_from_memory_until_its_time_is_over(cache, clock):
    """A negative answer saves look-ups, and is asked for again after 5 s."""
    assert cache.get(b"x") is None
    cache.put(b"x", None)
    with pytest.raises(InvalidAPIKey):
        cache.get(b"x")
    clock.now += 5
    assert cache.get(b"x") is None


def test_a_new_key_is_found_although_it_was_unknown_a_moment_ago(cache):
    """Creating a key is a change of an id nobody has seen: what is unknown is forgotten."""
    cache.put(b"x", None)
    cache.forget("new")
    assert cache.get(b"x") is None


def test_the_least_recently_used_key_goes_first(cache):
    """The bound holds, and use keeps an entry."""
    for name in "abc":
        cache.put(name.encode(), someone(name))
    assert cache.get(b"a") is not None
    cache.put(b"d", someone("d"))
    assert len(cache) == 3
    assert cache.get(b"a") is not None
    assert cache.get(b"b") is None


def test_a_change_drops_every_digest_of_the_key(cache):
    """A regenerated key can have two digests in memory; both go."""
    cache.put(b"old", someone("k"))
    cache.put(b"new", someone("k"))
    cache.forget("k")
    assert cache.get(b"old") is None
    assert cache.get(b"new") is None
    assert len(cache) == 0


def test_keys_of_a_changed_team_are_dropped(cache):
    """A change of an owner concerns its keys only."""
    cache.put(b"a", someone("a", team_id="t"))
    cache.put(b"b", someone("b", team_id="u"))
    cache.forget_where(lambda principal: principal.team_id == "t")
    assert cache.get(b"a") is None
    assert cache.get(b"b") is not None


def test_while_the_store_is_away_keys_work_for_so_long_and_no_longer(cache, clock):
    """Past max_stale_s a known key is a 503, never a 401."""
    cache.put(b"a", someone("a"))
    clock.now += 300
    assert cache.get(b"a") is not None
    clock.now += 1
    with pytest.raises(StoreUnavailable):
        cache.get(b"a")
    cache.confirm()
    assert cache.get(b"a") is not None


def test_made_up_keys_cannot_flood_the_store(cache, clock):
    """200 look-ups a second a worker; the rest is told to come back."""
    for _ in range(200):
        cache.check_load()
    with pytest.raises(StoreUnavailable):
        cache.check_load()
    clock.now += 0.01
    cache.check_load()
