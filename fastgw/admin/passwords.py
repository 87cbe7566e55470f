"""Passwords as argon2id hashes, worked out off the event loop, few at a time.

Parameters are above OWASP's floor (m = 19 MiB, t = 2, p = 1); a hash made with older parameters is
made again at the next login.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2

from fastgw.errors import TooManyAttempts

LEAST = 12
"""Characters of a password."""

_AT_ONCE = 2
"""40 MiB each: a flood of logins must not take the memory of the data plane."""
_MOST_WAITING = 64

_hasher = argon2.PasswordHasher(time_cost=2, memory_cost=40_960, parallelism=1)
_T = TypeVar("_T")


def _segment(size: int) -> str:
    return base64.b64encode(bytes(size)).rstrip(b"=").decode()


_NOBODY = f"$argon2id$v=19$m=40960,t=2,p=1${_segment(16)}${_segment(32)}"
"""A hash that no password has, with today's parameters."""


def hash_now(password: str) -> str:
    """Hash a password, taking tens of milliseconds: for start-up and the command line only."""
    return _hasher.hash(password)


def needs_rehash(known_hash: str) -> bool:
    """Tell whether the hash was made with other parameters than today's."""
    return _hasher.check_needs_rehash(known_hash)


class Passwords:
    """Checks and makes hashes without holding up the loop."""

    def __init__(self) -> None:
        # Threads of its own: one whose caller has left goes on, and still counts here.
        self._threads = ThreadPoolExecutor(_AT_ONCE, "passwords")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """Hash a password."""
        return await self._off_loop(lambda: hash_now(password))

    async def verify(self, known_hash: str | None, password: str) -> bool:
        """Tell whether the password is right. An unknown account takes as long as a known one."""
        return await self._off_loop(lambda: _check(known_hash or _NOBODY, password))

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _off_loop(self, work: Callable[[], _T]) -> _T:
        if self._waiting >= _MOST_WAITING:
            raise TooManyAttempts("too many logins at once; wait a little", retry_after=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


def _check(known_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(known_hash, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
