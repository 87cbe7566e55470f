"""`make loadtest`: the mock provider, fastgw, and locust on them; 1 when anything failed.

`python -m loadtest.run --seconds 20 --users 20` starts both servers on free ports with a fresh
SQLite database, runs the shape of `locustfile.py` without a window, and stops what it started by
pid. Everything behind `--` goes to locust as it is: `-- ChatUser`.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.processes import Gateway, Mock

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
LEAST_REQUESTS_A_SECOND = 5
"""Fewer mean that the clients did not run, whatever they report."""


def configuration(mock: Mock, workers: int) -> dict[str, Any]:
    """Give the gateway one provider, the mock."""
    provider = {"name": "mock", "type": "openai_compatible", "base_url": mock.base_url}
    return {"providers": [provider], "server": {"workers": workers}, "logs": {"level": "warning"}}


def load(
    url: str, key: str, folder: Path, options: argparse.Namespace
) -> tuple[int, dict[str, str]]:
    """Run locust; give its exit code and the sums of what it counted."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"]
    command += ["--host", url, "--key", key, "--csv", str(folder / "locust"), "--only-summary"]
    command += ["--shape-users", str(options.users), "--shape-seconds", str(options.seconds)]
    command += ["--loglevel", "WARNING", *options.more]
    code = subprocess.run(command, check=False, timeout=options.seconds + 120).returncode
    with (folder / "locust_stats.csv").open(newline="") as file:
        return code, {row["Name"]: row for row in csv.DictReader(file)}["Aggregated"]


def main(argv: list[str] | None = None) -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--users", type=int, default=20, help="before the spike, which is 4 times")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("more", nargs="*", help="for locust, behind --")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="fastgw-load-") as temporary, ExitStack() as ending:
        folder = Path(temporary)
        mock = Mock(folder)
        ending.callback(mock.stop)
        store = f"sqlite:///{folder}/data/fastgw.db"
        gateway = Gateway(folder, store, configuration(mock, options.workers))
        ending.callback(gateway.stop)
        gateway.ready()
        code, sums = load(gateway.url, gateway.create_key("load"), folder, options)
        requests, failures = int(sums["Request Count"]), int(sums["Failure Count"])
        status = gateway.stop()
        errors = [line for line in gateway.output if "rror" in line or "Traceback" in line]
    sys.stderr.write("".join(errors[:20]))
    if requests < options.seconds * LEAST_REQUESTS_A_SECOND:
        print(f"only {requests} requests in {options.seconds} s", file=sys.stderr)
        return 1
    print(f"{requests} requests, {failures} failures; the gateway ended with {status}")
    return 1 if code or failures or status or errors else 0


if __name__ == "__main__":
    sys.exit(main())
