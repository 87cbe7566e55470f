"""The journal of one worker: what was asked for and what it came to, safe from kill -9.

The compiled module is _journal.pyx; lines.py says how lines look. A length is stored last by one
assignment of four bytes, which is one store on every machine this runs on.
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING

from fastgw._ext import lines
from fastgw._ext.columns import fit_text
from fastgw._ext.lines import Damaged

if TYPE_CHECKING:
    from typing_extensions import Buffer

_COMMON = struct.Struct("<4xBBHIHHqBBBBI32s")
_OPENED = struct.Struct(f"<{lines.OPENED}q")
_CLOSED = struct.Struct(f"<{lines.CLOSED}q")
_LENGTH = struct.Struct("<I")
_SIZE = struct.Struct("<i")
_LONGEST_CLOSE = lines.COMMON + 8 * lines.CLOSED + lines.LONGEST_LABEL + lines.LONGEST_CODE
_HELD = lines.SOURCES.index("held")


class Who:
    """What the records of one kind have in common; written once into each segment."""

    def __init__(self, texts: tuple[str | None, ...]) -> None:
        if len(texts) != len(lines.TEXTS):
            raise ValueError(f"{len(lines.TEXTS)} texts are wanted")
        parts = []
        for text, (_, longest) in zip(texts, lines.TEXTS, strict=True):
            encoded = None if text is None else fit_text(text, longest).encode()
            parts.append(_SIZE.pack(-1 if encoded is None else len(encoded)) + (encoded or b""))
        body = b"".join(parts)
        size = 16 + len(body)
        padding = -size % 8
        self.line = (
            struct.pack("<IBBHII", size + padding, lines.WHO, 0, 0, 0, 0) + body + bytes(padding)
        )
        self.serial = 0
        self.number = 0


class Journal:
    """Appends lines to segment files that are mapped into memory."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None
        self._spare: mmap.mmap | None = None
        self._spare_serial = 0
        self._numbers = 0
        self._left: list[int] = []
        self.end = 0
        self.owed = 0
        self.serial = 0
        self.lines = 0

    @property
    def wants_segment(self) -> bool:
        """Tell whether there is no segment in reserve."""
        return self._spare is None

    def provide(self, fd: int, size: int, serial: int) -> None:
        """Give an allocated file of `size` bytes to go on in; at most one is kept in reserve."""
        if self._spare is not None:
            raise ValueError("there is a segment in reserve")
        made = mmap.mmap(fd, size)
        made[: lines.HEADER] = lines.MAGIC + struct.pack("<Q", serial) + bytes(lines.HEADER - 16)
        self._spare, self._spare_serial = made, serial
        if self._map is None:
            self.turn_over()

    def turn_over(self) -> bool:
        """Go on in the segment that is in reserve, if there is one; tell whether there was."""
        if self._spare is None:
            return False
        if self._map is not None:
            self._map.close()
            self._left.append(self.serial)
        self._map, self._spare = self._spare, None
        self.end = lines.HEADER
        self.serial = self._spare_serial
        self._numbers = 0
        return True

    def take_left(self) -> list[int]:
        """Give the serials of segments that were left since the last call: they are complete."""
        taken, self._left = self._left, []
        return taken

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
        if self._map is None:
            return 0
        kept = _LONGEST_CLOSE + len(who.line)
        id_, label_ = _texts(id, label)
        length = _aligned(lines.COMMON + 8 * lines.OPENED + len(label_))
        if not self._make_room(length + len(who.line) + kept):
            return 0
        self._name(who)
        flags = lines.STREAM if stream else 0
        head = _COMMON.pack(
            lines.OPEN, flags, len(label_), who.number, 0, 1, created_at, _HELD, len(id_), 0, 0, 0,
            id_,
        )  # fmt: skip
        self._write(head + _OPENED.pack(*map(_fit, (nano, tokens, prompt))) + label_, length)
        self.owed += kept
        self.lines += 1
        return kept

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
        if self._map is None:
            return False
        id_, label_ = _texts(id, label)
        code_ = (code or "").encode()
        if len(code_) > lines.LONGEST_CODE:
            raise ValueError("an id, a label or an error code is too long")
        length = _aligned(lines.COMMON + 8 * lines.CLOSED + len(label_) + len(code_))
        self.owed -= kept
        if not self._make_room(length + len(who.line)):
            self.owed += kept
            return False
        self._name(who)
        flags = lines.STREAM if stream else 0
        head = _COMMON.pack(
            lines.CLOSE, flags, len(label_), who.number, status, min(attempts, 0xFFFF), created_at,
            lines.SOURCES.index(source), len(id_), len(code_), 0, 0, id_,
        )  # fmt: skip
        counts = map(_fit, (input, output, cached, cache_write, reasoning, nano, duration_ms))
        ttft_ms = -1 if ttft_ms < 0 else _fit(ttft_ms)
        numbers = _CLOSED.pack(*counts, ttft_ms, _fit(overhead_us), 0)
        self._write(head + numbers + label_ + code_, length)
        self.lines += 1
        return True

    def _make_room(self, need: int) -> bool:
        assert self._map is not None
        if self.end + need + self.owed <= len(self._map):
            return True
        if self._spare is None or lines.HEADER + need + self.owed > len(self._spare):
            return False
        return self.turn_over()

    def _name(self, who: Who) -> None:
        if who.serial == self.serial:
            return
        self._numbers += 1
        line = bytearray(who.line)
        _LENGTH.pack_into(line, 8, self._numbers)
        who.number, who.serial = self._numbers, self.serial
        self._write(bytes(line), len(line))

    def _write(self, line: bytes, length: int) -> None:
        """Write a line but for its first four bytes, then its length there."""
        assert self._map is not None
        at = self.end
        self._map[at + 4 : at + len(line)] = line[4:]
        self._map[at : at + 4] = _LENGTH.pack(length)
        self.end = at + length


