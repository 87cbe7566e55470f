"""Where the public corpora and recordings are, if they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(os.environ.get("FASTGW_SHARED") or Path(__file__).parents[2] / "shared")


def shared(name: str) -> Path:
    """Give the folder of one corpus; skip when it is absent, fail in CI."""
    path = ROOT / name
    if path.exists():
        return path
    reason = f"corpus {name} is not beside this clone"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def recordings(provider: str, endpoint: str | None = None) -> Iterator[dict[str, Any]]:
    """Give the recorded exchanges of one provider file, in order."""
    with (shared("recordings") / f"{provider}.jsonl").open() as lines:
        for line in lines:
            exchange = json.loads(line)
            if endpoint is None or exchange["endpoint"] == endpoint:
                yield exchange
