"""Do the main job end to end, as a user would, and say whether it worked.

Builds the wheel from what a commit would hold, looks into it, installs it with the locked packages
in a clean environment in a temporary folder, and from there starts the mock provider and a server
that knows it. The official `openai` client asks once for an answer and once for a stream; then the
usage records are printed as `fastgw usage list --json` shows them. Last, the demo's printed curl is
run as pasted. Every process started here is stopped by its id. Exit code 0 means all of it held.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import openai
from environment import Environment, Trouble, export, missing_for_c, run, say

DEADLINE_S = 30
CONFIG = """\
server: {{port: {port}}}
providers:
  - {{name: mock, type: openai, base_url: "http://127.0.0.1:{mock}/v1", api_key: sk-smoke}}
models:
  - name: smoke
    deployments: [{{provider: mock, model: demo}}]
"""
LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def build_wheel(python: Path, work: Path) -> Path:
    """Build from a clean copy of the tree, with the locked tools, and give the wheel's path."""
    export(work / "src")
    extra = {} if os.environ.get("FASTGW_PURE") or missing_for_c() else {"FASTGW_REQUIRE_EXT": "1"}
    command = ("wheel", "--no-deps", "--no-build-isolation", "-w", work, ".")
    run(python, "-m", "pip", *command, cwd=work / "src", **extra, SOURCE_DATE_EPOCH="1767225600")
    return next(work.glob("fastgw-*.whl"))


def check_wheel(wheel: Path, source: Path) -> None:
    """See that all of fastgw/ is inside, with its licences, and nothing that runs uninvited."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        record = next(name for name in names if name.endswith(".dist-info/RECORD"))
        for line in archive.read(record).decode().splitlines():
            name, digest, _ = line.rsplit(",", 2)
            if digest:
                held = hashlib.sha256(archive.read(name)).digest()
                if digest != "sha256=" + base64.urlsafe_b64encode(held).decode().rstrip("="):
                    raise Trouble(f"{name} in the wheel is not what its record says")
    info = record.rsplit("/", 1)[0]
    foreign = [n for n in names if not n.startswith(("fastgw/", f"{info}/"))]
    if foreign:
        raise Trouble(f"the wheel installs outside fastgw: {foreign}")
    uninvited = [n for n in names if n.endswith(".pth") or "sitecustomize" in n or "/tests/" in n]
    if uninvited:
        raise Trouble(f"the wheel holds {uninvited}")
    wanted = {str(p.relative_to(source)) for p in (source / "fastgw").rglob("*") if p.is_file()}
    wanted = {n for n in wanted if not n.endswith((".so", ".c"))} | {f"{info}/licenses/LICENSE"}
    if wanted - names:
        raise Trouble(f"the wheel lacks {sorted(wanted - names)}")
    built = sum(name.endswith(".so") for name in names)
    say(f"{wheel.name}: {len(names)} files, {built} compiled modules, {wheel.stat().st_size} bytes")


def free_port() -> int:
    """Give a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Gateway:
    """The installed `fastgw` command in a working folder of its own, and what it has running."""

    def __init__(self, command: Path, folder: Path) -> None:
        folder.mkdir()
        self.command, self.folder = command, folder
        self.running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}

    def ask(self, *words: str) -> Any:
        """Run one command to its end and give the JSON it prints."""
        done = subprocess.run(
            [self.command, *words, "--json"],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Trouble(f"fastgw {shlex.join(words)}: exit {done.returncode}\n{done.stderr}")
        return json.loads(done.stdout)

    def start(self, name: str, *words: str) -> Path:
        """Start a server; give the file it writes to."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [self.command, *words],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.running.append((name, process))
        return log

    def wait(self, url: str) -> None:
        """Wait for an answer 200 from `url`, as long as everything that was started still runs."""
        end = time.monotonic() + DEADLINE_S
        while True:
            for name, process in self.running:
                if process.poll() is not None:
                    raise Trouble(f"{name} ended with exit {process.returncode}")
            try:
                with LOOPBACK.open(url, timeout=2):
                    return
            except OSError as error:
                if time.monotonic() > end:
                    raise Trouble(f"{url} not ready in {DEADLINE_S} s: {error}") from error
            time.sleep(0.05)

    def stop(self) -> None:
        """End what runs, newest first; a server that does not drain to exit 0 is a failure."""
        bad = []
        while self.running:
            name, process = self.running.pop()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            if code:
                bad.append(f"{name} exit {code}")
        if bad:
            raise Trouble("did not end well: " + ", ".join(bad))

    def logs(self) -> str:
        """Give the end of every log, for a failure's report."""
        parts = []
        for log in sorted(self.folder.glob("*.log")):
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
            parts.append(f"--- {log.name}\n{tail}")
        return "\n".join(parts)


def ask_both_ways(port: int, key: str) -> None:
    """One plain and one streamed request by the official client."""
    messages: Any = [{"role": "user", "content": "Say something short."}]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key) as client:
        answer = client.chat.completions.create(model="smoke", messages=messages)
        if not answer.choices[0].message.content:
            raise Trouble(f"an answer without content: {answer}")
        say(f"plain:    {answer.choices[0].message.content!r}")
        stream = client.chat.completions.create(model="smoke", messages=messages, stream=True)
        with stream as chunks:
            pieces = [c.choices[0].delta.content for c in chunks if c.choices]
    if not any(pieces):
        raise Trouble("a stream without content")
    say(f"streamed: {''.join(filter(None, pieces))!r} in {len(pieces)} chunks")


