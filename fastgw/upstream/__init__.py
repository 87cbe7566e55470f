"""The only sockets to providers: pools, time-outs, DNS, TLS.

A request leaves by `Pool.send` and its answer comes to a `Sink`. Knows HTTP/1.1 and nothing of
models, keys or money.
"""

from __future__ import annotations

from fastgw._ext import BUILD, load_texts

if BUILD == "pure":
    load_texts(__name__, __file__, ("deadlines", "connection", "origin"))

from fastgw.upstream.connection import Attempt, Sink
from fastgw.upstream.origin import Bounds, Origin
from fastgw.upstream.pool import Pool, Target

__all__ = ["Attempt", "Bounds", "Origin", "Pool", "Sink", "Target"]
