"""Run the steps of the Dockerfile where no Docker engine is at hand, and try what they make.

Reads the Dockerfile itself, so that it cannot drift from what is checked. Each stage gets an empty
root folder in a mount namespace of its own; this machine's /usr and Python stand in for the base
images, read-only. What stays unproven is therefore the base images, the layers and their sizes, and
that no setuid file is left in them. The result is then run as the image says: its user, without
capabilities, a read-only root, no shell, writing only to its volume and /tmp.

Needs root and util-linux (unshare, mount, chroot, setpriv). Writes to a temporary folder only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path

from environment import ROOT, Trouble, export, say
from smoke import DEADLINE_S, free_port

PASSED_ON = re.compile(r"PIP_\w+|\w+_CERT|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|(?i:\w+_proxy)")
FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ld.so.cache")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
SHELLS = ("sh", "dash", "bash", "busybox")
STARTED = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root"}


def instructions(text: str) -> list[tuple[str, str]]:
    """Split a Dockerfile into (instruction, rest), comments gone and continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, _, rest in pairs]


def allowed(name: str, ignore: list[str]) -> bool:
    """Say whether .dockerignore lets a file through: the last line that fits it decides."""
    kept = True
    above = [name, *map(str, Path(name).parents)][:-1]
    for line in ignore:
        pattern = line.lstrip("!")
        names = [*above, *(Path(n).name for n in above)] if pattern.startswith("**/") else above
        if any(fnmatch(n, pattern.removeprefix("**/")) for n in names):
            kept = line.startswith("!")
    return kept


def context(folder: Path) -> None:
    """Lay out what a build would be sent."""
    export(folder)
    lines = [line.strip() for line in (ROOT / ".dockerignore").read_text().splitlines()]
    ignore = [line for line in lines if line and not line.startswith("#")]
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and not allowed(str(path.relative_to(folder)), ignore):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def mount(*words: str | Path) -> None:
    """Call the mount program."""
    subprocess.run(["mount", *map(str, words)], check=True)


