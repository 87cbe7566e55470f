"""The one switch between the compiled hot loops and their pure twins.

Users write `from fastgw._ext import scan`. Both builds of a module have the same signatures and
pass the same tests; this room knows bytes and imports nothing else of fastgw.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Final

MODULES: Final = (
    "scan", "sse", "estimate", "ids", "http1", "request", "counters", "usage", "limits",
)  # fmt: skip
"""`_NAME.pyx` is the compiled module, `pure/NAME.py` its twin."""

if TYPE_CHECKING:
    from fastgw._ext import _counters as counters
    from fastgw._ext import _estimate as estimate
    from fastgw._ext import _http1 as http1
    from fastgw._ext import _ids as ids
    from fastgw._ext import _limits as limits
    from fastgw._ext import _request as request
    from fastgw._ext import _scan as scan
    from fastgw._ext import _sse as sse
    from fastgw._ext import _usage as usage

BUILD: str
"""Which build runs: "compiled" or "pure"."""


def _bind(pattern: str) -> None:
    globals().update({name: import_module(pattern.format(name)) for name in MODULES})


if os.environ.get("FASTGW_PURE") == "1":
    _bind("fastgw._ext.pure.{}")
    BUILD = "pure"
else:
    try:
        _bind("fastgw._ext._{}")
        BUILD = "compiled"
    except ImportError:
        _bind("fastgw._ext.pure.{}")
        BUILD = "pure"

__all__ = [
    "BUILD", "MODULES", "counters", "estimate", "http1", "ids", "limits", "request", "scan", "sse",
    "usage",
]  # fmt: skip
