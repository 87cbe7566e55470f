"""Run as a script: several processes prepare each of some databases at once.

They are forked from this one, all imports done, wait for each other, and begin together. Settings
come on standard input, one a line; the exit status is the number of processes that failed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import islice

from fastgw import catalog
from fastgw.config import Settings
from fastgw.server.prepare import prepare
from fastgw.storage import migrate

PROCESSES = 4
MODELS = 300
"""Of the catalogue: enough to take turns over."""


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def main() -> int:
    databases = [Settings.from_json(line) for line in sys.stdin.buffer]
    few = catalog.Catalog(dict(islice(catalog.load().models.items(), MODELS)))
    catalog.load = lambda: few  # type: ignore[assignment]
    assert migrate.LOCK_KEY
    barrier, opener = os.pipe()
    children = []
    for settings in databases * PROCESSES:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(opener)
                os.read(barrier, 1)
                asyncio.run(prepare(settings, say))
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(pid)
    os.close(opener)
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in children)


if __name__ == "__main__":
    sys.exit(main())
