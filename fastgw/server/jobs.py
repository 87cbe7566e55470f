"""Work that belongs to the whole installation and happens by the clock; one worker does it."""

from __future__ import annotations

import asyncio

import structlog

from fastgw.catalog import CatalogError, sync
from fastgw.catalog.schedule import Schedule
from fastgw.config import Settings
from fastgw.domain import now_ms
from fastgw.errors import StoreUnavailable
from fastgw.storage import Store
from fastgw.storage.sql import (
    catalog_syncs,
    config_version,
    decisions,
    kept_answers,
    sessions,
    usage,
)

log = structlog.get_logger(__name__)

_LOOK_S = 60.0


class Jobs:
    """Syncs the catalogue when it is due, makes next month's partition, forgets what is over.

    What is due is read from the database, so that several hosts do it once between them; if two
    do it at the same moment, the second changes nothing.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self.settings = settings

    async def run(self) -> None:
        """Look once a minute, until cancelled."""
        while True:
            try:
                await self.look()
            except StoreUnavailable as exc:
                log.warning("jobs_wait", reason=exc.message)
            except Exception:
                log.exception("job_failed")  # the others are still due in a minute
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Do what is due."""
        await usage.ensure_partitions(self._store, now_ms())
        if (months := self.settings.usage.keep_months) is not None:
            dropped = await usage.forget(self._store, months, now_ms())
            if dropped:
                log.info("usage_forgotten", partitions=dropped)
        await config_version.prune(self._store)
        await sessions.prune(self._store)
        await decisions.prune(self._store)
        await kept_answers.prune(self._store, self.settings.idempotency.max_total_bytes)
        schedule = self.settings.catalog.sync_schedule
        if schedule is not None and await self._is_due(Schedule.parse(schedule)):
            await self._sync(self.settings.catalog.sync_url)

    async def _is_due(self, schedule: Schedule) -> bool:
        last = (await catalog_syncs.list(self._store, limit=1)).items
        return not last or schedule.next_after(last[0].created_at) <= now_ms()

    async def _sync(self, url: str) -> None:
        try:
            reading = sync.judge(await sync.fetch(url))
            changes, _ = await catalog_syncs.sync(self._store, reading.models.values(), source=url)
        except CatalogError as exc:
            log.warning("catalog_sync_failed", source=url, reason=str(exc))
            await catalog_syncs.fail(self._store, source=url, error=str(exc))
            return
        log.info(
            "catalog_synced",
            source=url,
            added=len(changes.added),
            changed=len(changes.updated),
            deprecated=len(changes.deprecated),
        )
