"""The bench's arithmetic and tables: nothing that does not compare is shown as if it did."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from bench import accounting
from bench.accounting import Reading
from bench.compare import figures, summarise, takes_part
from bench.edits import BEGUN
from bench.governed import MODEL, govern
from bench.peers import PEERS
from bench.processes import spawn, stop, wait_for_line
from bench.render import BEGIN, END, TIMES, insert, markdown, plain, ratio
from bench.rows import ROWS, write_body
from fastgw.storage import open_store
from fastgw.storage.sql import budgets, keys, limits
from fastgw.wire.apikey import digest
from tests.processes import run
from tests.waiting import eventually_sync

SAID: dict[str, Any] = {
    "requests": 1000, "events": 0, "seconds": 1.0, "per_second": 1000.0, "errors": 0, "reads": 1000,
    "p50_us": 1.0, "p99_us": 2.0, "first_p50_us": 1.0,
}  # fmt: skip
NOTHING = Reading(cpu_ns=0, interrupt_ns=0, steal_ns=0, idle_ns=0, rss_bytes=0)


def reading(**fields: int) -> Reading:
    return Reading(**{**NOTHING.__dict__, **fields})


def results(**peers: dict[str, Any]) -> dict[str, Any]:
    """A results file with one row of 64 connections."""
    row = {"name": "json-64", "title": "JSON", "stream": False, "peers": peers}
    return {
        "date": "2026-01-01",
        "machine": {"cpu": "a CPU", "cores": 2, "kernel": "Linux 6.1"},
        "settings": {"rounds": 1, "seconds": 1},
        "versions": {name: "1.0" for name in peers if name != "direct"},
        "notes": [],
        "rows": [row],
    }


def cell(cpu_us: float, *, busy: float = 1.0, errors: int = 0) -> dict[str, Any]:
    loaded = reading(cpu_ns=int(busy * 1e9))
    settled = reading(cpu_ns=int(cpu_us * 1e6))
    return summarise([figures({**SAID, "errors": errors}, NOTHING, loaded, settled)])


def test_work_put_off_is_paid_for():
    """CPU used after the load ended is in the price, but not in how busy the core was."""
    loaded, settled = reading(cpu_ns=500_000_000), reading(cpu_ns=900_000_000)
    got = figures(SAID, NOTHING, loaded, settled)
    assert (got["cpu_us_request"], got["busy"]) == (900.0, 0.5)


def test_stolen_time_does_not_make_a_gateway_idle():
    """A core that was there for 0.8 s of 1 s and ran all of it was busy."""
    loaded = reading(cpu_ns=800_000_000, steal_ns=200_000_000)
    assert figures(SAID, NOTHING, loaded, loaded)["busy"] == 1.0


def test_an_idle_gateways_price_is_marked():
    """Below 95 % busy, for it or for the yardstick, the ratio carries the mark."""
    peers = {"nginx": cell(20), "idle": cell(30, busy=0.94), "busy": cell(40, busy=0.95)}
    row = results(**peers)["rows"][0]
    assert [ratio(row, name) for name in peers] == [
        f"1.00 {TIMES}",
        f"1.50 {TIMES}*",
        f"2.00 {TIMES}",
    ]
    row["peers"]["nginx"] = cell(20, busy=0.5)
    assert ratio(row, "busy") == f"2.00 {TIMES}*"


def test_a_disturbed_latency_is_marked():
    """At one connection nobody is busy; what counts is that nobody else ran on the core."""
    shown = results(direct=cell(1), alone=cell(20, busy=0.3), beside=cell(20, busy=0.3))
    shown["rows"][0]["name"] = "json-1"
    for one in shown["rows"][0]["peers"].values():
        one |= {"p50_us": 21.0, "others": 0.0}
    shown["rows"][0]["peers"]["beside"]["others"] = 0.2
    assert "(direct: 21) | 0 | 0* |" in markdown(shown)


def test_errors_void_a_cell():
    """A busy gateway that answered wrongly once does not count."""
    assert not cell(10, errors=1)["counts"]


def test_a_peer_without_an_answer_has_no_price():
    """No completed request: no division, no price, no ratio."""
    none = summarise([figures({**SAID, "requests": 0, "errors": 9}, NOTHING, NOTHING, NOTHING)])
    shown = results(direct=cell(1), nginx=cell(20), dead=none)
    assert none["cpu_us_request"] is None
    assert "dead" in plain(shown)
    assert f"| 20.0 (1.00 {TIMES}) | * |" in markdown(shown)


def test_the_tables_name_versions_and_conditions():
    """A figure without its machine and versions is not shown."""
    shown = results(direct=cell(1), nginx=cell(20), fastgw=cell(15))
    text = markdown(shown)
    assert "| | nginx 1.0 | fastgw 1.0 |" in text
    assert f"15.0 (0.75 {TIMES})" in text
    assert "a CPU with 2 cores, Linux 6.1" in text
    assert "*" not in text


def test_configurations_stand_apart_and_against_the_plain_one():
    """Further configurations of fastgw are no columns; they are priced in times of fastgw."""
    shown = results(direct=cell(1), nginx=cell(20), fastgw=cell(15), **{"fastgw-2": cell(30)})
    shown["variants"] = {"fastgw-2": "two workers"}
    text = markdown(shown)
    assert "| | nginx 1.0 | fastgw 1.0 |" in text
    assert f"| as above | 15.0 (1.00 {TIMES}) |" in text
    assert f"| two workers | 30.0 (2.00 {TIMES}) |" in text


def test_who_takes_no_part_in_a_row_has_no_figure_there():
    """A peer that has no such row shows a dash, and the provider refuses nothing."""
    shown = results(direct=cell(1), nginx=cell(20), fastgw=cell(15))
    refused = {"name": "refused", "title": "refused", "stream": False}
    shown["rows"].append({**refused, "peers": {"fastgw": cell(12)}})
    assert "| CPU µs a request: refused | - | 12.0 |" in markdown(shown)
    assert "refused" in plain(shown)


def test_memory_of_silent_streams_is_shown_for_who_has_it():
    """A peer without such a figure has a dash."""
    shown = results(direct=cell(1), nginx=cell(20), fastgw=cell(15))
    shown["idle"] = {"nginx": {"idle_rss_mib": 13.9, "kib_per_stream": 17.8}}
    text = markdown(shown)
    assert "| RSS MiB, idle | 13.9 | - |" in text
    assert "| KiB an open, silent stream | 17.8 | - |" in text
    assert "TLS" not in text


def test_everybody_takes_part_where_it_can():
    """TLS rows need a peer that speaks it, the refused row one with limits."""
    rows = {row.name: row for row in ROWS}
    peers = {peer.name: peer for peer in PEERS}
    assert len(peers) == len(PEERS)
    for peer in PEERS:
        assert peer.rows is None or peer.rows <= rows.keys()
    assert takes_part(peers["fastgw"], rows["refused"])
    assert not takes_part(peers["nginx"], rows["refused"])
    assert not takes_part(None, rows["refused"])
    assert takes_part(peers["nginx"], rows["json-tls"])
    assert not takes_part(peers["fastgw-2"], rows["json-tls"])


async def test_the_bench_governs_what_it_measures(store_url):
    """The key exists with three limits and two budgets; the other is over its limit at once."""
    governed = await govern(store_url, edited=3)
    store = await open_store(store_url, migrate=False)
    try:
        principal = await keys.find_by_hash(store, digest(governed.key))
        refused = await keys.find_by_hash(store, digest(governed.refused_key))
        rules = await limits.load_all(store)
        mine = [rule for rule in rules if rule.match in {principal.key_id, MODEL}]
        assert {rule.metric for rule in mine} == {"requests", "tokens", "concurrent"}
        assert [rule.limit for rule in rules if rule.match == refused.key_id] == [1]
        assert len(await budgets.load_all(store)) == 2
    finally:
        await store.close()
    assert len(set(governed.edited)) == 3


def test_keys_are_edited_at_the_rate_that_is_named(tmp_path, sqlite_url):
    """The editor says when it begins, edits one key after another, tells its rate at the end."""
    governed = run(govern(sqlite_url, edited=3))
    log = tmp_path / "edits.log"
    argv = [sys.executable, "-m", "bench.edits", sqlite_url, "50", *governed.edited]
    process = spawn(argv, core=min(os.sched_getaffinity(0)), log=log)
    try:
        wait_for_line(process, BEGUN, log)

        async def edited() -> int:
            store = await open_store(sqlite_url, migrate=False)
            try:
                every = [await keys.get(store, key_id) for key_id in governed.edited]
                return sum(key.priority is not None for key in every)
            finally:
                await store.close()

        eventually_sync(lambda: run(edited()) == 3, 20, "three edited keys")
    finally:
        stop(process)
    assert float(log.read_text().splitlines()[-1]) > 0


def test_only_what_stands_between_the_markers_changes():
    """Text before and after stays; a second rendering replaces the first."""
    once = insert(f"before\n{BEGIN}\nold\n{END}\nafter\n", "new")
    assert f"before\n{BEGIN}\nnew\n{END}\nafter\n" == once == insert(once, "new")


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, BEGIN + BEGIN + END, BEGIN + END + END])
def test_missing_or_doubled_markers_are_refused(text):
    """A README without exactly one pair is left alone."""
    with pytest.raises(ValueError, match="markers"):
        insert(text, "new")


def test_bodies_have_the_size_their_row_names(tmp_path):
    """1.2 KB and 100 KB, to within the last word."""
    for row in ROWS:
        assert abs(write_body(row, tmp_path).stat().st_size - row.prompt_bytes) <= 2


def test_a_childs_cpu_time_is_counted_with_its_parent():
    """The books of a tree hold what a worker below it burns."""
    burn = "sum(i * i for i in range(2_000_000))"
    script = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''{burn}; input()'''])"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                got = accounting.read(process.pid, min(os.sched_getaffinity(0)))
                alone = accounting.cpu_time_ns(process.pid)
                if got.cpu_ns > alone + 50_000_000:
                    break
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert len(accounting.descendants(process.pid)) >= 2
            assert got.rss_bytes > 1 << 20
        finally:
            process.communicate(b"\n")


def test_a_process_that_has_gone_costs_nothing():
    """Reading the books of an ended process gives zero, not an exception."""
    process = subprocess.Popen(["true"])
    process.wait()
    assert accounting.cpu_time_ns(process.pid) == 0
