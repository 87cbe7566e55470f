"""Gateways that share one Redis, clients that note when each answer came, and what that proves.

A request was let through at some moment between its sending and its answer; so many of them inside
one window prove that more were let through than allowed, whatever the delays were.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis as client

from tests import servers
from tests.adversity.bed import Bed, Caller, Seen, mocking, provider, serving
from tests.processes import Mock

WORKERS = 4


class Durable(servers.Redis):
    """A Redis with an append-only file, as it is recommended."""

    def argv(self) -> list[str]:
        return [
            *super().argv(), "--appendonly", "yes", "--appendfsync", "everysec",
            "--appenddirname", "log",
        ]  # fmt: skip

    def forget_all(self) -> None:
        """Lose everything, while it is down."""
        for file in (self.folder / "log").iterdir():
            file.unlink()


@contextlib.asynccontextmanager
async def keeping() -> AsyncIterator[Durable]:
    """Run a Redis."""
    server = Durable()
    await asyncio.to_thread(server.launch)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.close)


@dataclass
class Together:
    """A mock provider, a Redis, and a gateway with several workers on both."""

    mock: Mock
    redis: Durable
    bed: Bed

    def hand(self) -> client.Redis:
        """Give a client of the Redis."""
        return client.Redis(port=self.redis.port)


@contextlib.asynccontextmanager
async def together(
    *rules: dict[str, Any],
    on_failure: str = "deny",
    workers: int = WORKERS,
    url: Callable[[Durable], str] = lambda redis: redis.url,
    **sections: Any,
) -> AsyncIterator[Together]:
    """Serve with these limits, kept in Redis."""
    async with mocking() as mock, keeping() as redis:
        config = {
            "server": {"workers": workers},
            "providers": [provider(mock.base_url)],
            "redis": {"url": url(redis), "on_failure": on_failure},
            "limits": {"defaults": list(rules)},
            **sections,
        }
        async with serving(config) as bed:
            yield Together(mock, redis, bed)


@dataclass
class Log:
    """What clients saw: (sent, answered, status) of each request, by `time.monotonic`."""

    entries: list[tuple[float, float, int]] = field(default_factory=list)
    lost: list[Seen] = field(default_factory=list)

    @property
    def admitted(self) -> list[tuple[float, float]]:
        """Sent and answered of those that were served, in the order they were sent."""
        return sorted((sent, answered) for sent, answered, status in self.entries if status == 200)

    def statuses(self) -> dict[int, int]:
        """How many answers of each status."""
        return dict(Counter(status for _, _, status in self.entries))

    def strange(self) -> dict[int, int]:
        """Answers neither served nor refused; one in twenty may say that Redis was late.

        On a machine that does too much else it is, and then nobody is to wait for it.
        """
        found = {k: n for k, n in self.statuses().items() if k not in {200, 429}}
        return (
            {} if found.keys() <= {503} and sum(found.values()) * 20 <= len(self.entries) else found
        )

    def slowest(self, *statuses: int) -> float:
        """Seconds the slowest answer with one of these statuses took."""
        return max((b - a for a, b, status in self.entries if status in statuses), default=0.0)


async def load(
    bed: Bed, request: bytes, log: Log, *, seconds: float, clients: int, pause: float
) -> None:
    """Ask from many clients for so long, each with a pause after every answer."""
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        caller = Caller(bed.address)
        await asyncio.sleep(pause * number / clients)
        while time.monotonic() < end:
            sent = time.monotonic()
            seen = await caller.ask(request)
            if seen.whole:
                log.entries.append((sent, time.monotonic(), seen.status))
            else:
                log.lost.append(seen)
            await asyncio.sleep(pause)
        caller.leave()

    await asyncio.gather(*(one(number) for number in range(clients)))


def most_in_window(admitted: Sequence[tuple[float, float]], window_s: float) -> int:
    """Give the most that were certainly let through within one window."""
    return max((count for _, count in certain(admitted, window_s)), default=0)


def certain(
    admitted: Sequence[tuple[float, float]], longest_s: float
) -> Iterator[tuple[float, int]]:
    """Give (length, how many were let through inside) of every interval up to this length."""
    for start, _ in admitted:
        inside = sorted(b for a, b in admitted if a >= start and b - start <= longest_s)
        for count, end in enumerate(inside, 1):
            yield end - start, count


def worst_excess(admitted: Sequence[tuple[float, float]], rate: float, burst: int) -> float:
    """Give by how much `burst + rate * length` was exceeded at worst, over all intervals."""
    longest = admitted[-1][1] - admitted[0][0] if admitted else 0.0
    return max(
        (count - burst - rate * length for length, count in certain(admitted, longest)),
        default=0.0,
    )


def served_before(admitted: Sequence[tuple[float, float]], when: float) -> int:
    """Give how many were sent before that time."""
    return bisect_left(admitted, (when, 0.0))


METERS = b"{fgw}:m:*"
HEADER = struct.Struct("<12d")


def totals(hand: client.Redis, kind: int) -> list[float]:
    """Give what the meters of a kind (1 window, 3 slots) count, as Redis has it."""
    found = []
    for key in hand.scan_iter(METERS):
        fields = HEADER.unpack(hand.getrange(key, 0, HEADER.size - 1))
        if fields[0] == kind:
            found.append(fields[7] if kind == 1 else fields[5])
    return found
