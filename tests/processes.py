"""Real fastgw processes for tests: the mock provider and the gateway itself, stopped by pid."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM
from typing import Any, TypeVar
from urllib.request import Request, urlopen

from fastgw.domain import UsageRecord
from fastgw.server.load import NAME as LOADER
from fastgw.storage import Store, open_store
from fastgw.storage.sql import keys, models, usage_reports
from fastgw.storage.sql.usage_reports import Filter
from tests.waiting import eventually_sync

ROOT = Path(__file__).parents[1]
T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own, whether or not one runs here."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class Process:
    """A command of ours that prints where it serves."""

    def __init__(self, *arguments: str, cwd: Path, env: dict[str, str] | None = None) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("FASTGW_")}
        for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
            clean.pop(name, None)
        clean["PYTHONPATH"] = str(ROOT)
        if "FASTGW_PURE" in os.environ:
            clean["FASTGW_PURE"] = os.environ["FASTGW_PURE"]
        self.output: list[str] = []
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "fastgw", *arguments],
            cwd=cwd,
            env=clean | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as lines:
            self.output.extend(lines)

    @property
    def pid(self) -> int:
        """The process started here: of the gateway, the supervisor."""
        return self._popen.pid

    @property
    def text(self) -> str:
        """All it has printed so far."""
        return "".join(self.output)

    def wait_for(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        """Give the first match in the output; fail when the process ends before."""

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.text)
            if found is None and self._popen.poll() is not None:
                self._reader.join()
                found = re.search(pattern, self.text)
                assert found, f"ended with {self._popen.returncode}:\n{self.text}"
            return found

        return eventually_sync(look, timeout, f"{pattern!r} in:\n{self.text}")

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._popen.send_signal(number)

    def wait(self, timeout: float = 40) -> int:
        """Give the exit status."""
        status = self._popen.wait(timeout)
        self._reader.join(5)
        return status

    def stop(self, number: int = SIGTERM) -> int:
        """Ask it to end, and see to it that it does."""
        if self._popen.poll() is None:
            self.signal(number)
            try:
                return self.wait(15)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
                raise AssertionError(f"did not stop:\n{self.text}") from None
        return self.wait()

    def children(self) -> list[int]:
        """Give the pids of its worker processes."""
        return [pid for pid, name in self._children() if name != LOADER]

    def loader(self) -> int:
        """Give the pid of its loader."""

        def look() -> int | None:
            return next((pid for pid, name in self._children() if name == LOADER), None)

        return eventually_sync(look, 10, "a loader")

    def _children(self) -> Iterator[tuple[int, str]]:
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        for pid in map(int, listed.split()):
            with suppress(FileNotFoundError, ProcessLookupError):
                yield pid, Path(f"/proc/{pid}/comm").read_text().strip()


class Mock(Process):
    """The mock provider."""

    def __init__(self, cwd: Path, *options: str) -> None:
        super().__init__("mock", "--port", "0", *options, cwd=cwd)
        self.base_url = self.wait_for(r"mock provider on (\S+)")[1]

    def log(self) -> list[dict[str, Any]]:
        """Give its account of finished exchanges."""
        with urlopen(self.base_url.removesuffix("/v1") + "/mock/log") as answer:
            return json.load(answer)["exchanges"]

    def clear(self) -> None:
        """Forget what was logged."""
        url = self.base_url.removesuffix("/v1") + "/mock/log"
        urlopen(Request(url, method="DELETE")).close()


class Gateway(Process):
    """A gateway on a database of its own, with a configuration file it was started from."""

    def __init__(
        self,
        folder: Path,
        store_url: str,
        config: dict[str, Any],
        *,
        env: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.store_url = store_url
        self.config_file = folder / "fastgw.yaml"
        self.write_config(config)
        super().__init__("serve", cwd=folder, env=env)
        self.url = self.wait_for(r"serves on (http\S+?)[, ]")[1]

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the configuration file, replacing it whole as an editor does."""
        merged = {
            "database": {"url": self.store_url},
            "admin": {"email": "root@example.com", "password": "correct horse battery"},
            **config,
            "server": {"port": 0, **config.get("server", {})},
        }
        new = self.config_file.with_suffix(".new")
        new.write_text(json.dumps(merged))  # YAML is a superset
        new.replace(self.config_file)

    def ready(self) -> None:
        """Wait until it serves."""
        eventually_sync(lambda: self.get("/readyz")[0] == 200, 20, "ready")

    def get(self, path: str, key: str | None = None) -> tuple[int, bytes]:
        """Ask for a path; give status and body, (0, b"") when nobody answers."""
        request = Request(self.url + path)
        if key is not None:
            request.add_header("authorization", f"Bearer {key}")
        try:
            with urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except OSError as exc:
            read = getattr(exc, "read", None)
            return (exc.status, read()) if read else (0, b"")  # type: ignore[attr-defined]

    def in_store(self, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        """Do something with its database, as another process would."""

        async def open_and_do() -> T:
            store = await open_store(self.store_url, migrate=False)
            try:
                return await work(store)
            finally:
                await store.close()

        return run(open_and_do())

    def create_key(self, name: str = "test", **fields: Any) -> str:
        """Create a key and give its text."""
        _, plaintext = self.in_store(lambda store: keys.create(store, name=name, **fields))
        return plaintext.reveal()

    def revoke_key(self, name: str) -> None:
        """Revoke a key."""

        async def revoke(store: Store) -> None:
            await keys.revoke(store, (await keys.find(store, name)).id)

        self.in_store(revoke)

    def set_price(self, provider: str, model: str, **picos: int) -> None:
        """Set what a model costs."""
        self.in_store(lambda store: models.put(store, provider, model, **picos))

    def records(self, least: int = 0, timeout: float = 15) -> list[UsageRecord]:
        """Give the usage records once there are at least so many."""

        async def read(store: Store) -> list[UsageRecord]:
            return [record async for record in usage_reports.export(store, Filter())]

        found: list[UsageRecord] = []

        def enough() -> bool:
            found[:] = self.in_store(read)
            return len(found) >= least

        eventually_sync(enough, timeout, f"{least} records, saw {len(found)}")
        return found
