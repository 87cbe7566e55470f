"""Notices what changed in the store: the version row, polled each second, is the truth."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from fastgw.domain import Principal
from fastgw.errors import StoreUnavailable
from fastgw.flow.keys import KeyCache
from fastgw.storage import Store
from fastgw.storage.sql import config_version

log = structlog.get_logger(__name__)

_EVERY_S = 1.0

_LISTED = frozenset({"providers", "models", "deployments", "fallbacks", "model_aliases"})
"""Tables the directory is made from."""
_RULES = frozenset({"limits", "budgets"})
_OWNERS: dict[str, Callable[[Principal], str | None]] = {
    "users": lambda principal: principal.user_id,
    "teams": lambda principal: principal.team_id,
    "orgs": lambda principal: principal.org_id,
}


class Changes:
    """Keeps this worker's key cache, directory, limits and budgets true to the store."""

    def __init__(
        self,
        store: Store,
        keys: KeyCache,
        refresh: Callable[[], Awaitable[None]],
        refresh_rules: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._keys = keys
        self._refresh = refresh
        self._refresh_rules = refresh_rules
        self._version = -1
        self._stale = False
        self._rules_stale = False
        self._wake = asyncio.Event()
        self.store_ok = True
        """Whether the store answered the last time it was asked."""

    async def start(self) -> None:
        """Take the present version as known: nothing was read before it."""
        self._version = await config_version.current(self._store)

    def demand(self) -> None:
        """Have directory and rules read again now, or when the store is back."""
        self._stale = self._rules_stale = True
        self._wake.set()

    async def run(self) -> None:
        """Poll until cancelled. Everything is applied here, one after the other."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.poll()
            except StoreUnavailable as exc:
                if self.store_ok:
                    log.warning("store_unavailable", reason=exc.message)
                self.store_ok = False
            except Exception:
                # Nothing is confirmed, so what is in memory runs out, as without a store.
                if self.store_ok:
                    log.exception("changes_unreadable")
                self.store_ok = False
            else:
                if not self.store_ok:
                    log.info("store_available")
                self.store_ok = True

    async def poll(self) -> None:
        """Ask once and apply what is new."""
        current = await config_version.current(self._store)
        if current != self._version:
            self._forget(await config_version.changes_since(self._store, self._version))
            self._version = current
        self._keys.confirm()
        if self._stale:
            self._stale = False
            try:
                await self._refresh()
            except BaseException:
                self._stale = True
                raise
        if self._rules_stale:
            self._rules_stale = False
            try:
                await self._refresh_rules()
            except BaseException:
                self._rules_stale = True
                raise

    def _forget(self, changes: list[tuple[int, str, str]] | None) -> None:
        if changes is None:  # too long ago: what changed is no longer known
            self._keys.clear()
            self._stale = self._rules_stale = True
            return
        for _, noun, object_id in changes:
            if noun == "api_keys":
                self._keys.forget(object_id)
            elif noun in _OWNERS:
                owner = _OWNERS[noun]
                self._keys.forget_where(lambda p, o=owner, i=object_id: o(p) == i)  # type: ignore[misc]
                self._rules_stale = True  # a default of the configuration may name it
            elif noun in _LISTED:
                self._stale = True
            elif noun in _RULES:
                self._rules_stale = True
