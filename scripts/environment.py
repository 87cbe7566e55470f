"""Make a virtual environment with locked packages and fastgw in it, as often as you like.

Needs a Python >= 3.11 and its standard library, nothing else; `scripts/bootstrap` finds one. It
writes only below the environment's folder and, for the compiled parts, beside their sources.

A layer is one file of `requirements/`; packages come only from there, by hash, through pip as the
machine has it configured. What was done is noted in the environment itself (`NOTE`), so a second
run does nothing. An environment that was moved, made from other locks or left half-done is made
anew: pip takes a half-written package for an installed one, so it is never repaired.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "requirements"
NOTE = "made-by-fastgw.json"
WHEELS = Path("/usr/share/python-wheels")  # where Debian keeps the wheels of its ensurepip


class Trouble(Exception):
    """Something the person at the keyboard has to know; the message says what to do."""


def say(text: str) -> None:
    """Tell what is being done, on one line, without waiting for a full buffer."""
    print(f"fastgw: {text}", flush=True)


def tool_env(**extra: str) -> dict[str, str]:
    """Give this process's variables without those that would bend an environment's Python or pip.

    Everything else of pip's own configuration stays in force. Only wheels are taken, for a source
    package would be built with unlocked tools; who needs one says so with PIP_NO_BINARY.
    """
    drop = {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "VIRTUAL_ENV"}
    env = {name: value for name, value in os.environ.items() if name not in drop}
    env |= {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if "PIP_NO_BINARY" not in env:
        env.setdefault("PIP_ONLY_BINARY", ":all:")
    home = Path(env.get("HOME") or "/nonexistent")
    if not os.access(home, os.W_OK) and "PIP_CACHE_DIR" not in env:
        env["PIP_NO_CACHE_DIR"] = "1"
    return env | extra


def run(*command: str | Path, cwd: Path | None = None, **extra: str) -> None:
    """Run a command silently; raise Trouble with the end of what it said when it fails."""
    output(*command, cwd=cwd, **extra)


def output(*command: str | Path, cwd: Path | None = None, **extra: str) -> str:
    """The same, giving all it said."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=tool_env(**extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        close_fds=False,  # it inherits the lock of main(): one that outlives us holds it on
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        raise Trouble(f"{shlex.join(map(str, command))} failed ({done.returncode}):\n{tail}")
    return done.stdout


def discard(folder: Path) -> None:
    """Remove a folder, under another name first so that no half of it is ever met."""
    gone = folder.with_name(folder.name + ".gone")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def digest(*parts: bytes | Path) -> str:
    """Hash bytes and files, each with its length, so that no two lists run together."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()


# -- a pip for a Python that may have been shipped without one ------------------------------------


def install_build_lock(*pip: str | Path) -> None:
    """Let some pip put the locked pip and build tools into the environment it was told of."""
    run(*pip, "install", "--quiet", "--require-hashes", "-r", LOCKS / "build.lock")


def pip_of_ensurepip(python: Path) -> None:
    """The standard way; Debian ships it apart, in python3.x-venv."""
    run(python, "-m", "ensurepip", "--default-pip")


def pip_of_wheel_folder(python: Path, folder: Path = WHEELS) -> None:
    """A pip wheel runs as it is, without being installed."""
    wheel = max(folder.glob("pip-*.whl"), default=None)
    if wheel is None:
        raise Trouble(f"no pip wheel in {folder}")
    install_build_lock(python, wheel / "pip")


def pip_of_this_python(python: Path) -> None:
    """The pip of the Python that runs this, when it has one."""
    install_build_lock(sys.executable, "-m", "pip", "--python", python)


def pip_of_path(python: Path) -> None:
    """Any pip >= 22.3 can install into another environment."""
    found = [path for path in map(shutil.which, ("pip3", "pip")) if path]
    if not found:
        raise Trouble("no pip on PATH")
    install_build_lock(found[0], "--python", python)


def pip_of_uv(python: Path) -> None:
    """The tool uv installs without a pip."""
    uv = shutil.which("uv")
    if uv is None:
        raise Trouble("no uv on PATH")
    lock = LOCKS / "build.lock"
    run(uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock)


def pip_of_virtualenv(python: Path) -> None:
    """The tool virtualenv carries a pip of its own."""
    virtualenv = shutil.which("virtualenv")
    if virtualenv is None:
        raise Trouble("no virtualenv on PATH")
    run(virtualenv, "--quiet", "--python", sys.executable, python.parent.parent)


def venv_package() -> str:
    """Name Debian's package with ensurepip for the running Python."""
    return f"python3.{sys.version_info.minor}-venv"


