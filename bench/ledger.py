"""What the loader makes of a journal on both engines: records a second, and CPU time of each.

    python -m bench.ledger [--records N] [--keys N]

From the lines of a worker that is gone to the last commit. CPU time is that of the loader's whole
process, threads included; what PostgreSQL itself spends is another's. Needs the servers that the
tests start.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from fastgw._ext import BUILD, journal
from fastgw.config.schema import Journal
from fastgw.events.journal import Place, Segments
from fastgw.events.loader import Loader
from fastgw.storage import migrate, open_store
from fastgw.storage.sql import usage
from tests import servers
from tests.storage.samples import NOON

MODELS = ("gpt-5", "claude-sonnet", "llama-70b")
TAGS = ("{}", "{}", "{}", '{"job":"nightly","team":"search"}')


async def write_down(place: Place, count: int, keys: int) -> None:
    """Write exchanges as busy seconds make them: many keys, some models, a quarter with tags."""
    segments = Segments(place, 0, full_at=1, size=Journal().segment_bytes)
    segments.start()
    whos = [
        journal.Who(
            (f"key_{key:020d}", None, "team_1", None, tags, "/v1/chat/completions", model,
             "openai", model)
        )
        for key in range(keys)
        for model, tags in zip(MODELS, TAGS, strict=False)
    ]  # fmt: skip
    written = segments.journal
    for number in range(count):
        if written.wants_segment:
            await segments.look()
        who, at = whos[number * 7919 % len(whos)], NOON + number // 20
        name, label = f"fgx_{number:022d}", f"req-{number:024d}"
        kept = written.open(who, name, label, at, False, 9_000, 50, 10)
        assert written.close(
            kept, who, name, label, at, False,
            *(200, 1, 10, 5, 2, 1, 3, 1_250, "reported", 400, 120, 90, None),
        )  # fmt: skip
    segments.close()


async def measure(url: str, count: int, keys: int, folder: Path) -> tuple[float, float]:
    """Give records a second, and the CPU microseconds that one record cost."""
    place = Place.make(folder / "journal")
    await write_down(place, count, keys)
    store = await open_store(url, migrate=False)
    loader = Loader(place.folder, lambda rows: usage.insert_rows(store, rows))
    try:
        await usage.ensure_partitions(store, NOON)
        before, began = time.process_time(), time.monotonic()
        assert await loader.turn() == count
        spent, took = time.process_time() - before, time.monotonic() - began
    finally:
        loader.close()
        await store.close()
    return count / took, spent / count * 1e6


def main() -> int:
    """Print a line for each engine."""
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=100)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fastgw-ledger-"))
    server = servers.start_postgres()
    console = servers.Console(server.dsn)
    try:
        name = console.create()
        for engine, url in (
            ("sqlite", f"sqlite:///{folder}/fastgw.db"),
            ("postgresql", console.url(name)),
        ):
            servers.run_alone(migrate.upgrade(url))
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rate, spent = runner.run(measure(url, options.records, options.keys, folder))
            print(
                f"{engine:<11} {rate:8.0f} records a second, {spent:5.2f} us of CPU time each"
                f" ({BUILD} build, {options.records} records of {options.keys} keys)"
            )
        console.drop(name)
    finally:
        console.close()
        server.close()
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
