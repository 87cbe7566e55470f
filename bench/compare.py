"""Put fastgw beside its peers in one interleaved run: CPU a request and a chunk, latency, memory.

`python -m bench.compare` starts the compiled provider and, each alone on the gateway's core, every
peer that is installed; then the load driver drives them in turn, row by row, A B C A B C, so that
what else the machine does meets all of them. Figures are medians over the rounds.

- CPU comes from the process's own books (`bench.accounting`), from before the row until the peer
  has gone quiet, so work put off (a batch of records) is paid for; divided by completed answers.
- A CPU figure counts only if the gateway's core was at least 95 % busy: an idle gateway pays for
  wake-ups that a loaded one shares, so prices at different loads do not compare. Others are marked.
- Every answer is checked against what the provider says directly, byte count and event count; an
  error anywhere voids its cell and makes the exit code 1.
- The direct rows (driver to provider, no gateway) say what the tools themselves can do; CPU and
  busy there are the provider's.

Everything stays on loopback and in a temporary folder, is bounded in time, and is stopped by pid.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench import accounting
from bench.peers import PEERS
from bench.peers.record import Peer, Place, Running
from bench.processes import BenchError, build_tools, drive, free_port, start_upstream, stop
from bench.render import plain

CHUNKS = 50
DIRECT = "direct"
BUSY_ENOUGH = 0.95
QUIET_SECONDS = 0.2
QUIET_SHARE = 0.02
SETTLE_SECONDS = 3.0


@dataclass(frozen=True)
class Row:
    """One kind of load."""

    name: str
    title: str
    connections: int
    prompt_bytes: int = 1200
    stream: bool = False
    chunk_delay_us: int = 0


ROWS = (
    Row("json-1", "JSON 1.2 KB, 1 connection", 1),
    Row("json-16", "JSON 1.2 KB, 16 connections", 16),
    Row("json-64", "JSON 1.2 KB, 64 connections", 64),
    Row("json-100k", "JSON 100 KB, 16 connections", 16, prompt_bytes=100 * 1024),
    Row("burst", f"stream, {CHUNKS} chunks in a burst, 64 connections", 64, stream=True),
    Row("paced", f"stream, {CHUNKS} chunks paced, 64 connections", 64, stream=True,
        chunk_delay_us=400),
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What all measurements of one run share."""

    tools: Path
    folder: Path
    upstream: Running
    gateway_core: int
    upstream_core: int
    driver_core: int
    seconds: int


