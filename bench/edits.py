"""Edit keys at a steady rate until told to stop: `python -m bench.edits URL RATE KEY_ID...`.

What an installation with many keys looks like to a gateway that serves others meanwhile. Prints a
line when it begins, and when it ends how many edits a second there were.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import sys
import time

from fastgw.storage import open_store
from fastgw.storage.sql import keys

BEGUN = "editing"


async def edit(url: str, rate: float, ids: list[str]) -> float:
    """Change one key after another; give the rate that was reached."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    store = await open_store(url, migrate=False)
    print(BEGUN, flush=True)
    began, done = time.monotonic(), 0
    try:
        for key_id in itertools.cycle(ids):
            await keys.update(store, key_id, {"priority": done % 10})
            done += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(began + done / rate - time.monotonic(), 0))
            if stop.is_set():
                break
    finally:
        await store.close()
    return done / (time.monotonic() - began)


def main() -> None:
    """Run until SIGTERM."""
    url, rate, *ids = sys.argv[1:]
    print(f"{asyncio.run(edit(url, float(rate), ids)):.1f}")


if __name__ == "__main__":
    main()
