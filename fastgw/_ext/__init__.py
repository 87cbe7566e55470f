"""The one switch between the compiled hot loops and their pure twins.

Users write `from fastgw._ext import scan`. Both builds of a module have the same signatures and
pass the same tests; this room knows bytes and imports nothing else of fastgw.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Final

MODULES: Final = (
    "scan", "sse", "estimate", "ids", "http1", "request", "counters", "usage", "limits", "rows",
    "journal",
)  # fmt: skip
"""`_NAME.pyx` is the compiled module, `pure/NAME.py` its twin."""

if TYPE_CHECKING:
    from fastgw._ext import _counters as counters
    from fastgw._ext import _estimate as estimate
    from fastgw._ext import _http1 as http1
    from fastgw._ext import _ids as ids
    from fastgw._ext import _journal as journal
    from fastgw._ext import _limits as limits
    from fastgw._ext import _request as request
    from fastgw._ext import _rows as rows
    from fastgw._ext import _scan as scan
    from fastgw._ext import _sse as sse
    from fastgw._ext import _usage as usage

BUILD: str
"""Which build runs: "compiled" or "pure"."""


def _bind(pattern: str) -> None:
    globals().update({name: import_module(pattern.format(name)) for name in MODULES})


def load_texts(package: str, beside: str, names: tuple[str, ...]) -> None:
    """Load modules of `package` from their texts, in this order.

    Their compiled forms, where there are any, would be found first and want the compiled `_ext`.
    """
    for name in names:
        spec = spec_from_file_location(f"{package}.{name}", Path(beside).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)


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
    "BUILD", "MODULES", "counters", "estimate", "http1", "ids", "journal", "limits", "load_texts",
    "request", "rows", "scan", "sse", "usage",
]  # fmt: skip
