"""Types of the compiled client connection."""

import asyncio

from fastgw.server.fastlane import FastLane

class Front(asyncio.Protocol):
    """A client connection: takes canonical requests itself, lends all others to aiohttp."""

    def __init__(self, lane: FastLane) -> None: ...
    def answered(self) -> None:
        """Take the connection back, if aiohttp has come to rest: it has just answered."""
    def has_it(self) -> bool:
        """Tell whether the connection is not lent to aiohttp, let alone given."""
