"""Keep one server process for a test session, and end it when the session ends in any way.

Run as a script. It obeys lines on its standard input: `start` starts the server and answers with
its pid, `kill` kills it with SIGKILL, `stop` asks it to end. End of input, which a killed test
session causes as well, stops the server and removes its folder. Knows no server by name.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from pathlib import Path

GRACE_S = 10


def start(argv: list[str], folder: Path, uid: int | None) -> subprocess.Popen[bytes]:
    """Start the server; its output goes to `server.log` in the folder."""
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            user=uid,
            group=uid if uid is None else folder.stat().st_gid,
            extra_groups=None if uid is None else [],
        )


def end(server: subprocess.Popen[bytes] | None, signum: int) -> None:
    """End the server, by force when it does not listen."""
    if server is None or server.poll() is not None:
        return
    server.send_signal(signum)
    try:
        server.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--signal", default="SIGTERM")
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args()
    stop_signal = signal.Signals[options.signal]
    server: subprocess.Popen[bytes] | None = None
    try:
        for line in sys.stdin:
            match line.strip():
                case "start":
                    server = start(options.argv, options.folder, options.uid)
                case "kill":
                    end(server, signal.SIGKILL)
                case "stop":
                    end(server, stop_signal)
            sys.stdout.write(f"{server.pid if server else 0}\n")
            sys.stdout.flush()
    finally:
        end(server, stop_signal)
        shutil.rmtree(options.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
