"""Ids without a system call each. Twin of _ids.pyx, which says what they promise."""

from __future__ import annotations

import os
from typing import final

_SIZE = 26
_COUNTED = 8
_LONGEST_PREFIX = 6
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_forks = 0


def _note_fork() -> None:
    global _forks  # noqa: PLW0603 - the one hook that a fork has
    _forks += 1


os.register_at_fork(after_in_child=_note_fork)


@final
class Source:
    """Makes ids of 26 url-safe characters: prefix, random text, counter."""

    def __init__(self, prefix: str) -> None:
        if len(prefix) > _LONGEST_PREFIX or not all(
            char.isascii() and (char.isalnum() or char in "-_") for char in prefix
        ):
            raise ValueError(f"not a prefix of at most {_LONGEST_PREFIX} url-safe characters")
        self._prefix = prefix
        self._seed()

    def _seed(self) -> None:
        """Draw new random text and start the counter again."""
        self._forks = _forks
        self._count = 0
        wanted = _SIZE - _COUNTED - len(self._prefix)
        drawn = ""
        while len(drawn) < wanted:
            # 248 is the largest multiple of 62 in a byte: every digit equally likely.
            drawn += "".join(_DIGITS[byte % 62] for byte in os.urandom(32) if byte < 248)
        self._head = self._prefix + drawn[:wanted]

    def next(self) -> str:
        """Give an id that no call gave before, in this or another process."""
        if self._forks != _forks or self._count == len(_DIGITS) ** _COUNTED:
            self._seed()
        count = self._count
        self._count += 1
        tail = ""
        for _ in range(_COUNTED):
            count, digit = divmod(count, len(_DIGITS))
            tail = _DIGITS[digit] + tail
        return self._head + tail
