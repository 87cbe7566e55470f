"""fastgw as a peer: one worker, SQLite, a key, everything else as it comes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from bench.peers.record import Peer, Place, Running, launch
from bench.processes import ROOT, BenchError, stop

CONFIG = """\
server: {{host: 127.0.0.1, port: {port}, workers: 1}}
database: {{url: "sqlite:///{folder}/fastgw.db"}}
journal: {{dir: "{folder}/journal"}}
providers:
  - name: bench
    type: openai_compatible
    base_url: http://127.0.0.1:{upstream_port}/v1
    api_key: bench-credential
models:
  - name: bench
    deployments: [{{provider: bench, model: bench}}]
"""
COMMAND = [sys.executable, "-m", "fastgw"]


def _environment(folder: Path) -> dict[str, str]:
    """Give a clean environment: a provider key of the caller's must not add a provider."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "FASTGW_CONFIG": str(folder / "fastgw.yaml"),
        "FASTGW_ADMIN_EMAIL": "bench@localhost.localdomain",
        "FASTGW_ADMIN_PASSWORD": "bench-password-of-no-account",
    }


def _missing() -> str | None:
    return None if importlib.util.find_spec("fastgw.cli") else "fastgw has no command line here"


def _version() -> str:
    script = "import fastgw, fastgw._ext as ext; print(fastgw.__version__, f'({ext.BUILD})')"
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return said.stdout.strip()


def _create_key(place: Place, env: dict[str, str]) -> str:
    """Create the key that the load is sent with; its plaintext is shown this once."""
    said = subprocess.run(
        [*COMMAND, "keys", "create", "--name", "bench", "--json"],
        cwd=place.folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if said.returncode:
        raise BenchError(f"fastgw keys create failed:\n{said.stderr}")
    return str(json.loads(said.stdout)["key"])


def _start(place: Place) -> Running:
    """Write the config, start the server (which makes the schema), then create the key."""
    (place.folder / "fastgw.yaml").write_text(
        CONFIG.format(folder=place.folder, port=place.port, upstream_port=place.upstream_port)
    )
    env = _environment(place.folder)
    process = launch(place, [*COMMAND, "serve"], env)
    try:
        headers = (f"Authorization: Bearer {_create_key(place, env)}",)
    except BaseException:
        stop(process)
        raise
    return Running(process, place.port, headers)


PEER = Peer(name="fastgw", missing=_missing, version=_version, start=_start)
