"""Types of the compiled id source."""

from typing import final

@final
class Source:
    """Makes ids of 26 url-safe characters: prefix, random text, counter."""

    def __init__(self, prefix: str) -> None: ...
    def next(self) -> str:
        """Give an id that no call gave before, in this or another process."""
