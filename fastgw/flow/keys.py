"""Principals in memory: a bounded cache by key digest, and beside it what is known to be unknown.

The truth is the store. A change there reaches the cache as dropped entries (`forget`); while the
store cannot be asked, entries stay usable for `max_stale_s` and no longer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from fastgw._ext.board import Counter
from fastgw.domain import Principal
from fastgw.errors import InvalidAPIKey, StoreUnavailable
from fastgw.flow.stamp import Freshness, Stamp

_LOADS_PER_SECOND = 200
"""Look-ups of keys not in memory, a worker; a flood of made-up keys must not become a flood of
queries."""
_MOST_UNKNOWN = 10_000


class Events(Protocol):
    """Gives the cells that count what happens."""

    def __getitem__(self, event: str, /) -> Counter:
        """Give the cell of "hit" or "miss"."""


class KeyCache:
    """Digest -> principal, least recently used first out."""

    def __init__(self, clock: Callable[[], float], events: Events) -> None:
        self._known: OrderedDict[bytes, Principal] = OrderedDict()
        self._digests: dict[str, set[bytes]] = {}
        self._unknown: dict[bytes, float] = {}
        self._stamps: dict[bytes, Stamp] = {}
        self.freshness = Freshness()
        """Until when principals may be used without asking the store."""
        self._clock = clock
        self._confirmed = clock()
        self.configure(size=100_000, negative_ttl_s=5, max_stale_s=300)
        self._allowance = float(_LOADS_PER_SECOND)
        self._allowed_at = clock()
        self._hits = events["hit"]
        self._misses = events["miss"]
        self.epoch = 0
        """Counts what was forgotten: a principal read before that may be out of date."""

    def configure(self, size: int, negative_ttl_s: float, max_stale_s: float) -> None:
        """Set how many principals are kept, and for how long what is unknown or unchecked."""
        self._size = size
        self._negative_ttl_s = negative_ttl_s
        self._max_stale_s = max_stale_s
        self.freshness.extend(self._confirmed + max_stale_s)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    def get(self, digest: bytes) -> Principal | None:
        """Give the principal, or None when it is not in memory.

        Raises `InvalidAPIKey` for a digest known to be unknown, `StoreUnavailable` when all that is
        known is older than `max_stale_s`.
        """
        principal = self._known.get(digest)
        if principal is not None:
            if self._clock() > self.freshness.until:
                raise StoreUnavailable("keys cannot be checked right now", retry_after=1)
            self._known.move_to_end(digest)
            self._hits.add(1)
            return principal
        until = self._unknown.get(digest)
        if until is not None:
            if self._clock() < until:
                self._hits.add(1)
                raise InvalidAPIKey("this key is unknown or disabled")
            del self._unknown[digest]
        self._misses.add(1)
        return None

    def is_unknown(self, digest: bytes) -> bool:
        """Tell whether the store said a moment ago that there is no such key."""
        until = self._unknown.get(digest)
        if until is None or self._clock() >= until:
            return False
        self._hits.add(1)
        return True

    def check_load(self) -> None:
        """Count one more look-up in the store; `StoreUnavailable` when it is one too many."""
        now = self._clock()
        self._allowance = min(
            float(_LOADS_PER_SECOND),
            self._allowance + (now - self._allowed_at) * _LOADS_PER_SECOND,
        )
        self._allowed_at = now
        if self._allowance < 1:
            raise StoreUnavailable("too many unknown keys at once", retry_after=1)
        self._allowance -= 1

    def put(self, digest: bytes, principal: Principal | None) -> None:
        """Remember what the store said; None: there is no such key."""
        if principal is None:
            if len(self._unknown) >= _MOST_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]
            self._unknown[digest] = self._clock() + self._negative_ttl_s
            return
        if digest in self._known:
            self._drop(digest)
        self._known[digest] = principal
        self._digests.setdefault(principal.key_id, set()).add(digest)
        while len(self._known) > self._size:
            self._drop(next(iter(self._known)))

    def confirm(self) -> None:
        """Note that the store was asked just now and nothing remembered is out of date."""
        self._confirmed = self._clock()
        self.freshness.extend(self._confirmed + self._max_stale_s)

    def stamp(self, digest: bytes, principal: Principal) -> Stamp | None:
        """Give the stamp of a principal in memory; it dies when the key is changed or forgotten.

        None for one that is no longer what is remembered: the key was changed since.
        """
        if self._known.get(digest) is not principal:
            return None
        stamp = self._stamps.get(digest)
        if stamp is None:
            stamp = self._stamps[digest] = Stamp()
        return stamp

    def forget(self, key_id: str) -> None:
        """Drop one key, which was changed in the store; it may also be a new one."""
        self.epoch += 1
        self._unknown.clear()
        for digest in tuple(self._digests.get(key_id, ())):
            self._drop(digest)

    def forget_where(self, predicate: Callable[[Principal], bool]) -> None:
        """Drop the keys whose principal satisfies `predicate`."""
        self.epoch += 1
        for digest in [d for d, principal in self._known.items() if predicate(principal)]:
            self._drop(digest)

    def clear(self) -> None:
        """Drop everything."""
        self.epoch += 1
        for stamp in self._stamps.values():
            stamp.kill()
        self._stamps.clear()
        self._known.clear()
        self._digests.clear()
        self._unknown.clear()

    def _drop(self, digest: bytes) -> None:
        principal = self._known.pop(digest)
        stamp = self._stamps.pop(digest, None)
        if stamp is not None:
            stamp.kill()
        digests = self._digests[principal.key_id]
        digests.discard(digest)
        if not digests:
            del self._digests[principal.key_id]
