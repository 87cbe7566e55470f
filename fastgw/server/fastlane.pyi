"""Types of the compiled fast lane."""

import asyncio
from collections.abc import Callable

from fastgw.config.schema import Server, Stream
from fastgw.errors import GatewayError
from fastgw.flow.context import Context
from fastgw.flow.plan import Plans
from fastgw.server.door import Door
from fastgw.upstream.deadlines import Deadlines

class FastLane:
    """What all fronts of a worker share."""

    draining: bool
    make_front: Callable[[], asyncio.Protocol]
    """Makes the protocol of a new connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        deadlines: Deadlines,
        make_handler: Callable[[], asyncio.Protocol],
        routes: dict[str, str],
        door: Door,
    ) -> None: ...
    @property
    def plans(self) -> Plans: ...
    @property
    def in_flight(self) -> int:
        """How many exchanges are under way."""
    def configure(self, server: Server, stream: Stream) -> None:
        """Take the settings of two sections; they hold from the next request."""
    def is_busy(self) -> bool:
        """Tell whether an exchange is under way, or an answer not yet taken."""
    def close_idle(self) -> None:
        """Close the connections that wait for a request."""
    def end_all(self, error: GatewayError) -> None:
        """End every live exchange with an error: the grace period is over."""