def write_body(row: Row, folder: Path) -> Path:
    """Write the row's request body: a chat request of the wanted size."""
    body: dict[str, Any] = {
        "model": "bench",
        "messages": [
            {"role": "system", "content": "You are a careful assistant."},
            {"role": "user", "content": ""},
        ],
        "temperature": 0.2,
        "max_tokens": 512,
    }
    if row.stream:
        body |= {"stream": True, "chunk_delay_us": row.chunk_delay_us}
    room = row.prompt_bytes - len(json.dumps(body))
    text = "Tell me what a gateway is for, and what it may cost. " * (room // 53 + 1)
    body["messages"][1]["content"] = text[:room]
    path = folder / f"{row.name}.json"
    path.write_text(json.dumps(body))
    return path


def options_for(row: Row, running: Running, body: Path) -> list[str]:
    """Give the driver's options for a row, without its length."""
    options = ["--url", f"127.0.0.1:{running.port}", "--body", str(body)]
    options += ["--path", running.stream_path if row.stream else running.path]
    options += ["--connections", str(row.connections)]
    for header in (*running.headers, "Accept: application/json", "User-Agent: bench/1"):
        options += ["--header", header]
    if row.stream:
        options.append("--stream")
    return options


def expect(bench: Bench, row: Row, body: Path) -> list[str]:
    """Ask the provider itself once; give the options that hold every peer to its answer."""
    options = options_for(row, bench.upstream, body)
    said = drive(bench.tools, [*options, "--requests", "1"], core=bench.driver_core, timeout=60)
    if said["errors"]:
        raise BenchError(f"the provider itself fails row {row.name}: {said}")
    return [
        "--expect-bytes", str(said["payload_bytes"]), "--expect-events", str(said["events"]),
    ]  # fmt: skip


def settle(pid: int, core: int) -> accounting.Reading:
    """Wait until the peer has gone quiet, at most a few seconds; give its books then."""
    deadline = time.monotonic() + SETTLE_SECONDS
    before = accounting.read(pid, core)
    while time.monotonic() < deadline:
        time.sleep(QUIET_SECONDS)
        after = accounting.read(pid, core)
        if after.cpu_ns - before.cpu_ns < QUIET_SECONDS * QUIET_SHARE * 1e9:
            return after
        before = after
    return before


def measure(
    bench: Bench, row: Row, running: Running, body: Path, expected: list[str]
) -> dict[str, Any]:
    """Drive one peer through one row once."""
    core = bench.upstream_core if running is bench.upstream else bench.gateway_core
    pid = running.process.pid
    options = [*options_for(row, running, body), *expected, "--seconds", str(bench.seconds)]
    before = accounting.read(pid, core)
    said = drive(bench.tools, options, core=bench.driver_core, timeout=bench.seconds + 90)
    loaded = accounting.read(pid, core)
    if running.process.poll() is not None:
        raise BenchError(f"{running.process.args!r} died in row {row.name}")
    settled = settle(pid, core)
    return figures(said, before, loaded, settled)


def figures(
    said: dict[str, Any],
    before: accounting.Reading,
    loaded: accounting.Reading,
    settled: accounting.Reading,
) -> dict[str, Any]:
    """Make one cell of what the driver said and the books of before, under and after the load."""
    answers, events = said["requests"], said["events"]
    spent = (settled.cpu_ns - before.cpu_ns) + (settled.interrupt_ns - before.interrupt_ns)
    under_load = (loaded.cpu_ns - before.cpu_ns) + (loaded.interrupt_ns - before.interrupt_ns)
    there = said["seconds"] * 1e9 - (loaded.steal_ns - before.steal_ns)
    cell = {
        "cpu_us_request": spent / answers / 1e3 if answers else None,
        "cpu_us_chunk": spent / events / 1e3 if events else None,
        "busy": min(under_load / there, 1.0),
        "others": max(0.0, 1 - (under_load + loaded.idle_ns - before.idle_ns) / there),
        "per_second": said["per_second"],
        "rss_mib": loaded.rss_bytes / 2**20,
        "reads_per_answer": said["reads"] / answers if answers else None,
        "requests": answers,
        "errors": said["errors"],
    }
    for name in ("p50_us", "p99_us", "first_p50_us"):
        cell[name] = said[name]
    return cell | {name: said[name] for name in said if name.startswith("error_")}


def summarise(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the medians of a cell's rounds; `counts` says whether its CPU figures compare."""
    names = ("cpu_us_request", "cpu_us_chunk", "busy", "others", "per_second", "rss_mib",
             "p50_us", "p99_us", "first_p50_us", "reads_per_answer")  # fmt: skip
    result: dict[str, Any] = {}
    for name in names:
        values = [cell[name] for cell in cells if cell[name] is not None]
        result[name] = round(median(values), 3) if values else None
    result["errors"] = sum(cell["errors"] for cell in cells)
    result["requests"] = sum(cell["requests"] for cell in cells)
    result["counts"] = result["busy"] >= BUSY_ENOUGH and not result["errors"]
    return result | {"rounds": cells}


def start_peers(
    peers: list[Peer], bench: Bench, ending: ExitStack
) -> tuple[dict[str, Running], list[str]]:
    """Start every peer that is installed; give those, and a note for each that is not."""
    running, notes = {}, []
    for peer in peers:
        if reason := peer.missing():
            notes.append(f"{peer.name}: left out, {reason}")
            continue
        folder = bench.folder / peer.name
        folder.mkdir()
        place = Place(folder, free_port(), bench.upstream.port, bench.gateway_core)
        running[peer.name] = peer.start(place)
        ending.callback(stop, running[peer.name].process)
    return running, notes


def take_turns(
    bench: Bench, rows: list[Row], running: dict[str, Running], rounds: int
) -> Iterator[tuple[Row, str, dict[str, Any]]]:
    """Measure row by row with the peers in turn, `rounds` times over; first warm everything."""
    bodies = {row: write_body(row, bench.folder) for row in rows}
    expected = {row: expect(bench, row, bodies[row]) for row in rows}
    for row in rows:
        for name, one in running.items():
            options = [*options_for(row, one, bodies[row]), *expected[row], "--requests", "500"]
            said = drive(bench.tools, options, core=bench.driver_core, timeout=120)
            if said["errors"]:
                raise BenchError(f"{name} fails row {row.name} when warming up: {said}")
    for _ in range(rounds):
        for row in rows:
            for name, one in running.items():
                yield row, name, measure(bench, row, one, bodies[row], expected[row])


def run(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the whole comparison; give the results as they go into the JSON file."""
    chosen = [peer for peer in PEERS if not options.peers or peer.name in options.peers]
    rows = [row for row in ROWS if not options.rows or row.name in options.rows]
    tools = build_tools()
    gateway_core, upstream_core, driver_core = options.cores
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="fastgw-bench-")))
        log = folder / "upstream.log"
        upstream, port = start_upstream(tools, core=upstream_core, log=log, chunks=CHUNKS)
        ending.callback(stop, upstream)
        direct = Running(upstream, port)
        bench = Bench(
            tools, folder, direct, gateway_core, upstream_core, driver_core, options.seconds
        )
        running, notes = start_peers(chosen, bench, ending)
        cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row, name, cell in take_turns(bench, rows, {DIRECT: direct, **running}, options.rounds):
            cells.setdefault((row.name, name), []).append(cell)
            say(f"{row.name:>10} {name:>10}  {cell['per_second']:>9.0f}/s  busy {cell['busy']:.0%}")
    table = []
    for row in rows:
        peers = {name: summarise(cells[row.name, name]) for name in (DIRECT, *running)}
        table.append({"name": row.name, "title": row.title, "stream": row.stream, "peers": peers})
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": accounting.machine(),
        "settings": {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "cores": list(options.cores),
        },
        "versions": {peer.name: peer.version() for peer in chosen if peer.name in running},
        "notes": notes,
        "rows": table,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of load in each cell and round")
    parser.add_argument("--peers", nargs="*", choices=[peer.name for peer in PEERS])
    parser.add_argument("--rows", nargs="*", choices=[row.name for row in ROWS])
    parser.add_argument(
        "--cores", type=int, nargs=3, default=(0, 1, 1), metavar=("GATEWAY", "PROVIDER", "DRIVER")
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    options = parser.parse_args(argv)
    if missing := set(options.cores) - os.sched_getaffinity(0):
        parser.error(f"no core {min(missing)} for this process: the bench needs two cores")
    if options.cores[0] in options.cores[1:]:
        parser.error("the gateway's core serves the gateway alone")
    if not (1 <= options.rounds <= 100 and 1 <= options.seconds <= 600):
        parser.error("1 to 100 rounds of 1 to 600 seconds")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run, print the table, write the JSON; 1 when anything went wrong."""
    options = parse(argv)
    # The servers are stopped on the way out, so a polite kill has to unwind like Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, {options.cores[-1]})
    try:
        results = run(options, say=lambda line: print(line, file=sys.stderr, flush=True))
    except (BenchError, subprocess.SubprocessError) as exc:
        print(exc, file=sys.stderr)
        return 1
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(plain(results))
    errors = sum(cell["errors"] for row in results["rows"] for cell in row["peers"].values())
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
