"""Configuration in a folder of its own: nothing of the machine's leaks in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fastgw.config import ConfigError, Loaded, load

DISCOVERY = {
    "OPENAI_API_KEY": {
        "name": "openai",
        "type": "openai",
        "api_key": "${OPENAI_API_KEY}",
        "base_url": "${OPENAI_BASE_URL}",
    },
    "OLLAMA_HOST": {
        "name": "ollama",
        "type": "ollama",
        "base_url": "${OLLAMA_HOST}",
        "default_port": 11434,
    },
}
TYPES = ("openai", "openai_compatible", "azure", "ollama", "vertex", "bedrock")


class Config:
    """Writes files and loads what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, text: str | bytes, name: str = "fastgw.yaml") -> Path:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def load(
        self,
        text: str | bytes | None = None,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        name: str = "fastgw.yaml",
        path: str | None = None,
    ) -> Loaded:
        if text is not None:
            self.write(text, name)
        return load(
            overrides,
            path,
            environ or {},
            self.folder,
            discovery=DISCOVERY,
            provider_types=TYPES,
        )

    def refused(self, *args: Any, **kwargs: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load(*args, **kwargs)
        return str(caught.value)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Any]:
    return Config(tmp_path)
