"""The only sockets to providers: pools, time-outs, DNS, TLS.

A request leaves by `Pool.send` and its answer comes to a `Sink`. Knows HTTP/1.1 and nothing of
models, keys or money.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from fastgw._ext import BUILD

if BUILD == "pure":
    # the compiled form of these texts, where there is one, is found first and wants the compiled
    # http1: load the texts themselves
    for _name in ("deadlines", "connection", "origin"):
        _spec = importlib.util.spec_from_file_location(
            f"{__name__}.{_name}", Path(__file__).with_name(f"{_name}.py")
        )
        assert _spec is not None
        assert _spec.loader is not None
        _module = importlib.util.module_from_spec(_spec)
        sys.modules[_spec.name] = _module
        _spec.loader.exec_module(_module)

from fastgw.upstream.connection import Attempt, Sink
from fastgw.upstream.origin import Bounds, Origin
from fastgw.upstream.pool import Pool, Target

__all__ = ["Attempt", "Bounds", "Origin", "Pool", "Sink", "Target"]