def show_usage(gateway: Gateway) -> None:
    """Wait for both records, print them, and see that they hold tokens."""
    end = time.monotonic() + DEADLINE_S
    while len(records := gateway.ask("usage", "list")) < 2:
        if time.monotonic() > end:
            raise Trouble(f"{len(records)} usage records after {DEADLINE_S} s, not 2")
        time.sleep(0.2)
    print(json.dumps(records, indent=2), flush=True)
    if len(records) != 2 or sorted(bool(record["stream"]) for record in records) != [False, True]:
        raise Trouble("not one record for each of the two requests")
    if not all(record["input_tokens"] and record["output_tokens"] for record in records):
        raise Trouble("a usage record without tokens")


def main_job(gateway: Gateway) -> None:
    """Take the mock as provider, a key, two requests, their records."""
    port, mock = free_port(), free_port()
    (gateway.folder / "fastgw.yaml").write_text(CONFIG.format(port=port, mock=mock))
    gateway.start("mock", "mock", "--port", str(mock))
    gateway.wait(f"http://127.0.0.1:{mock}/v1/models")
    gateway.start("serve", "serve")
    gateway.wait(f"http://127.0.0.1:{port}/readyz")
    key = gateway.ask("keys", "create", "--name", "smoke")["key"]
    ask_both_ways(port, key)
    show_usage(gateway)
    gateway.stop()


def printed_curl(log: Path) -> str:
    """Give the curl command of the demo's output, with its continuation lines."""
    command: list[str] = []
    for line in log.read_text().splitlines():
        if command or line.lstrip().startswith("curl "):
            command.append(line)
            if not line.endswith("\\"):
                break
    if not command:
        raise Trouble("the demo printed no curl")
    return "\n".join(command)


def pasted_curl(gateway: Gateway) -> None:
    """Start the demo and run, in a shell, the command it prints."""
    port = free_port()
    log = gateway.start("demo", "serve", "--demo", "--port", str(port))
    gateway.wait(f"http://127.0.0.1:{port}/readyz")
    command = printed_curl(log)
    if shutil.which("curl"):
        done = subprocess.run(
            ["/bin/sh", "-c", command], env=gateway.env, capture_output=True, text=True, check=False
        )
        if done.returncode or "data: [DONE]" not in done.stdout:
            raise Trouble(f"the pasted curl failed:\n{command}\n{done.stdout}\n{done.stderr}")
        say(f"the demo's curl streamed {done.stdout.count('data: {')} events as pasted")
    else:
        say("the demo printed a curl; there is none here to run it")
    gateway.stop()


def main() -> int:
    """Run every step; on failure say which, with the servers' last words."""
    parser = argparse.ArgumentParser(description="Do the main job end to end.")
    parser.add_argument("--keep", action="store_true", help="leave the temporary folder")
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="fastgw-smoke-"))
    clean = Environment(work / "env")
    command = work / "env/bin/fastgw"
    gateway, demo = Gateway(command, work / "job"), Gateway(command, work / "demo")
    try:
        wheel = build_wheel(Path(sys.executable), work)
        check_wheel(wheel, work / "src")
        clean.ensure(["run"])
        clean.pip("install", "--no-deps", "--no-index", wheel)
        clean.pip("check")
        main_job(gateway)
        pasted_curl(demo)
    except (Trouble, OSError, subprocess.CalledProcessError, openai.OpenAIError) as trouble:
        print(f"smoke: {trouble}\n{gateway.logs()}\n{demo.logs()}", file=sys.stderr)
        return 1
    finally:
        for _, process in gateway.running + demo.running:
            process.kill()
            process.wait()
        if asked.keep:
            say(f"left {work}")
        else:
            shutil.rmtree(work)
    say("smoke passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
