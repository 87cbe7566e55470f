"""Gateways of others that the package indexes hold, each in an environment of its own.

`python -m bench.compare --install` fetches them into `$XDG_CACHE_HOME/fastgw-bench` (some hundred
MiB); without that a run leaves them out and says so. Versions are fixed here, so that two runs
compare. None of them limits, budgets or records anything as it is run here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers.record import FOREIGN_ROWS, Peer, Place, Running, launch
from bench.processes import free_port

INSTALL_SECONDS = 600
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastgw-bench"
_LITELLM_KEY = "sk-" + "0" * 50


@dataclass(frozen=True)
class Package:
    """What one peer consists of: `program` below its folder, made by the commands of `steps`."""

    name: str
    version: str
    program: str
    needs: str
    steps: Callable[[Path], Sequence[Sequence[str]]]

    @property
    def folder(self) -> Path:
        """Where it is, or will be; another version is another folder."""
        return _CACHE / f"{self.name}-{self.version}"

    def missing(self) -> str | None:
        """Say why it cannot run here."""
        if (self.folder / self.program).exists():
            return None
        return f"not installed (`python -m bench.compare --install` fetches {self.version})"

    def install(self) -> str:
        """Fetch it; give how that went."""
        if self.missing() is None:
            return "is there already"
        if shutil.which(self.needs) is None:
            return f"`{self.needs}` is missing"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for step in self.steps(self.folder):
                subprocess.run(
                    step, cwd=self.folder, check=True, capture_output=True, timeout=INSTALL_SECONDS
                )
        except subprocess.CalledProcessError as exc:
            shutil.rmtree(self.folder)
            lines = exc.stderr.decode(errors="replace").strip().splitlines()
            return f"{exc.cmd[0]} failed: {lines[-1] if lines else exc.returncode}"
        except subprocess.TimeoutExpired:
            shutil.rmtree(self.folder)
            return f"took longer than {INSTALL_SECONDS} s"
        return "installed"


def _wheel(name: str, version: str, program: str, extra: str = "") -> Package:
    def steps(folder: Path) -> Sequence[Sequence[str]]:
        pip = str(folder / "bin" / "pip")
        wanted = f"{name}{extra}=={version}"
        return (
            (sys.executable, "-m", "venv", str(folder)),
            (pip, "install", "--quiet", "--only-binary", ":all:", wanted),
        )

    return Package(name, version, f"bin/{program}", sys.executable, steps)


VLLM = _wheel("vllm-router", "0.1.17", "vllm-router")
SGLANG = _wheel("sglang-router", "0.3.2", "sglang-router")
LITELLM = _wheel("litellm", "1.106.2", "litellm", "[proxy]")
PORTKEY = Package(
    "portkey",
    "1.15.2",
    "node_modules/@portkey-ai/gateway/build/start-server.js",
    "npm",
    lambda _: (("npm", "install", "--no-audit", "--no-fund", "@portkey-ai/gateway@1.15.2"),),
)
PACKAGES = (VLLM, SGLANG, PORTKEY, LITELLM)


def _environment(place: Place, **more: str) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(place.folder), **more}


def _start_router(package: Package, words: Sequence[str]) -> Callable[[Place], Running]:
    def start(place: Place) -> Running:
        argv = [str(package.folder / package.program), *words]
        argv += ["--host", "127.0.0.1", "--port", str(place.port), "--policy", "round_robin"]
        argv += ["--worker-urls", f"http://127.0.0.1:{place.upstream_port}"]
        argv += ["--prometheus-port", str(free_port()), "--log-level", "error"]
        return Running(launch(place, argv, _environment(place)), place.port)

    return start


def _start_portkey(place: Place) -> Running:
    argv = ["node", str(PORTKEY.folder / PORTKEY.program), "--headless", f"--port={place.port}"]
    process = launch(place, argv, _environment(place))
    headers = (
        "Authorization: Bearer " + "0" * 53,
        "x-portkey-provider: openai",
        f"x-portkey-custom-host: http://127.0.0.1:{place.upstream_port}/v1",
    )
    return Running(process, place.port, headers)


def _start_litellm(place: Place) -> Running:
    config = place.folder / "litellm.yaml"
    config.write_text(f"""\
model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:{place.upstream_port}/v1
      api_key: bench-credential
litellm_settings: {{telemetry: false}}
""")
    argv = [str(LITELLM.folder / LITELLM.program), "--config", str(config)]
    argv += ["--host", "127.0.0.1", "--port", str(place.port)]
    env = _environment(
        place,
        LITELLM_MASTER_KEY=_LITELLM_KEY,
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        LITELLM_LOG="ERROR",
    )
    return Running(launch(place, argv, env), place.port, (f"Authorization: Bearer {_LITELLM_KEY}",))


def _peer(
    package: Package,
    start: Callable[[Place], Running],
    rows: frozenset[str] = FOREIGN_ROWS,
    *,
    rewrites: bool = False,
) -> Peer:
    return Peer(
        name=package.name,
        missing=package.missing,
        version=lambda: package.version,
        start=start,
        rows=rows,
        rewrites=rewrites,
    )


PEERS = (
    _peer(VLLM, _start_router(VLLM, ())),
    _peer(SGLANG, _start_router(SGLANG, ("launch",))),
    # Its streams fail on current Node versions.
    _peer(PORTKEY, _start_portkey, frozenset({"json-1", "json-64"})),
    _peer(LITELLM, _start_litellm, rewrites=True),
)
