"""Put fastgw beside its peers in one interleaved run: CPU a request and a chunk, latency, memory.

`python -m bench.compare` starts the compiled provider and, each alone on the gateway's core, every
peer that is installed; then the load driver drives them in turn, row by row, A B C A B C, so that
what else the machine does meets all of them. Figures are medians over the rounds.

- CPU comes from the process's own books (`bench.accounting`), from before the row until the peer
  has gone quiet, so work put off (a batch of records) is paid for; divided by completed answers.
  The whole tree of a gateway's processes counts, whatever it is that does its work; a database
  server does not, and runs on the other core.
- A CPU figure counts only if the gateway's core was at least 95 % busy: an idle gateway pays for
  wake-ups that a loaded one shares, so prices at different loads do not compare. Others are marked.
- Every answer is checked against what the provider says directly, byte count and event count; an
  error anywhere voids its cell and makes the exit code 1. A peer that rewrites answers is held to
  its own first one, and the refused row to the status 429.
- The direct rows (driver to provider, no gateway) say what the tools themselves can do; CPU and
  busy there are the provider's.
- fastgw runs with everything on: a key, three limits, two budgets, usage records, in PostgreSQL
  where the tests would find a server. Its further configurations take part in fewer rows.

Everything stays on loopback and in a temporary folder, is bounded in time, and is stopped by pid.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench import accounting
from bench.idle import idle_memory
from bench.peers import PEERS
from bench.peers.fastgw import EDITS_PER_SECOND
from bench.peers.indexed import PACKAGES
from bench.peers.record import Peer, Place, Running, Tls
from bench.processes import (
    BenchError,
    build_tools,
    drive,
    free_port,
    speak_tls,
    start_upstream,
    stop,
)
from bench.render import plain
from bench.rows import CHUNKS, ROWS, Row, options_for, write_body
from tests import servers
from tests.server.certificates import Authority

DIRECT = "direct"
BUSY_ENOUGH = 0.95
QUIET_SECONDS = 0.2
QUIET_SHARE = 0.02
SETTLE_SECONDS = 3.0
WARM_SECONDS = 1


@dataclass(frozen=True)
class Bench:
    """What all measurements of one run share; `upstreams` by whether they speak TLS."""

    tools: Path
    folder: Path
    upstreams: dict[bool, Running]
    gateway_core: int
    upstream_core: int
    driver_core: int
    seconds: int
    database: Callable[[], str] | None = None
    tls: Tls | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Contender:
    """A peer that runs, and what each of its answers has to be, row by row."""

    name: str
    running: Running
    expected: dict[str, list[str]] = field(default_factory=dict)
    peer: Peer | None = None


def expect(bench: Bench, row: Row, running: Running, body: Path) -> list[str]:
    """Ask once, the provider itself as a rule; give the options that hold everybody to its answer.

    Nothing is known of a refusal before it comes but its status, which every row's options hold.
    """
    if row.refused:
        return []
    options = [*options_for(row, running, body), "--requests", "1"]
    said = drive(bench.tools, options, core=bench.driver_core, timeout=60)
    if said["errors"]:
        raise BenchError(f"row {row.name} fails at its first request: {said}")
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


def measure(bench: Bench, row: Row, contender: Contender, body: Path) -> dict[str, Any]:
    """Drive one peer through one row once."""
    running = contender.running
    core = bench.upstream_core if contender.peer is None else bench.gateway_core
    pid = running.process.pid
    options = [*options_for(row, running, body), *contender.expected[row.name]]
    options += ["--seconds", str(bench.seconds)]
    with running.beside() as beside:
        before = accounting.read(pid, core)
        said = drive(bench.tools, options, core=bench.driver_core, timeout=bench.seconds + 90)
        loaded = accounting.read(pid, core)
    if running.process.poll() is not None:
        raise BenchError(f"{running.process.args!r} died in row {row.name}")
    settled = settle(pid, core)
    return figures(said, before, loaded, settled) | (beside or {})


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
             "p50_us", "p99_us", "first_p50_us", "reads_per_answer",
             "edits_per_second")  # fmt: skip
    result: dict[str, Any] = {}
    for name in names:
        values = [cell[name] for cell in cells if cell.get(name) is not None]
        result[name] = round(median(values), 3) if values else None
    result["errors"] = sum(cell["errors"] for cell in cells)
    result["requests"] = sum(cell["requests"] for cell in cells)
    result["counts"] = result["busy"] >= BUSY_ENOUGH and not result["errors"]
    return result | {"rounds": cells}


def start_upstreams(bench: Bench, ending: ExitStack) -> None:
    """Start the provider, and once more with TLS where the tools know it."""
    for tls in (None, bench.tls) if bench.tls else (None,):
        log = bench.folder / f"upstream-{'tls' if tls else 'plain'}.log"
        files = (tls.cert, tls.key) if tls else None
        process, port = start_upstream(
            bench.tools, core=bench.upstream_core, log=log, chunks=CHUNKS, files=files
        )
        ending.callback(stop, process)
        authority = tls.authority if tls else ""
        bench.upstreams[tls is not None] = Running(process, port, authority=authority)


def start_peer(
    bench: Bench, peer: Peer, ending: ExitStack, *, tls: bool, purpose: str = ""
) -> Contender:
    """Start a peer in a folder of its own."""
    folder = bench.folder / f"{peer.name}{'-tls' if tls else ''}{purpose}"
    folder.mkdir()
    port = bench.upstreams[tls].port
    place = Place(
        folder, free_port(), port, bench.gateway_core, bench.database, bench.tls if tls else None
    )
    running = peer.start(place)
    ending.callback(stop, running.process)
    return Contender(peer.name, running, {}, peer)


def takes_part(peer: Peer | None, row: Row) -> bool:
    """Say whether a row is measured for a peer; the provider itself refuses nothing."""
    if peer is None:
        return not row.refused
    if row.tls and not peer.tls:
        return False
    if row.refused and not peer.refuses:
        return False
    return peer.rows is None or row.name in peer.rows


def start_peers(
    bench: Bench, peers: list[Peer], rows: list[Row], ending: ExitStack
) -> dict[bool, list[Contender]]:
    """Start every peer that is installed, those that speak TLS twice; note each that is not."""
    contenders = {tls: [Contender(DIRECT, bench.upstreams[tls])] for tls in bench.upstreams}
    for peer in peers:
        if reason := peer.missing():
            bench.notes.append(f"{peer.name}: left out, {reason}")
            continue
        for tls, those in contenders.items():
            if any(row.tls == tls and takes_part(peer, row) for row in rows):
                those.append(start_peer(bench, peer, ending, tls=tls))
    return contenders


def warm_up(bench: Bench, row: Row, contender: Contender, body: Path) -> bool:
    """Load a peer for a moment; False: it has no such row after all."""
    running, peer = contender.running, contender.peer
    if row.refused:  # its first requests are within the limit of each worker
        asked = [*options_for(row, running, body), "--requests", "50"]
        drive(bench.tools, asked, core=bench.driver_core, timeout=60)
    source = running if peer is not None and peer.rewrites else bench.upstreams[row.tls]
    contender.expected[row.name] = expect(bench, row, source, body)
    options = [*options_for(row, running, body), *contender.expected[row.name]]
    options += ["--seconds", str(WARM_SECONDS)]
    said = drive(bench.tools, options, core=bench.driver_core, timeout=120)
    if said["errors"] and row.refused:
        bench.notes.append(f"{contender.name}: row {row.name} left out, it refuses nothing")
        return False
    if said["errors"]:
        raise BenchError(f"{contender.name} fails row {row.name} when warming up: {said}")
    return True


def take_turns(
    bench: Bench, rows: list[Row], contenders: dict[bool, list[Contender]], rounds: int
) -> Iterator[tuple[Row, str, dict[str, Any]]]:
    """Measure row by row with the peers in turn, `rounds` times over; first warm everything."""
    bodies = {row: write_body(row, bench.folder) for row in rows}
    turns = [
        (row, contender)
        for row in rows
        for contender in contenders[row.tls]
        if takes_part(contender.peer, row) and warm_up(bench, row, contender, bodies[row])
    ]
    for _ in range(rounds):
        for row, contender in turns:
            yield row, contender.name, measure(bench, row, contender, bodies[row])


def measure_idle(bench: Bench, peers: list[Peer]) -> dict[str, dict[str, float]]:
    """Give the memory of each peer before any load, and what silent streams add to it.

    Each is started for this alone: what the streams leave behind must not count as its size.
    """
    found: dict[str, dict[str, float]] = {}
    for peer in peers:
        if peer.variant or peer.missing() or not (peer.rows is None or "stream-1" in peer.rows):
            continue
        for tls in bench.upstreams:
            if tls and not peer.tls:
                continue
            with ExitStack() as ending:
                running = start_peer(bench, peer, ending, tls=tls, purpose="-idle").running
                measured = idle_memory(running)
            mine = found.setdefault(peer.name, {})
            mine |= {f"tls_{name}" if tls else name: value for name, value in measured.items()}
    return found


def open_database(notes: list[str], ending: ExitStack) -> Callable[[], str] | None:
    """Start PostgreSQL as the tests do; give what makes a database in it and gives its URL."""
    try:
        server = servers.start_postgres()
    except servers.MissingServerError as exc:
        notes.append(f"fastgw keeps its records in SQLite here: {exc}")
        return None
    ending.callback(server.close)
    console = servers.Console(server.dsn)
    ending.callback(console.close)
    version = console.run(console.ask("SHOW server_version")).split()[0]
    notes.append(
        f"fastgw's records go to PostgreSQL {version} on the other core, whose CPU time is not"
        " counted; all of fastgw's own processes are."
    )
    return lambda: console.url(console.create())


def run(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the whole comparison; give the results as they go into the JSON file."""
    chosen = [peer for peer in PEERS if not options.peers or peer.name in options.peers]
    rows = [row for row in ROWS if not options.rows or row.name in options.rows]
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="fastgw-bench-")))
        bench = make_bench(options, folder, ending)
        if not bench.tls:
            rows = [row for row in rows if not row.tls]
        start_upstreams(bench, ending)
        idle = {} if options.no_idle else measure_idle(bench, chosen)
        contenders = start_peers(bench, chosen, rows, ending)
        cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for row, name, cell in take_turns(bench, rows, contenders, options.rounds):
            cells.setdefault(row.name, {}).setdefault(name, []).append(cell)
            say(f"{row.name:>11} {name:>15}  {cell['per_second']:>9.0f}/s  busy {cell['busy']:.0%}")
    table = [
        {
            "name": row.name,
            "title": row.title,
            "stream": row.stream,
            "latency": row.latency,
            "peers": {name: summarise(each) for name, each in cells.get(row.name, {}).items()},
        }
        for row in rows
    ]
    bench.notes.extend(slow_edits(table))
    running = [peer for peer in chosen if not peer.missing()]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": accounting.machine(),
        "settings": {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "cores": list(options.cores),
        },
        "versions": {peer.name: peer.version() for peer in running},
        "variants": {peer.name: peer.variant for peer in running if peer.variant},
        "notes": bench.notes,
        "idle": idle,
        "rows": table,
    }


def slow_edits(table: list[dict[str, Any]]) -> Iterator[str]:
    """Say where keys were not edited as fast as the configuration's name claims."""
    for row in table:
        for name, cell in row["peers"].items():
            if (reached := cell["edits_per_second"]) and reached < EDITS_PER_SECOND * 0.95:
                yield f"{name}, {row['name']}: only {reached:.0f} key edits a second"


def make_bench(options: argparse.Namespace, folder: Path, ending: ExitStack) -> Bench:
    """Make what all measurements share: tools, certificates, a database server."""
    tools = build_tools()
    notes: list[str] = []
    tls = None
    if speak_tls(tools):
        authority = Authority(folder)
        tls = Tls(*authority.issue("bench"), authority.file)
    else:
        notes.append("TLS rows left out: the tools were built without OpenSSL's headers")
    database = open_database(notes, ending)
    return Bench(tools, folder, {}, *options.cores, options.seconds, database, tls, notes)


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
    parser.add_argument("--no-idle", action="store_true", help="leave out the memory of streams")
    parser.add_argument("--install", action="store_true", help="fetch other gateways, then end")
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
    if options.install:
        for package in PACKAGES:
            print(f"{package.name} {package.version}: {package.install()}", flush=True)
        return 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
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
