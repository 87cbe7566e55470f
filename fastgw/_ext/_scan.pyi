"""Types of the compiled top-level scan."""

class ScanError(ValueError):
    """The body is not one JSON object that can be read in one way only."""

    reason: str
    key: bytes | None
    def __init__(self, reason: str, key: bytes | None = None) -> None: ...

def top_level(body: bytes, names: frozenset[bytes]) -> dict[bytes, tuple[int, int]]:
    """Give the spans (start, end) of the values of the wanted top-level keys, or ScanError."""
