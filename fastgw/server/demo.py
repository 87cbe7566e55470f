"""`fastgw serve --demo`: a throw-away gateway with a mock provider behind it. Needs no network."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastgw.domain import Secret
from fastgw.errors import CannotStart
from fastgw.storage import Session
from fastgw.storage.sql import keys

MODEL = "demo"
_ANNOUNCEMENT = "mock provider on "


@contextmanager
def mock_provider() -> Iterator[str]:
    """Run the mock provider beside us; give its base URL."""
    command = [sys.executable, "-m", "fastgw", "mock", "--port", "0", "--models", MODEL]
    # 40 ms a chunk: slow enough for a person to see that it streams.
    command += ["--chunks", "30", "--chunk-delay-ms", "40"]
    with subprocess.Popen(  # noqa: S603
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the gateway, which still needs it while it drains
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith(_ANNOUNCEMENT):
                raise CannotStart("the mock provider did not start")
            yield line.removeprefix(_ANNOUNCEMENT).strip()
        finally:
            process.terminate()


def overrides(folder: str, base_url: str) -> Mapping[str, Any]:
    """Give the settings of a demo that keeps everything in `folder`."""
    provider = {
        "name": "mock",
        "type": "openai_compatible",
        "base_url": base_url,
        "models": [MODEL],
    }
    return {
        "database.url": f"sqlite:///{folder}/fastgw.db",
        "journal.dir": f"{folder}/journal",
        "providers": [provider],
        "models": [],
        "aliases": [],
        "redis.url": None,
    }


async def create_key(db: Session) -> Secret:
    """Create the key that the printed command uses."""
    _, plaintext = await keys.create(db, name="demo", tags={"team": "demo"})
    return plaintext


def try_this(url: str, key: Secret) -> str:
    """Give a command that works as pasted."""
    body = '{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'
    command = [
        f"curl -N {url}/v1/chat/completions",
        f"-H {shlex.quote(f'authorization: Bearer {key.reveal()}')}",
        "-H 'content-type: application/json'",
        f"-d {shlex.quote(body)}",
    ]
    return " \\\n  ".join(command)
