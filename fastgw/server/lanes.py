"""Makes a worker's fast lane, where there can be one: compiled, beside an aiohttp that we know."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aiohttp.web_protocol import RequestHandler

from fastgw._ext import BUILD
from fastgw.flow.context import Context
from fastgw.flow.plan import Plans
from fastgw.server.door import Door
from fastgw.server.http import GatewayServer
from fastgw.upstream import Pool

if TYPE_CHECKING:
    from fastgw.server.fastlane import FastLane

log = structlog.get_logger(__name__)

NEEDED = (
    "_waiter", "_messages", "_request_in_progress", "_upgraded", "_close", "_force_close",
    "finish_response",
)  # fmt: skip
"""What `GatewayProtocol` uses of aiohttp's protocol, most of it private there."""


def make_fast_lane(
    context: Context, pool: Pool, server: GatewayServer, routes: dict[str, str], door: Door
) -> FastLane | None:
    """Make the fast lane for some exact request targets -> endpoints; None where none can be."""
    reason = obstacle()
    if reason is not None:
        log.warning("no_fast_lane", reason=reason)
        return None
    # these exist compiled only
    from fastgw.server.fastlane import FastLane  # noqa: PLC0415
    from fastgw.server.front import Front  # noqa: PLC0415

    server.fronted = True
    context.plans = Plans()
    lane = FastLane(asyncio.get_running_loop(), context, pool.deadlines, server, routes, door)
    lane.make_front = partial(Front, lane)
    return lane


def obstacle() -> str | None:
    """Say why there can be no fast lane; None: there can."""
    if BUILD != "compiled":
        return "the pure build has none"
    absent = [name for name in NEEDED if not hasattr(RequestHandler, name)]
    if absent:
        return f"this aiohttp has no {', '.join(absent)}"
    return None
