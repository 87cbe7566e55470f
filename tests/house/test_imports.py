"""What importing fastgw does to a process: nothing but defining things, in any order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# One runs the command, the other is run by Alembic.
NOT_IMPORTED = {"fastgw.__main__", "fastgw.storage.migrations.env"}


def modules() -> list[str]:
    """Give every module of fastgw that anybody may import."""
    names = []
    for path in sorted((ROOT / "fastgw").rglob("*.py")):
        if (path.parent / "__init__.py").exists():
            parts = path.relative_to(ROOT).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if name not in NOT_IMPORTED]


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script that finds the names of all modules in its arguments; warnings are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *modules()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


ALONE = """
import importlib, os, sys, traceback
import aiohttp.web, asyncpg, alembic, cryptography, jwt, msgspec, orjson, prometheus_client
import pydantic, sqlalchemy, structlog, typer, uvloop, yaml
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(f"cannot be imported first: {failed}" if failed else 0)
"""

QUIETLY = """
import importlib, sys, threading
FORBIDDEN = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.exec", "os.system",
             "os.spawn", "urllib.", "sqlite3.connect")
seen = []
def watch(event, args):
    if event.startswith(FORBIDDEN):
        seen.append((event, str(args)[:200]))
sys.addaudithook(watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
    if seen or threading.active_count() > 1:
        sys.exit(f"importing {name}: {seen}, threads {threading.enumerate()}")
"""


def test_every_module_can_be_the_first_one_imported():
    """No module leans on another having been imported before it: there is no import cycle."""
    done = run(ALONE)
    assert done.returncode == 0, done.stderr


def test_importing_opens_no_socket_and_starts_nothing():
    """Requirement 59: neither a socket, a file of SQLite, a thread nor a process."""
    done = run(QUIETLY)
    assert done.returncode == 0, done.stderr


def test_the_bare_package_loads_no_room():
    """`import fastgw` tells the version and is as cheap as that."""
    script = "import sys, fastgw; print([m for m in sys.modules if m.startswith('fastgw.')])"
    done = run(script)
    assert done.stdout.strip() == "[]", done.stderr
