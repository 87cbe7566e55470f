"""Types of the compiled usage reader."""

from typing import TypeAlias

Counts: TypeAlias = tuple[int, int, int, int, int]
Prices: TypeAlias = tuple[int, int, int, int, int, int]

def read(payload: bytes) -> Counts | None:
    """Read a usage object; (input, output, cached, cache_write, reasoning) or None."""

def read_event(payload: bytes, first: bytes | None = None) -> Counts | None:
    """Read the usage object in an event's payload; what it leaves out stands in `first`."""

def cost(counts: Counts, prices: Prices) -> int:
    """Give the cost in nano-dollars, never negative, rounded half up once a price line."""
