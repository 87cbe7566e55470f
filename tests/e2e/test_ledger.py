"""The journal in real processes: nothing it holds is late, lost or doubled, however they end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fastgw.events.journal import Place
from tests import servers
from tests.e2e.conftest import configuration
from tests.e2e.test_relay import post
from tests.events.ledgers import Worker, names
from tests.processes import Gateway, Mock
from tests.waiting import eventually_sync

Start = Callable[..., Gateway]


@pytest.fixture
def start(tmp_path: Path, sqlite_url: str, mock: Mock):
    """Start a gateway of this test's own, any number of times on the same folder."""
    started: list[Gateway] = []

    def start(url: str = sqlite_url, **config: Any) -> Gateway:
        started.append(Gateway(tmp_path, url, {**configuration(mock), **config}))
        started[-1].ready()
        return started[-1]

    yield start
    for gateway in started:
        with suppress(AssertionError):
            gateway.stop()


def ask(gateway: Gateway, key: str, **fields: Any) -> int:
    body = {"model": "smart", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return post(gateway.url + "/v1", json.dumps(body).encode(), key)[0]


def count(gateway: Gateway) -> int:
    return gateway.in_store(lambda store: store.fetchval("SELECT count(*) FROM usage_records"))


def journal(gateway: Gateway) -> list[str]:
    return [path.name for path in (gateway.folder / "fastgw-data/journal").glob("*.*")]


def test_an_exit_of_0_says_that_everything_is_in_the_store(start):
    """SIGTERM right after the last answer."""
    gateway = start()
    key = gateway.create_key()
    assert [ask(gateway, key, stream=stream) for stream in (True, False, True)] == [200] * 3
    assert gateway.stop() == 0
    assert count(gateway) == 3
    assert journal(gateway) == []


def test_what_was_left_is_in_the_store_before_it_is_ready(start, tmp_path):
    """Closed and open exchanges of a machine that was lost."""
    place = Place.make(tmp_path / "fastgw-data/journal")
    worker = Worker(place)

    async def serve() -> None:
        await worker.serve(*names(300))
        await worker.open("fgx_000300", 4321)

    asyncio.run(serve())
    worker.die()
    gateway = start()
    assert count(gateway) == 301
    held = gateway.in_store(
        lambda store: store.fetchval(
            "SELECT cost_nano FROM usage_records WHERE usage_source = 'held'"
        )
    )
    assert held == 4321


def test_a_new_worker_waits_for_what_its_predecessor_wrote(start):
    """It serves nobody before: what was spent is read from the store."""
    gateway = start()
    key = gateway.create_key()
    loader = gateway.loader()
    os.kill(loader, signal.SIGSTOP)
    try:
        assert ask(gateway, key) == 200
        (victim,) = gateway.children()
        os.kill(victim, signal.SIGKILL)
        eventually_sync(lambda: gateway.children() not in ([], [victim]), 10, "a new worker")
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(ask(gateway, key)))
        asking.start()
        asking.join(1.0)
        assert answers == []
    finally:
        os.kill(loader, signal.SIGCONT)
    asking.join(20)
    assert answers == [200]
    assert len(gateway.records(2)) == 2


def test_a_killed_loader_comes_again(start):
    """And goes on where it was."""
    gateway = start()
    key = gateway.create_key()
    assert ask(gateway, key) == 200
    gateway.records(1)
    loader = gateway.loader()
    os.kill(loader, signal.SIGKILL)
    assert ask(gateway, key) == 200
    assert len(gateway.records(2)) == 2
    assert gateway.loader() != loader
    assert gateway.stop() == 0


def test_without_a_journal_the_folder_goes_with_the_process(start):
    """/health says so; records are in the store all the same when it ends."""
    gateway = start(journal={"mode": "none"})
    key = gateway.create_key()
    assert json.loads(gateway.get("/health")[1])["journal"]["mode"] == "none"
    (folder,) = {
        Path(line.split()[-1]).parent
        for line in Path(f"/proc/{gateway.children()[0]}/maps").read_text().splitlines()
        if line.endswith(".seg")
    }
    assert ask(gateway, key) == 200
    assert gateway.stop() == 0
    assert count(gateway) == 1
    assert not folder.exists()
    assert not (gateway.folder / "fastgw-data/journal").exists()


def test_a_store_that_stays_away_keeps_the_exit_from_being_0(start, tmp_path):
    """What could not be stored is in the journal, and the next start brings it in."""
    try:
        postgres = servers.Postgres()
        postgres.launch()
    except servers.MissingServerError as error:
        pytest.fail(str(error), pytrace=False)
    try:
        gateway = start(postgres.dsn)
        key = gateway.create_key()
        assert ask(gateway, key) == 200
        postgres.kill()
        assert ask(gateway, key) == 200
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 1
        assert "usage_left_in_journal" in gateway.text
        assert journal(gateway) != []
        postgres.start_again()
        again = start(postgres.dsn)
        assert count(again) == 2
        assert again.stop() == 0
    finally:
        postgres.close()


def test_every_request_can_be_logged(start):
    """One line for each record, of either lane."""
    gateway = start(logs={"requests": True, "format": "json"})
    key = gateway.create_key()
    for _ in range(3):
        assert ask(gateway, key, stream=True) == 200
    assert ask(gateway, key, model="unknown/thing") == 404
    lines = [json.loads(line) for line in gateway.output if '"event": "request"' in line]
    assert [line["status"] for line in lines] == [200, 200, 200, 404]
    assert len({line["id"] for line in lines}) == 4
    served = json.loads(gateway.get("/health")[1])
    assert re.search(r"'lines': \d+", str(served["journal"]))
