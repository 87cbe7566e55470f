"""Types of the compiled usage reader; the twin says what the numbers are."""

from typing import TypeAlias

Counts: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int]
Tier: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int, int, int]
Prices: TypeAlias = tuple[Tier, ...]

def read(payload: bytes) -> Counts | None:
    """Read a usage object."""

def read_event(payload: bytes, first: bytes | None = None) -> Counts | None:
    """Read the usage object in an event's payload; what it leaves out stands in `first`."""

def cost(counts: Counts, prices: Prices) -> int:
    """Give the cost in nano-dollars, never negative, rounded half up once a price line."""
