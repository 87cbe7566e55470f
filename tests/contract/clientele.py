"""The official clients, installed from their own locks, and what they send, taken off the wire.

Versions that cannot live in one environment (and none of which fastgw needs to run) are installed
beside it, below `.clients`, once for each lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.replay import Received, take_request

HERE = Path(__file__).parent / "clients"
KEPT = Path(__file__).parents[2] / ".clients"
PLACEHOLDER = b"fgw-" + b"K" * 49


class CannotInstallError(Exception):
    """The package index, or the program that runs the client, is not there."""


@dataclass(frozen=True)
class Client:
    """One official client: which lock, which script, which API it speaks."""

    name: str
    lock: str
    script: str
    api: str


CLIENTS = (
    Client("openai-python-1", "openai-1.lock", "ask_openai.py", "openai"),
    Client("openai-python-1-async", "openai-1.lock", "ask_openai_async.py", "openai"),
    Client("openai-python", "current.lock", "ask_openai.py", "openai"),
    Client("openai-python-async", "current.lock", "ask_openai_async.py", "openai"),
    Client("langchain", "current.lock", "ask_langchain.py", "openai"),
    Client("openai-node", "node/package-lock.json", "node/ask_openai.mjs", "openai"),
    Client("curl", "", "ask_curl.sh", "openai"),
    Client("anthropic-python-0", "anthropic-0.lock", "ask_anthropic.py", "anthropic"),
    Client("anthropic-python", "current.lock", "ask_anthropic.py", "anthropic"),
    Client("anthropic-node", "node/package-lock.json", "node/ask_anthropic.mjs", "anthropic"),
)


def command(client: Client) -> tuple[list[str], dict[str, str]]:
    """Give the command line of a client and what it needs in its environment; installs it first."""
    script = HERE / client.script
    if client.script.endswith(".py"):
        return [sys.executable, str(script)], {"PYTHONPATH": str(installed(client.lock))}
    program = "node" if client.script.endswith(".mjs") else "curl"
    if shutil.which(program) is None:
        raise CannotInstallError(f"there is no {program} here")
    if program == "curl":
        return ["sh", str(script)], {}
    folder = installed(client.lock)
    shutil.copy(script, folder / script.name)  # modules are looked for beside the script
    return ["node", str(folder / script.name)], {}


def installed(lock: str) -> Path:
    """Give the folder with the packages of a lock; two processes at once make it only once."""
    file = HERE / lock
    digest = hashlib.sha256(file.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = KEPT / f"{file.parent.name}-{file.stem}-{digest}"
    KEPT.mkdir(exist_ok=True)
    with (KEPT / "lock").open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _install(file, folder)
            (folder / "done").touch()
    return folder


def _install(file: Path, folder: Path) -> None:
    if file.suffix == ".json":
        for name in ("package.json", "package-lock.json"):
            shutil.copy(file.parent / name, folder / name)
        words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    else:
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes"]
        words += ["--only-binary", ":all:", "--no-warn-conflicts", "--target", str(folder)]
        words += ["-r", str(file)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            words, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise CannotInstallError(str(exc)) from exc
    if done.returncode:
        raise CannotInstallError((done.stderr or done.stdout)[-2000:])


def run(client: Client, base_url: str, key: str) -> str:
    """Let a client do what its script says; give its version."""
    words, extra = command(client)
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        words,
        env={**clean, **extra, "BASE_URL": base_url, "KEY": key},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{client.name}: {done.stderr[-3000:]}{done.stdout[-500:]}"
    return done.stdout.strip()


class Tap:
    """Stands between clients and the gateway and keeps every request as it was sent."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._gateway = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.taken: list[bytes] = []
        """Heads and bodies, in the order they were complete."""
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    def serve(self) -> None:
        """Take connections until the listener is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            gateway = socket.create_connection(self._gateway)
            self._sockets += [client, gateway]
            self._begin(self._up, client, gateway)
            self._begin(self._down, gateway, client)

    def _begin(self, work: object, *sockets: socket.socket) -> None:
        thread = threading.Thread(target=work, args=sockets, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _up(self, client: socket.socket, gateway: socket.socket) -> None:
        kept = bytearray()
        for data in _read(client):
            kept += data
            gateway.sendall(data)
            before = bytes(kept)
            while isinstance(take_request(kept), Received):
                self.taken.append(before[: len(before) - len(kept)])
                before = bytes(kept)
        _shut(gateway)

    def _down(self, gateway: socket.socket, client: socket.socket) -> None:
        for data in _read(gateway):
            client.sendall(data)
        _shut(client)

    def close(self) -> None:
        """End."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
        for plug in self._sockets:
            plug.close()


def _read(plug: socket.socket) -> Iterator[bytes]:
    try:
        while data := plug.recv(1 << 16):
            yield data
    except OSError:
        return


def _shut(plug: socket.socket) -> None:
    try:
        plug.shutdown(socket.SHUT_WR)
    except OSError:
        return


@contextmanager
def tapped(url: str) -> Iterator[Tap]:
    """Put a tap before a gateway."""
    tap = Tap(url)
    thread = threading.Thread(target=tap.serve, daemon=True)
    thread.start()
    try:
        yield tap
    finally:
        tap.close()
        thread.join(5)
