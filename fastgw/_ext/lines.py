"""How the journal's lines look; both builds of `journal` share this.

A segment file begins with `HEADER` bytes: the magic, its serial number. Lines follow, each aligned
to 8 bytes: u32 length, which is stored last, so that a line is there wholly or not at all; u8 kind;
u8 flags; u16 size of the label; then by kind, all little-endian:

    WHO     u32 number, u32 0; for each of `TEXTS`: i32 size, -1 for none, and the text
    OPEN    the common part, 3 numbers: nano-dollars, tokens, prompt
    CLOSE   the common part, 10 numbers: input, output, cached, cache_write, reasoning, nano,
            duration_ms, ttft_ms (-1 for none), overhead_us, 0

The common part: u32 number of a WHO line before it, u16 status, u16 attempts, i64 created_at,
u8 usage source, u8 size of the id, u8 size of the error code, u8 0, u32 0, 32 bytes of id. After
the numbers: label, error code. Flag 1: a stream. No label: it is the id.
"""

from __future__ import annotations

from typing import Final

MAGIC: Final = b"fgwj1\0\0\0"
HEADER: Final = 64

WHO: Final = 1
OPEN: Final = 2
CLOSE: Final = 3

STREAM: Final = 1

COMMON: Final = 64
"""Bytes of a line before its numbers."""
OPENED: Final = 3
CLOSED: Final = 10
LONGEST_ID: Final = 32
LONGEST_LABEL: Final = 240
LONGEST_CODE: Final = 64

SOURCES: Final = ("reported", "partial", "estimated", "held")

MOST: Final = 10**15
"""Ceiling of one number, a million dollars in nano-dollars: what a provider reports must not make
sums overflow."""

TEXTS: Final = (
    ("key_id", 240),
    ("user_id", 240),
    ("team_id", 240),
    ("org_id", 240),
    ("tags", 1 << 16),
    ("endpoint", 100),
    ("requested_model", 240),
    ("provider", 100),
    ("upstream_model", 240),
)
"""What a WHO line holds, each with the characters that are kept of it."""

Row = tuple[object, ...]
"""The fields of a usage record in their order, tags as JSON."""


class Damaged(ValueError):
    """Bytes that are no line, at `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"no line of a journal at byte {offset}")
        self.offset = offset