def pip_of_apt(python: Path) -> None:
    """As root, install what Debian ships apart."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid():
        raise Trouble("not root on a Debian or Ubuntu machine")
    install = (apt, "install", "-y", "--no-install-recommends", venv_package())
    try:
        run(*install, DEBIAN_FRONTEND="noninteractive")
    except Trouble:
        run(apt, "update")
        run(*install, DEBIAN_FRONTEND="noninteractive")
    pip_of_ensurepip(python)


def pip_of_apt_download(python: Path) -> None:
    """Without root, fetch Debian's package of the pip wheel and unpack it; nothing is installed."""
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or dpkg is None:
        raise Trouble("not a Debian or Ubuntu machine")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        download = ("download", "python3-pip-whl")
        try:
            run(apt, *download, cwd=folder)
        except Trouble:  # package lists that were never fetched: fetch them to a place of our own
            (folder / "lists/partial").mkdir(parents=True)
            (folder / "cache/archives/partial").mkdir(parents=True)
            own = (
                f"-oDir::State::Lists={folder}/lists",
                f"-oDir::Cache={folder}/cache",
                "-oDebug::NoLocking=1",
            )
            run(apt, *own, "update")
            run(apt, *own, *download, cwd=folder)
        run(dpkg, "-x", next(folder.glob("*.deb")), folder / "unpacked")
        pip_of_wheel_folder(python, folder / "unpacked" / WHEELS.relative_to("/"))


PIP_SOURCES: tuple[Callable[[Path], None], ...] = (
    pip_of_ensurepip,
    pip_of_wheel_folder,
    pip_of_this_python,
    pip_of_path,
    pip_of_uv,
    pip_of_virtualenv,
    pip_of_apt,
    pip_of_apt_download,
)


def bring_pip(python: Path) -> None:
    """Give the environment a pip from the first source that works."""
    tried: list[str] = []
    for source in PIP_SOURCES:
        try:
            source(python)
        except Trouble as trouble:
            tried.append(f"  {source.__name__}: {str(trouble).strip().splitlines()[-1]}")
            continue
        if source is not pip_of_ensurepip:
            say(f"this Python has no ensurepip; pip came by {source.__name__}")
        return
    raise Trouble(
        "this Python can make no environment: it was shipped without ensurepip.\n"
        f"Install it (apt-get install {venv_package()}) and run this again.\n"
        "Tried:\n" + "\n".join(tried)
    )


# -- the environment ------------------------------------------------------------------------------


class Environment:
    """One virtual environment and the note of what was done to it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.python = self.path / "bin" / "python"
        self.note: dict[str, str] = self._read()

    def ensure(self, layers: Iterable[str]) -> None:
        """Bring it to the state where each layer is installed exactly as locked."""
        wanted = {name: digest(LOCKS / f"{name}.lock") for name in ("build", *layers)}
        reason = self._unfit(wanted)
        if reason:
            self._create(reason)
        for name, lock in wanted.items():
            if self.note.get(name) != lock:
                with self.step(name, lock):
                    say(f"installing {name}.lock into {self.path.name}")
                    self.pip("install", "--require-hashes", "-r", LOCKS / f"{name}.lock")

    def pip(self, verb: str, *words: str | Path, **extra: str) -> None:
        """Run the environment's own pip."""
        run(self.python, "-m", "pip", verb, "--quiet", *words, **extra)

    def step(self, name: str, value: str) -> _Step:
        """Note that `name` is being changed, and `value` for it once that is done."""
        return _Step(self, name, value)

    def write(self) -> None:
        """Put the note where it is, whole or not at all."""
        new = self.path / (NOTE + ".new")
        new.write_text(json.dumps(self.note, indent=1) + "\n")
        new.replace(self.path / NOTE)

    def _read(self) -> dict[str, str]:
        try:
            note: dict[str, str] = json.loads((self.path / NOTE).read_text())
        except (OSError, ValueError):
            return {}
        return note

    def _unfit(self, wanted: dict[str, str]) -> str | None:
        """Say why the environment cannot be used as it is; None when it can."""
        if not os.path.lexists(self.path):
            return "making"
        if self.note.get("path") != str(self.path):
            return "not made here, remaking"
        reason = None
        if "busy" in self.note:
            reason = f"left half-done at {self.note['busy']}, remaking"
        elif os.environ.get("PYTHON") and self.note["base"] != os.path.realpath(sys.executable):
            reason = "made with another Python, remaking"
        elif any(self.note.get(name, lock) != lock for name, lock in wanted.items()):
            reason = "locks have changed, remaking"
        elif not self._runs():
            reason = "its Python is gone, remaking"
        return reason

    def _runs(self) -> bool:
        """Try it: the Python it links to may have been removed, or be another version by now."""
        try:
            run(self.python, "-c", "import pip")
        except (Trouble, OSError):
            return False
        return True

    def _create(self, reason: str) -> None:
        say(f"{reason} {self.path} with {sys.executable} ({sys.version.split()[0]})")
        if self.path.is_symlink():
            self.path.unlink()
        elif self.path.exists():
            ours = any((self.path / name).exists() for name in (NOTE, "pyvenv.cfg"))
            if not ours and any(self.path.iterdir()):
                raise Trouble(f"{self.path} is there and is not an environment: move it away")
            discard(self.path)
        self.path.mkdir(parents=True)
        base = os.path.realpath(sys.executable)
        self.note = {"path": str(self.path), "base": base, "busy": "the start"}
        self.write()
        run(sys.executable, "-m", "venv", "--without-pip", self.path)
        bring_pip(self.python)
        del self.note["busy"]
        self.write()


