"""The scripts that run inside Redis: their texts, and the names Redis knows them by."""

from __future__ import annotations

import hashlib
from importlib.resources import files


class Script:
    """One script; `sha` is what EVALSHA calls it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _read(name: str) -> Script:
    return Script((files(__package__) / "lua" / f"{name}.lua").read_text("utf-8"))


TICK = _read("tick")
HELLO = _read("hello")