def _fit(value: int) -> int:
    return min(max(value, 0), lines.MOST)


def _aligned(size: int) -> int:
    return (size + 7) & ~7


def _texts(id_: str, label: str | None) -> tuple[bytes, bytes]:
    encoded = id_.encode()
    label_ = b"" if label is None or label is id_ else label.encode()
    if len(encoded) > lines.LONGEST_ID or len(label_) > lines.LONGEST_LABEL:
        raise ValueError("an id or a label is too long")
    return encoded, label_


def read(
    data: Buffer,
    start: int,
    names: dict[int, tuple[str | None, ...]],
    most: int = 1 << 62,
) -> tuple[list[lines.Row], list[tuple[lines.Row, int, int]], int]:
    """Read the lines of a segment from `start`, its beginning or what an earlier call gave.

    Gives rows that are closed; (row, tokens, prompt) of what was opened, the row's source `held`;
    and where to go on. Stops after `most` closed rows. `names` is kept between calls for one
    segment. Raises Damaged at bytes that are no line.
    """
    closed: list[lines.Row] = []
    opened: list[tuple[lines.Row, int, int]] = []
    with memoryview(data) as view:
        at = start
        if at == 0:
            if len(view) < lines.HEADER or bytes(view[:8]) != lines.MAGIC:
                raise Damaged(0)
            at = lines.HEADER
        while at + 16 <= len(view) and len(closed) < most:
            (length,) = _LENGTH.unpack_from(view, at)
            if length == 0:
                break
            if length % 8 or length < 16 or at + length > len(view):
                raise Damaged(at)
            line = bytes(view[at : at + length])
            _read_line(line, at, names, closed, opened)
            at += length
    return closed, opened, at


def _read_line(
    line: bytes,
    at: int,
    names: dict[int, tuple[str | None, ...]],
    closed: list[lines.Row],
    opened: list[tuple[lines.Row, int, int]],
) -> None:
    kind = line[4]
    if kind == lines.WHO:
        (number,) = _LENGTH.unpack_from(line, 8)
        names[number] = _read_texts(line[16:], at)
    elif kind == lines.CLOSE and len(line) >= lines.COMMON + _CLOSED.size:
        numbers = _CLOSED.unpack_from(line, lines.COMMON)
        closed.append(_make_row(line, names, numbers, lines.COMMON + _CLOSED.size, at))
    elif kind == lines.OPEN and len(line) >= lines.COMMON + _OPENED.size:
        nano, tokens, prompt = _OPENED.unpack_from(line, lines.COMMON)
        numbers = (prompt, 0, 0, 0, 0, nano, 0, -1, 0, 0)
        row = _make_row(line, names, numbers, lines.COMMON + _OPENED.size, at)
        opened.append((row, tokens, prompt))
    else:
        raise Damaged(at)


def _read_texts(rest: bytes, offset: int) -> tuple[str | None, ...]:
    texts: list[str | None] = []
    at = 0
    for _ in lines.TEXTS:
        if len(rest) - at < _SIZE.size:
            raise Damaged(offset)
        (size,) = _SIZE.unpack_from(rest, at)
        at += _SIZE.size
        if size > len(rest) - at:
            raise Damaged(offset)
        texts.append(None if size < 0 else rest[at : at + size].decode("utf-8", "replace"))
        at += max(size, 0)
    return tuple(texts)


def _make_row(
    line: bytes,
    names: dict[int, tuple[str | None, ...]],
    numbers: tuple[int, ...],
    tail: int,
    offset: int,
) -> lines.Row:
    (
        _, flags, label_size, number, status, attempts, created_at, source, id_size, code_size,
        _, _, raw,
    ) = _COMMON.unpack_from(line)  # fmt: skip
    who = names.get(number)
    if (
        who is None
        or id_size > lines.LONGEST_ID
        or source >= len(lines.SOURCES)
        or tail + label_size + code_size > len(line)
    ):
        raise Damaged(offset)
    id_ = raw[:id_size].decode("utf-8", "replace")
    label = line[tail : tail + label_size].decode("utf-8", "replace") if label_size else id_
    code = line[tail + label_size : tail + label_size + code_size].decode("utf-8", "replace")
    *counts, nano, duration_ms, ttft_ms, overhead_us, _ = numbers
    return (
        id_, label, created_at, *who, status, attempts, flags & lines.STREAM, *counts, nano,
        lines.SOURCES[source], duration_ms, None if ttft_ms < 0 else ttft_ms, overhead_us,
        code or None,
    )  # fmt: skip
