"""Start servers pinned to a core, wait until they answer, and stop them by pid; builds the tools.

The only place of the bench that starts processes. Each server leads a session of its own, so that
one that does not stop when told to can be killed with its workers.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
ROOT = BENCH.parent
START_SECONDS = 60.0
STOP_SECONDS = 15.0


class BenchError(Exception):
    """The bench cannot go on; the message says what to do."""


def build_tools(folder: Path = BENCH / "bin", *, warnings_are_errors: bool = False) -> Path:
    """Compile the fake provider and the load driver into `folder`, if their sources are newer."""
    for needed in ("cc", "make"):
        if shutil.which(needed) is None:
            raise BenchError(
                f"`{needed}` is missing: the fake provider and the load driver are compiled"
                " (Debian/Ubuntu: apt-get install gcc libc6-dev make)"
            )
    command = ["make", "-s", "-C", str(BENCH / "tools"), f"BIN={folder}"]
    if warnings_are_errors:
        command.append("WERROR=-Werror")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the bench tools do not compile:\n{done.stderr}")
    return folder


def free_port() -> int:
    """Give a loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spawn(
    argv: list[str], *, core: int, log: Path, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `argv` on one core, with both outputs in `log`."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # inherited; no window in which it runs elsewhere
    try:
        with log.open("ab") as out:
            return subprocess.Popen(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
    finally:
        os.sched_setaffinity(0, mine)


def wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return once `port` accepts; raise with the end of the log when it does not come."""

    def accepts() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    _wait_for(process, accepts, f"does not listen on port {port}", log)


def wait_for_line(process: subprocess.Popen[bytes], line: str, log: Path) -> None:
    """Return once the process has said so; raise with the end of the log when it does not."""
    _wait_for(process, lambda: line in log.read_text().splitlines(), f"never says {line!r}", log)


def _wait_for(
    process: subprocess.Popen[bytes], is_there: Callable[[], bool], complaint: str, log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if is_there():
            return
        time.sleep(0.05)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise BenchError(f"{process.args!r} {complaint}:\n{tail}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end; after a while kill it and the rest of its session."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def spawn_server(
    argv: list[str],
    *,
    core: int,
    log: Path,
    port: int,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server and return once it accepts on `port`; one that does not come is stopped."""
    process = spawn(argv, core=core, log=log, cwd=cwd, env=env)
    try:
        wait_for_port(process, port, log)
    except BaseException:
        stop(process)
        raise
    return process


def speak_tls(folder: Path) -> bool:
    """Say whether the tools were built with OpenSSL."""
    command = [str(folder / "load"), "--features"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    return "tls" in said.stdout.split()


def start_upstream(
    folder: Path, *, core: int, log: Path, chunks: int, files: tuple[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the fake provider; give it with its port. With a chain and a key it speaks TLS."""
    port = free_port()
    argv = [str(folder / "upstream"), "--port", str(port), "--chunks", str(chunks)]
    if files is not None:
        argv += ["--tls-cert", files[0], "--tls-key", files[1]]
    return spawn_server(argv, core=core, log=log, port=port), port


def drive(folder: Path, options: list[str], *, core: int, timeout: float) -> dict[str, Any]:
    """Run the load driver on one core to its end; give its figures, errors among them."""
    log = folder / "load.log"
    log.unlink(missing_ok=True)
    process = spawn([str(folder / "load"), *options], core=core, log=log)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired as exc:
        raise BenchError(f"the load driver did not end within {timeout:.0f} s") from exc
    finally:
        stop(process)
    text = log.read_text()
    if process.returncode not in (0, 1):
        raise BenchError(f"the load driver failed with {process.returncode}: {text}")
    figures: dict[str, Any] = json.loads(text)
    return figures
