"""What a usage record costs this process on its way into a database, on both engines.

    python -m bench.ledger [--records N] [--batch N] [--keys N]

CPU time of the whole process, threads included, from the writer's `put` to the commit; what
PostgreSQL itself spends is another process's. Needs the servers that the tests start.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import shutil
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from fastgw._ext import BUILD
from fastgw.domain import UsageRecord
from fastgw.events.writer import UsageWriter
from fastgw.storage import migrate, open_store
from fastgw.storage.sql import usage
from tests import servers
from tests.storage.samples import NOON, record

MODELS = ("gpt-5", "claude-sonnet", "llama-70b")
TAGS: tuple[dict[str, str], ...] = ({}, {}, {}, {"team": "search", "job": "nightly"})


def make_records(count: int, keys: int, first: int = 0) -> list[UsageRecord]:
    """Give records as busy seconds make them: many keys, some models, a quarter with tags."""
    return [
        record(
            number,
            created_at=NOON + number // 20,
            request_id=f"req-{number:024d}",
            key_id=f"key_{number * 7919 % keys:020d}",
            requested_model=MODELS[number % 3],
            upstream_model=MODELS[number % 3],
            tags=TAGS[number % 4],
            stream=number % 2 == 0,
            ttft_ms=120 if number % 2 == 0 else None,
        )
        for number in range(first, first + count)
    ]


async def measure(url: str, records: list[UsageRecord], batch: int, folder: Path) -> float:
    """Give the CPU microseconds that one record cost."""
    store = await open_store(url, migrate=False)
    try:
        await usage.ensure_partitions(store, NOON)
        await usage.insert_batch(store, make_records(100, 5, 10**9))  # statements are prepared
        writer = UsageWriter(lambda records: usage.insert_batch(store, records), folder)
        before = time.process_time()
        for start in range(0, len(records), batch):
            for one in records[start : start + batch]:
                writer.put(one)
            await writer.close()
        spent = time.process_time() - before
        assert writer.written == len(records)
    finally:
        await store.close()
    return spent / len(records) * 1e6


def main() -> int:
    """Print a line for each engine."""
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=2_000)
    parser.add_argument("--keys", type=int, default=100)
    options = parser.parse_args()
    records = make_records(options.records, options.keys)
    gc.freeze()  # as a worker does
    gc.set_threshold(20_000, 20, 100)
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
                spent = runner.run(measure(url, records, options.batch, folder))
            print(
                f"{engine:<11} {spent:6.2f} us a record"
                f" ({BUILD} build, {len(records)} records of {options.keys} keys,"
                f" batches of {options.batch})"
            )
        console.drop(name)
    finally:
        console.close()
        server.close()
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