def bind(source: Path, target: Path, *, writable: bool = False) -> None:
    """Show `source` at `target`, read-only unless said otherwise."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", source, target)
    if not writable:
        mount("-o", "remount,bind,ro", target)


class Stage:
    """One FROM section: a root folder, and what was set for it so far."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = dict(STARTED)
        self.workdir = "/"
        self.user: str | None = None
        self.volumes: list[str] = []
        self.words: dict[str, list[str]] = {}
        self._lay()

    def path(self, inside: str) -> Path:
        """Give where a path of the image is, seen from outside."""
        return self.root / str(Path(self.workdir, inside)).lstrip("/")

    def call(
        self, command: list[str], *, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command in the root; once a user is set, as that user without capabilities."""
        drop: list[str] = []
        if self.user is not None:
            uid, _, gid = self.user.partition(":")
            ids = ("--reuid", uid, "--regid", gid, "--clear-groups")
            drop = ["setpriv", *ids, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        passed = {k: v for k, v in os.environ.items() if PASSED_ON.fullmatch(k)}
        inside = ["env", "--chdir", self.workdir, *command]
        return subprocess.Popen(
            [shutil.which("chroot") or "chroot", str(self.root), *drop, *inside],
            env=passed | self.env | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: list[str], **env: str) -> str:
        """Run a command to its end; Trouble when it fails."""
        process = self.call(command, env=env)
        said = process.communicate()[0]
        if process.returncode:
            raise Trouble(f"{shlex.join(command)}: exit {process.returncode}\n{said[-4000:]}")
        return said

    def _lay(self) -> None:
        """Fill the root with a stand-in for the base image."""
        for name in ("tmp", "root", "srv", "opt", "var", "proc", "dev", "etc/ssl/certs"):
            (self.root / name).mkdir(parents=True)
        (self.root / "tmp").chmod(0o1777)
        bind(Path("/usr"), self.root / "usr")
        for name in ("bin", "sbin", "lib", "lib64"):
            link = Path("/", name)
            if link.is_symlink():
                (self.root / name).symlink_to(link.readlink())
            elif link.exists():
                bind(link, self.root / name)
        mount("-t", "proc", "proc", self.root / "proc")
        for device in ("null", "zero", "random", "urandom"):
            bind(Path("/dev", device), self.root / "dev" / device, writable=True)
        for name in (*FILES, CERTIFICATES, "/etc/pip.conf"):
            if Path(name).exists():
                shutil.copy(name, self.root / name.lstrip("/"))
        (self.root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        self._lay_python()

    def _lay_python(self) -> None:
        """The official images have their Python as /usr/local/bin/python."""
        local = self.root / "usr/local"
        if sys.base_prefix != "/usr":
            bind(Path(sys.base_prefix), local)
            bind(Path(sys.base_prefix), self.root / sys.base_prefix.lstrip("/"))  # its libraries
            return
        own = self.root.with_name(self.root.name + "-local")
        (own / "bin").mkdir(parents=True)
        for name in ("python", "python3"):
            (own / "bin" / name).symlink_to(os.path.realpath(sys.executable))
        bind(own, local)


class Build:
    """Carries out a Dockerfile; `stages` by name, the last one is the image."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.stages: dict[str, Stage] = {}

    @property
    def stage(self) -> Stage:
        """The stage being built."""
        return list(self.stages.values())[-1]

    def follow(self, text: str) -> Stage:
        """Carry out every instruction; an unknown one is an error, never skipped."""
        for name, rest in instructions(text):
            step = getattr(self, "do_" + name.lower(), None)
            if step is None:
                raise Trouble(f"image-check does not know {name}")
            say(f"{name} {rest[:90]}")
            step(rest)
        return self.stage

    def do_arg(self, rest: str) -> None:
        """The arguments name base images, which this machine stands in for."""

    def do_from(self, rest: str) -> None:
        """Begin a stage: FROM image [AS name]."""
        words = rest.split()
        name = words[2] if len(words) > 2 else "image"
        self.stages[name] = Stage(self.work / name)

    def do_env(self, rest: str) -> None:
        """Set variables, name=value each."""
        self.stage.env.update(word.split("=", 1) for word in shlex.split(rest))

    def do_workdir(self, rest: str) -> None:
        """WORKDIR path, made when it is not there."""
        self.stage.path(rest).mkdir(parents=True, exist_ok=True)
        self.stage.workdir = rest

    def do_copy(self, rest: str) -> None:
        """COPY [--from=stage] source target; of folders the content is copied."""
        words = rest.split()
        came = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        base = self.stages[came].root if came else self.work / "context"
        source, target = base / words[0].lstrip("/"), self.stage.path(words[1])
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)

    def do_run(self, rest: str) -> None:
        """RUN in a shell."""
        self.stage.run(["/bin/sh", "-c", rest])

    def do_user(self, rest: str) -> None:
        """USER uid:gid."""
        self.stage.user = rest

    def do_volume(self, rest: str) -> None:
        """VOLUME [paths]."""
        self.stage.volumes += json.loads(rest)

    def do_expose(self, rest: str) -> None:
        """A note to people; nothing to do."""

    def do_healthcheck(self, rest: str) -> None:
        """HEALTHCHECK --options CMD [words]."""
        self.stage.words["health"] = json.loads(rest.partition("CMD")[2])

    def do_entrypoint(self, rest: str) -> None:
        """ENTRYPOINT [words]."""
        self.stage.words["entrypoint"] = json.loads(rest)

    def do_cmd(self, rest: str) -> None:
        """CMD [words]."""
        self.stage.words["cmd"] = json.loads(rest)


def build_again(build: Build) -> None:
    """Repeat the wheel's step in another folder: the same sources must give the same bytes."""
    stage = build.stages["build"]
    text = (ROOT / "Dockerfile").read_text()
    step = next(r for n, r in instructions(text) if n == "RUN" and "pip wheel" in r)
    shutil.copytree(build.work / "context", stage.path("/again"))
    stage.workdir = "/again"
    stage.run(["/bin/sh", "-c", step.partition("&&")[0].replace("/opt/wheel", "/opt/again")])
    wheels = [next(stage.path(f"/opt/{name}").glob("*.whl")) for name in ("wheel", "again")]
    first, second = (hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels)
    if first != second:
        raise Trouble(f"{wheels[0].name} differs when it is built again")
    say(f"{wheels[0].name} built twice: sha256 {first}")


