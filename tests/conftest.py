"""Fixtures for every room: real servers, fresh databases, the event loop the gateway uses."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop

from fastgw.storage import Store, migrate, open_store
from tests import servers

ENGINES = ("sqlite", "postgresql")


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Any]:
    return {"uvloop": uvloop.new_event_loop}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show the tables that tests left with `record_property("table", …)`, from any worker."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, table in report.user_properties:
            if name == "table" and report.when == "call":
                terminalreporter.write_line(f"\n{table}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Generator[None, Any, Any]:
    """Reports travel between xdist's processes as UTF-8; captured text may hold what has none."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def pg_console() -> Iterator[servers.Console]:
    """A console on the session's PostgreSQL: makes and drops databases."""
    try:
        server = servers.start_postgres()
    except servers.MissingServerError as error:
        pytest.fail(str(error), pytrace=False)
    console = servers.Console(server.dsn)
    try:
        yield console
    finally:
        console.close()
        server.close()


@pytest.fixture(scope="session")
def pg_template(pg_console: servers.Console) -> Iterator[str]:
    """The name of a database with our schema, never connected to: the others are its copies."""
    name = pg_console.create()
    pg_console.run(migrate.upgrade(pg_console.url(name)))
    yield name
    pg_console.drop(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with our schema."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    servers.run_alone(migrate.upgrade(f"sqlite:///{path}"))
    return path


@pytest.fixture
def empty_pg_url(pg_console: servers.Console) -> Iterator[str]:
    """The URL of a PostgreSQL database with nothing in it."""
    name = pg_console.create()
    yield pg_console.url(name)
    pg_console.drop(name)


@pytest.fixture
def pg_url(pg_console: servers.Console, pg_template: str) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database with our schema."""
    name = pg_console.create(pg_template)
    yield pg_console.url(name)
    pg_console.drop(name)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a fresh SQLite database with our schema."""
    path = tmp_path / "store" / "fastgw.db"
    path.parent.mkdir(mode=0o700)
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=ENGINES)
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh database with our schema, once for each engine."""
    return request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "pg_url"}[request.param])


@pytest.fixture(params=ENGINES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without any schema, once for each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/folder/fastgw.db"
    return request.getfixturevalue("empty_pg_url")


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """A store on a fresh database with our schema, once for each engine."""
    opened = await open_store(store_url, migrate=False)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def redis_server_url() -> Iterator[str]:
    """The URL of the session's Redis."""
    try:
        server = servers.start_redis()
    except servers.MissingServerError as error:
        pytest.fail(str(error), pytrace=False)
    try:
        yield server.url
    finally:
        server.close()


@pytest.fixture
def redis_url(redis_server_url: str) -> str:
    """The URL of an empty Redis database."""
    with redis.Redis.from_url(redis_server_url) as client:
        client.flushdb()
    return redis_server_url


@pytest.fixture(scope="session", params=ENGINES)
def session_store_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a database that many tests share, once for each engine."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("shared") / "fastgw.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    console = request.getfixturevalue("pg_console")
    name = console.create(request.getfixturevalue("pg_template"))
    yield console.url(name)
    console.drop(name)
