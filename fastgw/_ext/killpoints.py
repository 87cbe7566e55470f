"""Named places where a process can be made to die or to stop: for tests of the ledger alone.

`FASTGW_KILL_POINT=NAME:N[:STOP]`, read once when this is imported, sends SIGKILL (or SIGSTOP) to
the process itself when it comes to the place for the N-th time, and every N-th time after that.
Without the variable `reach` is None, and a place costs one test of it:

    if reach is not None:
        reach("after_open")
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

POINTS = (
    "after_reserve",
    "after_open",
    "after_send",
    "before_close",
    "after_close",
    "before_release",
    "after_release",
    "during_load",
    "during_fold",
)
"""In the order of an exchange's life; the last two are the loader's and those of Redis."""


def arm(order: str) -> Callable[[str], None]:
    """Read the variable; give what is to be called at every place."""
    name, number, *how = order.split(":")
    if name not in POINTS or not number.isdigit() or int(number) < 1 or how not in ([], ["STOP"]):
        raise ValueError(f"FASTGW_KILL_POINT must be NAME:N or NAME:N:STOP, not {order!a}")
    every, deadly = int(number), signal.SIGSTOP if how else signal.SIGKILL
    seen = 0

    def reach(point: str) -> None:
        nonlocal seen
        if point == name:
            seen += 1
            if seen % every == 0:
                os.kill(os.getpid(), deadly)

    return reach


_order = os.environ.get("FASTGW_KILL_POINT")  # noqa: TID251 - as FASTGW_PURE: not a setting
reach: Callable[[str], None] | None = arm(_order) if _order else None