def look_over(image: Stage) -> None:
    """Find what must not be in an image: start-up hooks, setuid files, anything world-writable."""
    hooks, setuid, open_to_all = [], [], []
    for top in ("opt", "srv"):
        for path in (image.root / top).rglob("*"):
            mode = path.lstat().st_mode
            if path.suffix == ".pth" or path.stem in {"sitecustomize", "usercustomize"}:
                hooks.append(path)
            if mode & (stat.S_ISUID | stat.S_ISGID) and path.is_file():
                setuid.append(path)
            if mode & stat.S_IWOTH and not path.is_symlink():
                open_to_all.append(path)
    if hooks or setuid or open_to_all:
        raise Trouble(f"in the image: hooks {hooks}, setuid {setuid}, writable {open_to_all}")


def lock_down(image: Stage) -> None:
    """Make the root read-only but for /tmp and the volumes, and take the shells away."""
    kept = []
    for number, volume in enumerate(image.volumes):
        outside = image.root.with_name(f"volume{number}")
        shutil.copytree(image.path(volume), outside)
        owner = image.path(volume).stat()
        os.chown(outside, owner.st_uid, owner.st_gid)
        kept.append((outside, image.path(volume)))
    mount("--rbind", image.root, image.root)
    mount("-o", "remount,bind,ro", image.root)
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", image.root / "tmp")
    for outside, inside in kept:
        bind(outside, inside, writable=True)
    for name in SHELLS:
        shell = image.root / "usr/bin" / name
        if shell.exists() and not shell.is_symlink():
            mount("--bind", "/dev/null", shell)


def started(image: Stage, port: dict[str, str]) -> subprocess.Popen[str]:
    """Start the server and wait until the health check passes."""
    server = image.call(image.words["entrypoint"] + image.words["cmd"], env=port)
    end = time.monotonic() + DEADLINE_S
    while True:
        if server.poll() is not None:
            said = server.communicate()[0]
            raise Trouble(f"the server ended, exit {server.returncode}:\n{said[-4000:]}")
        try:
            image.run(image.words["health"], **port)
        except Trouble:
            if time.monotonic() > end:
                server.kill()
                raise
            time.sleep(0.2)
        else:
            return server


def try_out(image: Stage) -> None:
    """Run the image as it says it is run, ask its health, look at its rights, and end it."""
    if image.call(["/bin/sh", "-c", "true"]).wait() == 0:
        raise Trouble("a shell is left, so nothing shows that none is needed")
    port = {"FASTGW_SERVER__PORT": str(free_port())}
    server = started(image, port)
    try:
        status = Path(f"/proc/{server.pid}/status").read_text()
        held = dict(line.split(":", 1) for line in status.splitlines())
        rights = [int(held[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd")]
        if held["Uid"].split() != ["10001"] * 4 or any(rights):
            raise Trouble(f"runs with rights it must not have:\n{status}")
        say("healthy as uid 10001 without capabilities, read-only root and no shell")
    finally:
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=DEADLINE_S)[0]
    if server.returncode:
        raise Trouble(f"exit {server.returncode} after SIGTERM:\n{said[-4000:]}")


def inside(work: Path) -> None:
    """Do it all, in a mount namespace of our own; what is mounted goes with it."""
    mount("-t", "tmpfs", "tmpfs", work)  # not the file system of /usr: find -xdev stays in the root
    (work / "context").mkdir()
    context(work / "context")
    build = Build(work)
    image = build.follow((ROOT / "Dockerfile").read_text())
    build_again(build)
    look_over(image)
    lock_down(image)
    try_out(image)


def main() -> int:
    """Enter a namespace, check there, and remove the folder afterwards."""
    if sys.argv[1:2] == ["--inside"]:
        try:
            inside(Path(sys.argv[2]))
        except (Trouble, OSError, subprocess.SubprocessError) as trouble:
            print(f"image-check: {trouble}", file=sys.stderr)
            return 1
        return 0
    if os.geteuid():
        print("image-check: needs root, to mount and to change users", file=sys.stderr)
        return 1
    apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    with tempfile.TemporaryDirectory(prefix="fastgw-image-") as work:
        Path(work).chmod(0o755)
        code = subprocess.call([*apart, sys.executable, __file__, "--inside", work])
    if code == 0:
        say("image-check passed; not run: the base images themselves, docker build, docker run")
    return code


if __name__ == "__main__":
    sys.exit(main())