class _Step:
    """While it lasts the environment counts as half-done."""

    def __init__(self, env: Environment, name: str, value: str) -> None:
        self.env, self.name, self.value = env, name, value

    def __enter__(self) -> None:
        self.env.note["busy"] = self.name
        self.env.write()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            del self.env.note["busy"]
            self.env.note[self.name] = self.value
            self.env.write()


# -- fastgw itself --------------------------------------------------------------------------------


def compiled_sources(root: Path) -> Iterator[Path]:
    """Give every file that a compiled module is made from."""
    yield root / "setup.py"
    for suffix in ("pyx", "pxd", "pxi", "h"):
        yield from sorted((root / "fastgw").rglob(f"*.{suffix}"))
    for header in sorted((root / "fastgw").rglob("*.pxd")):
        twin = header.with_suffix(".py")  # one text, compiled or not
        if twin.exists():
            yield twin


def missing_for_c() -> str | None:
    """Say why no extension can be compiled here; None when one can. Asked by compiling a line."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    include = sysconfig.get_path("include")
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "probe.c")
        source.write_text("#include <Python.h>\nint probe(void) { return PY_MAJOR_VERSION; }\n")
        command = [*shlex.split(compiler), "-c", f"-I{include}", "-o", f"{name}/o", str(source)]
        try:
            run(*command)
        except OSError:
            return f"no C compiler: {compiler} is not there"
        except Trouble:
            if not Path(include, "Python.h").exists():
                return "no Python headers: Python.h is in the package python3-dev"
            return f"the C compiler does not work: {compiler}"
    return None


def link(env: Environment) -> None:
    """Install fastgw into the environment as a link to this tree."""
    key = digest(ROOT / "pyproject.toml", ROOT / "setup.py")
    if env.note.get("link") != key:
        with env.step("link", key):
            say("linking this tree")
            words = ("--no-deps", "--no-build-isolation", "-e", ROOT)
            env.pip("install", *words, FASTGW_PURE="1")


def compile_in_place(env: Environment) -> None:
    """Compile the hot loops beside their sources, if that is possible here."""
    pure = os.environ.get("FASTGW_PURE", "")
    without = "FASTGW_PURE is set" if pure else missing_for_c()
    must = bool(os.environ.get("FASTGW_REQUIRE_EXT") or (os.environ.get("CI") and not without))
    key = digest(*compiled_sources(ROOT), str((without, must)).encode())
    if env.note.get("compiled") != key:
        # An old module must not outlive a build that fails; setuptools copies it from build/lib*.
        for built in (ROOT / "fastgw").rglob("*.so"):
            built.unlink()
        for built in (ROOT / "build").glob("lib*"):
            shutil.rmtree(built)
        if must or not without:
            say("compiling the hot loops")
            extra = {"FASTGW_REQUIRE_EXT": "1"} if must else {}
            build = ("setup.py", "-q", "build_ext", "--inplace", f"-j{os.cpu_count() or 1}")
            log = output(env.python, *build, cwd=ROOT, **extra)
            (ROOT / "build").mkdir(exist_ok=True)
            (ROOT / "build/compile.log").write_text(log)
        env.note["compiled"] = key
        env.write()
    ask = "from fastgw._ext import BUILD; print(BUILD)"
    build = output(env.python, "-c", ask).strip()
    if must and build != "compiled":
        raise Trouble(f"the compiled build is required here, but fastgw runs its {build} build")
    reason = "" if build == "compiled" else f" ({without or 'see build/compile.log'})"
    say(f"ready, {build} build{reason}")


def export(target: Path) -> None:
    """Copy what a commit would hold to `target`, so that a build sees no leftovers."""
    git = ("git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    try:
        listing = subprocess.run(git, capture_output=True, check=True, text=True).stdout
        names = [name for name in listing.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive, or no git here
        names = [
            str(path.relative_to(ROOT))
            for top in ("fastgw", "requirements", "LICENSE", "README.md", "pyproject.toml")
            for path in [ROOT / top, *(ROOT / top).rglob("*")]
            if path.is_file() and path.suffix not in {".so", ".c", ".pyc"}
        ]
        names.append("setup.py")
    for name in names:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def main() -> int:
    """Make the environment with the layers named on the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bootstrap", description="Make the environment.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="its folder")
    parser.add_argument("layers", nargs="+", choices=sorted(p.stem for p in LOCKS.glob("*.lock")))
    asked = parser.parse_args()
    # Two at once: the second finds the work done. The lock is inherited, so that a pip that was
    # orphaned by kill -9 has ended before its half-made environment is thrown away.
    holder = os.open(ROOT, os.O_RDONLY)
    os.set_inheritable(holder, True)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        env = Environment(asked.venv)
        env.ensure(asked.layers)
        if "run" in asked.layers:
            link(env)
            compile_in_place(env)
    except (Trouble, OSError) as trouble:
        print(f"fastgw: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        os.close(holder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
