"""Signals, reloads, dead workers, changed rows: the server stays true and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import configuration
from tests.e2e.test_records import ask
from tests.processes import Gateway, Mock
from tests.waiting import eventually_sync


def test_term_under_load_ends_every_request_and_keeps_every_record(own_gateway, mock):
    """Every answer that began ends whole; each accepted request has its record; exit 0."""
    gateway = own_gateway
    key = gateway.create_key()
    ids: list[str] = []
    started = threading.Barrier(17)

    def client(_: int) -> None:
        first = True
        while True:
            try:
                status, headers, body = ask(
                    gateway, key, "mock/mock?chunks=20&delay_ms=5", stream=True
                )
            except OSError:  # refused: the server is closed
                return
            if status == 503:
                return
            assert status == 200
            assert body.endswith(b"data: [DONE]\n\n")
            ids.append(headers["x-fastgw-id"])
            if first:
                first = False
                started.wait(20)

    with ThreadPoolExecutor(16) as pool:
        clients = [pool.submit(client, number) for number in range(16)]
        started.wait(20)
        gateway.signal(signal.SIGTERM)
        for each in clients:
            each.result(30)
    assert gateway.wait() == 0, gateway.text
    recorded = [record.id for record in gateway.records()]
    assert sorted(recorded) == sorted(set(recorded))
    assert set(ids) <= set(recorded)
    assert len(ids) >= 16


def test_a_stream_that_outlives_the_grace_gets_an_error_event(own_gateway, mock):
    """The client is told, the record says partial, the exit is clean."""
    gateway = own_gateway
    key = gateway.create_key()
    config = configuration(mock)
    assert config["server"]["shutdown_grace_s"] == 5
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, gateway, key, "mock/mock?chunks=900&delay_ms=20", stream=True)
        eventually_sync(lambda: json.loads(gateway.get("/health")[1])["in_flight"] == 1)
        gateway.signal(signal.SIGTERM)
        error = asked.exception(30)
    assert b'"shutting_down"' in error.partial
    assert gateway.wait() == 0
    (record,) = gateway.records()
    assert (record.status, record.error_code, record.usage_source) == (
        503,
        "shutting_down",
        "partial",
    )


def test_a_changed_file_is_served_and_a_bad_one_is_not(own_gateway, mock):
    """A new alias works without a restart; a typo is named in the log and changes nothing."""
    gateway = own_gateway
    key = gateway.create_key()
    config = configuration(mock)
    assert ask(gateway, key, "newcomer")[0] == 404
    config["aliases"].append({"name": "newcomer", "model": "smart"})
    gateway.write_config(config)
    eventually_sync(lambda: ask(gateway, key, "newcomer")[0] == 200)
    gateway.write_config({**config, "provider": []})
    gateway.wait_for("reload_refused")
    assert "providers" in gateway.text
    assert ask(gateway, key, "newcomer")[0] == 200
    config["aliases"].pop()
    gateway.write_config(config)
    gateway.signal(signal.SIGHUP)
    eventually_sync(lambda: ask(gateway, key, "newcomer")[0] == 404)


def test_changes_in_the_database_are_noticed(own_gateway):
    """A revoked key is refused within 2 s, whoever revoked it."""
    gateway = own_gateway
    key = gateway.create_key("doomed")
    assert ask(gateway, key, "smart")[0] == 200
    gateway.revoke_key("doomed")
    eventually_sync(lambda: ask(gateway, key, "smart")[0] == 401, timeout=3)


def test_a_dead_worker_is_replaced_and_counters_go_on(store_url, mock, tmp_path):
    """kill -9 of a worker: another takes its socket and its cells; others never notice."""
    config = configuration(mock)
    config["server"] = {**config["server"], "workers": 2}
    gateway = Gateway(tmp_path, store_url, config)
    try:
        gateway.ready()
        key = gateway.create_key()
        for _ in range(20):
            assert ask(gateway, key, "smart")[0] == 200
        before = served(gateway)
        assert before == 20
        victim = gateway.children()[0]
        os.kill(victim, signal.SIGKILL)
        eventually_sync(
            lambda: len(gateway.children()) == 2 and victim not in gateway.children(),
            what="a new worker",
        )
        for _ in range(20):
            assert ask(gateway, key, "smart")[0] == 200
        assert served(gateway) == 40
    finally:
        assert gateway.stop() == 0


def served(gateway: Gateway) -> int:
    """Give how many chat requests were answered 200, as Prometheus would see it."""
    total = 0
    for line in gateway.get("/metrics")[1].decode().splitlines():
        if line.startswith("fastgw_requests_total{") and 'status="200"' in line:
            total += int(float(line.rsplit(" ", 1)[1]))
    return total


def test_workers_end_when_their_supervisor_is_killed(own_gateway):
    """kill -9 of the parent: no orphan goes on serving by an old configuration."""
    workers = own_gateway.children()
    os.kill(own_gateway.pid, signal.SIGKILL)
    own_gateway.wait()
    eventually_sync(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_a_second_server_on_the_same_port_is_refused(own_gateway, tmp_path):
    """SO_REUSEPORT must not let two servers share a port by accident."""
    port = own_gateway.url.rsplit(":", 1)[1]
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(AssertionError, match="in use"):
        Gateway(other, f"sqlite:///{other}/x.db", {"server": {"port": int(port)}})


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/gateways", "/metrics"])
def test_the_open_routes(gateway, path, mock: Mock):
    """They need no key and tell no secret."""
    status, body = gateway.get(path)
    assert status == 200
    assert b"sk-upstream" not in body
