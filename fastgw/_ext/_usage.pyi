"""Types of the compiled usage reader."""

def read(payload: bytes) -> tuple[int, int, int, int, int] | None:
    """Read a usage object; (input, output, cached, cache_write, reasoning) or None."""

def read_event(payload: bytes, first: bytes | None = None) -> tuple[int, int, int, int, int] | None:
    """Read the usage object in an event's payload; what it leaves out stands in `first`."""

def cost(
    counts: tuple[int, int, int, int, int], prices: tuple[int, int, int, int, int, int]
) -> int:
    """Give the cost in nano-dollars, never negative, rounded half up once a price line."""
