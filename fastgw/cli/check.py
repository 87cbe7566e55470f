"""`fastgw check`: whether the configuration is right and everything it names answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

import redis.asyncio
import typer
from redis.exceptions import RedisError

from fastgw import _ext
from fastgw.cli.output import progress
from fastgw.cli.probe import Step, probe, sum_up
from fastgw.cli.run import Failed, Run, verb
from fastgw.config import Settings
from fastgw.domain import Provider
from fastgw.errors import GatewayError, SchemaMismatch
from fastgw.server.snapshot import provider_of
from fastgw.storage.address import parse
from fastgw.storage.migrate import current
from fastgw.storage.sql import providers

COLUMNS = ("what", "result", "detail")
RESULTS = {True: "ok", False: "FAILED", None: "-"}
REDIS_TIMEOUT_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the verb."""
    verb(app, "check")(check)


async def check(run: Run) -> None:
    """Check the configuration, then reach database, Redis and each provider. Changes nothing."""
    loaded = run.loaded()
    where = str(loaded.path) if loaded.path else "no file; defaults and environment"
    findings = [Step("config", True, where), Step("build", True, _ext.BUILD)]
    progress("reaching the database ...")
    database, stored = await _reach_database(run)
    progress("reaching Redis ...")
    findings += [database, await _reach_redis(loaded.settings)]
    progress("reaching providers ...")
    findings += await _reach_providers(loaded.settings, stored)
    progress("")
    rows = [
        {"what": step.name, "result": RESULTS[step.ok], "detail": step.detail} for step in findings
    ]
    run.rows(rows, COLUMNS)
    failed = [step.name for step in findings if step.ok is False]
    if failed:
        raise Failed(f"failed: {', '.join(failed)}")


async def _reach_database(run: Run) -> tuple[Step, Sequence[Provider]]:
    """Open the database if it is there, and read the providers that are stored in it."""
    settings = run.loaded().settings.database
    try:
        path = parse(run.database_url()).path
        if path is not None and not path.exists():
            return Step("database", True, f"{path} is not there yet; `serve` makes it"), []
        store = await run.store(migrate=False)
        # Without a stored provider there is no need for a master key, which would be made.
        stored = await providers.PROVIDERS.page(store, limit=1)
        everyone = await providers.load_all(store, run.vault()) if stored.items else []
    except SchemaMismatch as exc:
        if settings.auto_migrate and await current(run.database_url()) is None:
            return Step("database", True, "is empty; `serve` makes the schema"), []
        return Step("database", False, exc.message), []
    except GatewayError as exc:
        return Step("database", False, exc.message), []
    return Step("database", True, f"{store.engine}, {len(everyone)} providers stored"), everyone


async def _reach_providers(settings: Settings, stored: Sequence[Provider]) -> list[Step]:
    configured = [provider_of(entry) for entry in settings.providers]
    names = {provider.name for provider in configured}
    everyone = [*configured, *(each for each in stored if each.name not in names)]
    if not everyone:
        return [Step("providers", None, "none is configured")]
    enabled = [provider for provider in everyone if provider.enabled]
    steps = map(sum_up, await asyncio.gather(*map(probe, enabled)))
    return [
        Step(f"provider {provider.name}", step.ok, step.detail)
        for provider, step in zip(enabled, steps, strict=True)
    ]


async def _reach_redis(settings: Settings) -> Step:
    if settings.redis.url is None:
        return Step("redis", None, "not configured; limits are kept in each process")
    url = settings.redis.url.reveal()
    # Sentinel and cluster: any member answers a ping.
    base, _, kind = urlsplit(url).scheme.partition("+")
    first = url.split("://", 1)[1].split(",")[0] if kind else url.split("://", 1)[1]
    client = redis.asyncio.Redis.from_url(
        f"{base}://{first}",
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
    )
    try:
        await client.ping()
    except (RedisError, OSError, ValueError) as exc:
        return Step("redis", False, f"{type(exc).__name__}: {exc}")
    finally:
        await client.aclose()
    return Step("redis", True, kind or base)
