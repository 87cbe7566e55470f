"""Limits and budgets that many workers share: what is asked of Redis in one batch, and its answer.

No I/O here. The format, and all arithmetic, is that of `fastgw/storage/redis/lua/tick.lua`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import hiredis
import msgspec

from fastgw._ext import limits
from fastgw.flow.rules import MONEY, Rule
from fastgw.storage.redis.scripts import TICK, Script

RESERVE, CLOSE, EXTEND, SPENT, LOOK, RENEW, RETURN, INHERIT = range(1, 9)

PREFIX = "{fgw}:"
"""Begins all our keys: one hash tag, so that one node of a cluster decides."""
STATE, LEASES, HELD = (PREFIX + name for name in ("state", "leases", "held"))

EXACT = 9 * 10**15
"""Numbers up to here are exact in Lua; amounts of money go as text."""

_KINDS = {"window": 1, "bucket": 2, "slots": 3, "day": 4, "week": 5, "month": 6, "total": 7}
_METRICS = {"requests": 0, "tokens": 1, "concurrent": 2, MONEY: 3}
_MONEY = 3

Op = tuple[Any, ...]
"""What is asked: its kind, the guard it is about or None, and what the script wants to know."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


def make_meter(rule: Rule, value: str) -> limits.Shared:
    """Make the meter of a rule for a value it matched."""
    window_us = int(rule.window_s * 1_000_000)
    burst = 0
    if rule.metric == MONEY:
        kind = rule.period
        named = f"{rule.period}:{rule.reset_at}"
        window_us = 0
    elif rule.metric == "concurrent":
        kind = named = "slots"
    else:
        kind = "bucket" if rule.algorithm == "token_bucket" else "window"
        named = f"{kind}:{rule.metric}:{window_us}:{rule.reset_at}"
        if kind == "bucket":
            burst = min(rule.limit if rule.burst is None else rule.burst, EXACT)
    number = min(rule.limit, 2**62 if rule.metric == MONEY else EXACT)
    # A value may be long and may be anything: keys are neither.
    digest = hashlib.blake2b(f"{rule.id}\0{named}\0{value}".encode(), digest_size=12).hexdigest()
    meter = limits.Shared(
        f"{PREFIX}m:{digest}", _KINDS[kind], _METRICS[rule.metric], number, window_us, burst,
        rule.hard, rule.period,
    )  # fmt: skip
    meter.rule = rule
    meter.value = value
    return meter


def adjust(meter: limits.Shared, rule: Rule) -> None:
    """Go by another number from now on."""
    other = make_meter(rule, meter.value)
    meter.rule, meter.limit, meter.burst, meter.hard = rule, other.limit, other.burst, other.hard


def share(meter: limits.Shared, tokens: int, nano: int) -> int:
    """Give which of the amounts a meter counts."""
    return (1, tokens, 1, nano)[meter.metric]


def meters_of(guard: limits.Guard) -> tuple[limits.Shared, ...]:
    """Give the meters of a guard that somebody else keeps."""
    return guard.meters  # type: ignore[return-value]


class Batch:
    """What one call of the script asks. Meters and guards are told once, however many need them."""

    __slots__ = ("_guards", "_keys", "_lists", "_places", "_specs", "meters", "ops", "wishes")

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.meters: list[limits.Shared] = []
        self.wishes: list[tuple[int, int]] = []
        self._places: dict[limits.Shared, int] = {}
        self._keys: list[str] = []
        self._specs: list[tuple[object, ...]] = []
        self._guards: dict[limits.Guard, int] = {}
        self._lists: list[list[int]] = []

    def place(self, meter: limits.Shared) -> int:
        """Give the number of a meter in this batch."""
        place = self._places.get(meter)
        if place is None:
            self.meters.append(meter)
            place = self._places[meter] = len(self.meters)
            self._keys.append(meter.key)
            if meter.metric == _MONEY:
                self._specs.append((meter.kind, _MONEY, str(meter.limit), meter.hard))
            else:
                self._specs.append(
                    (meter.kind, meter.metric, meter.limit, meter.window_us, meter.burst)
                )
        return place

    def guard(self, guard: limits.Guard) -> int:
        """Give the number of a guard in this batch."""
        number = self._guards.get(guard)
        if number is None:
            self._lists.append([self.place(meter) for meter in meters_of(guard)])
            number = self._guards[guard] = len(self._lists)
        return number

    def wish(self, meter: limits.Shared) -> None:
        """Ask for escrow."""
        self.wishes.append((self.place(meter), meter.wish))

    def pack(
        self, instance: str, place: str, seq: int, script: Script = TICK, *, sweep: bool = True
    ) -> bytes:
        """Give the command; `sweep`: let leases end."""
        guard = self.guard
        ops = [
            (op[0], op[1], guard(op[2]), *op[3:]) if op[0] <= EXTEND
            else (op[0], guard(op[1]), *op[2:]) if op[0] == LOOK
            else (op[0], self.place(op[1]), *op[2:]) if len(op) > 1
            else op
            for op in self.ops
        ]  # fmt: skip
        asked = _encoder.encode(
            (PREFIX, instance, place, seq, self._specs, self._lists, ops, self.wishes, sweep)
        )
        keys = self._keys
        words: Any = (
            "EVALSHA", script.sha, len(keys) + 5, STATE, LEASES, HELD,
            f"{PREFIX}open:{instance}", f"{PREFIX}escrow:{place}", *keys, asked,
        )  # fmt: skip
        packed: bytes = hiredis.pack_command(words)
        return packed

    def read(self, reply: bytes, now: int) -> tuple[int, Sequence[Any]]:
        """Note what the answer says of the meters; give Redis' time and the results of the ops."""
        wall, results, mirrors, escrows = _decoder.decode(reply)
        meters = self.meters
        for at in range(0, len(mirrors), 3):
            meters[mirrors[at] - 1].hear(now, int(mirrors[at + 1]), int(mirrors[at + 2]))
        for at in range(0, len(escrows), 2):
            meters[escrows[at] - 1].escrow = int(escrows[at + 1])
        return wall, results
