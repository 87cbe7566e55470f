"""Types of the compiled journal."""

from typing import final

from typing_extensions import Buffer

from fastgw._ext.lines import Row

@final
class Who:
    """What the records of one kind have in common; written once into each segment."""

    def __init__(self, texts: tuple[str | None, ...]) -> None:
        """`texts` are those of lines.TEXTS, tags as JSON."""

@final
class Journal:
    """Appends lines to segment files that are mapped into memory."""

    def __init__(self) -> None: ...
    @property
    def end(self) -> int:
        """Bytes of the segment that are written."""

    @property
    def owed(self) -> int:
        """Bytes kept back for lines that close what is open."""

    @property
    def serial(self) -> int:
        """Of the segment that is written, 0 while there is none."""

    @property
    def lines(self) -> int:
        """How many opening and closing lines were written."""

    @property
    def wants_segment(self) -> bool:
        """Tell whether there is no segment in reserve."""

    def provide(self, fd: int, size: int, serial: int) -> None:
        """Give an allocated file of `size` bytes to go on in; at most one is kept in reserve.

        Serials are 1 or more and never repeat in a process.
        """

    def turn_over(self) -> bool:
        """Go on in the segment that is in reserve, if there is one; tell whether there was."""

    def take_left(self) -> list[int]:
        """Give the serials of segments that were left since the last call: they are complete."""

    def open(
        self,
        who: Who,
        id: str,  # noqa: A002 - the contract's name
        label: str | None,
        created_at: int,
        stream: bool,
        nano: int,
        tokens: int,
        prompt: int,
    ) -> int:
        """Write that an exchange begins; give the bytes kept back for its close, 0: no room."""

    def close(
        self,
        kept: int,
        who: Who,
        id: str,  # noqa: A002 - the contract's name
        label: str | None,
        created_at: int,
        stream: bool,
        status: int,
        attempts: int,
        input: int,  # noqa: A002 - the contract's name
        output: int,
        cached: int,
        cache_write: int,
        reasoning: int,
        nano: int,
        source: str,
        duration_ms: int,
        ttft_ms: int,
        overhead_us: int,
        code: str | None,
    ) -> bool:
        """Write what an exchange came to; `kept` is what `open` gave, 0 where there was none.

        False: no room, which happens only with nothing kept.
        """

def read(
    data: Buffer, start: int, names: dict[int, tuple[str | None, ...]], most: int = ...
) -> tuple[list[Row], list[tuple[Row, int, int]], int]:
    """Read the lines of a segment from `start`, its beginning or what an earlier call gave.

    Gives rows that are closed; (row, tokens, prompt) of what was opened, the row's source `held`;
    and where to go on. Stops after `most` closed rows. `names` is kept between calls for one
    segment. Raises Damaged at bytes that are no line.
    """
