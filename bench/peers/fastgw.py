"""fastgw as a peer, in several configurations: all of them with everything on.

A key, three limits, two budgets and a usage record for every request, in PostgreSQL where a server
is found. Limits are so high that they refuse nothing; another key is over its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.edits import BEGUN
from bench.governed import EDITED_KEYS, MODEL, PROVIDER_TYPE, govern
from bench.peers.record import EVERY_ROW, Peer, Place, Running, launch
from bench.processes import ROOT, spawn, stop, wait_for_line
from tests import servers

COMMAND = [sys.executable, "-m", "fastgw"]
EDITS_PER_SECOND = 100


@dataclass(frozen=True)
class Setting:
    """How one configuration differs from the plain one."""

    sqlite: bool = False
    redis: bool = False
    workers: int = 1
    environ: tuple[tuple[str, str], ...] = ()
    edits: bool = False


def _config(place: Place, setting: Setting, url: str) -> dict[str, Any]:
    provider = {
        "name": "bench",
        "type": PROVIDER_TYPE,
        "base_url": f"{place.scheme}://127.0.0.1:{place.upstream_port}/v1",
        "api_key": "bench-credential",
    }
    server: dict[str, Any] = {"port": place.port, "workers": setting.workers}
    if place.tls:
        provider["ca_file"] = place.tls.authority
        server["tls"] = {"cert": place.tls.cert, "key": place.tls.key}
    deployments = [{"provider": "bench", "model": MODEL}]
    shared = {"redis": {"url": _start_redis(place)}} if setting.redis else {}
    return {
        **shared,
        "server": server,
        "database": {"url": url},
        "journal": {"dir": str(place.folder / "data" / "journal")},
        "admin": {"email": "bench@localhost.localdomain", "password": "bench-password-of-no-use"},
        "providers": [provider],
        "models": [{"name": MODEL, "deployments": deployments}],
    }


def _start_redis(place: Place) -> str:
    """Start a Redis on the other core; it ends with this process."""
    server = servers.Redis()
    server.launch()
    atexit.register(server.close)
    others = os.sched_getaffinity(0) - {place.core}
    for pid in (
        server.pid,
        *(int(task.name) for task in Path(f"/proc/{server.pid}/task").iterdir()),
    ):
        os.sched_setaffinity(pid, others)
    return server.url


def _environment(folder: Path, setting: Setting) -> dict[str, str]:
    """Give a clean environment: a provider key of the caller's must not add a provider."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "FASTGW_CONFIG": str(folder / "fastgw.yaml"),
        **dict(setting.environ),
    }


def _start(place: Place, setting: Setting) -> Running:
    """Fill the database, write the config, start the server."""
    if place.database is None or setting.sqlite:
        url = f"sqlite:///{place.folder}/data/fastgw.db"
    else:
        url = place.database()
    governed = asyncio.run(govern(url, edited=EDITED_KEYS if setting.edits else 0))
    config = place.folder / "fastgw.yaml"
    config.write_text(json.dumps(_config(place, setting, url)))  # YAML is a superset
    process = launch(place, [*COMMAND, "serve"], _environment(place.folder, setting))

    @contextlib.contextmanager
    def edit() -> Iterator[dict[str, float]]:
        core = min(os.sched_getaffinity(0) - {place.core})
        argv = [sys.executable, "-m", "bench.edits", url, str(EDITS_PER_SECOND), *governed.edited]
        log = place.folder / "edits.log"
        log.unlink(missing_ok=True)
        editor = spawn(argv, core=core, log=log)
        reached: dict[str, float] = {}
        try:
            wait_for_line(editor, BEGUN, log)
            yield reached
        finally:
            stop(editor)
        reached["edits_per_second"] = float(log.read_text().splitlines()[-1])

    return Running(
        process,
        place.port,
        headers=(f"Authorization: Bearer {governed.key}",),
        refused_headers=(f"Authorization: Bearer {governed.refused_key}",),
        authority=place.tls.authority if place.tls else "",
        beside=edit if setting.edits else contextlib.nullcontext,
    )


def _missing() -> str | None:
    return None if importlib.util.find_spec("fastgw.cli") else "fastgw has no command line here"


def _version() -> str:
    script = "import fastgw, fastgw._ext as ext; print(fastgw.__version__, f'({ext.BUILD})')"
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return said.stdout.strip()


def _starter(setting: Setting) -> Callable[[Place], Running]:
    return lambda place: _start(place, setting)


def _peer(
    name: str,
    setting: Setting,
    variant: str = "",
    rows: frozenset[str] | None = EVERY_ROW,
    *,
    tls: bool = False,
) -> Peer:
    return Peer(
        name=name,
        missing=_missing,
        version=_version,
        start=_starter(setting),
        rows=rows,
        tls=tls,
        refuses=True,
        variant=variant,
    )


PEERS = (
    _peer("fastgw", Setting(), tls=True),
    _peer("fastgw-standard", Setting(environ=(("FASTGW_SERVER__FAST_LANE", "false"),)),
          "the standard lane alone",
          frozenset({"json-1", "json-64", "json-100k", "stream-1", "paced", "refused"})),
    _peer("fastgw-sqlite", Setting(sqlite=True), "usage records in SQLite",
          frozenset({"json-64", "paced"})),
    _peer("fastgw-2", Setting(workers=2), "two workers on that one core",
          frozenset({"json-64", "paced"})),
    _peer("fastgw-redis", Setting(redis=True), "limits and budgets in Redis on the other core",
          frozenset({"json-64", "stream-1", "paced", "refused"})),
    _peer("fastgw-edits", Setting(edits=True), f"{EDITS_PER_SECOND} key edits a second beside",
          frozenset({"json-64", "paced"})),
)  # fmt: skip
