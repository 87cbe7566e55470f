"""What is on its way to Redis: reservations somebody waits for, batches, what became of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from fastgw._ext import limits
from fastgw.errors import GatewayError
from fastgw.flow.exchange import LoadSpend
from fastgw.flow.shared import CLOSE, Batch, Op

Outcome = limits.Reservation | LoadSpend | GatewayError
"""What becomes of a wish to reserve: budgets may have to be read first."""


class Seen(msgspec.Struct, frozen=True):
    """What is known of a meter; times in microseconds, -1 for never, money in nano-dollars."""

    left: int
    reset_us: int
    wait_us: int
    """Until the amounts asked about fit; 0: they do."""
    spent: int
    open: int
    """What is reserved and not settled: of a budget, or slots."""
    escrow: int
    """What this worker holds of it."""


class Ask:
    """A reservation somebody waits for."""

    __slots__ = ("at", "done", "guard", "id", "nano", "tokens")

    def __init__(
        self, guard: limits.Guard, id: str, tokens: int, nano: int,  # noqa: A002
        done: Callable[[Any], None],
    ) -> None:  # fmt: skip
        self.guard = guard
        self.id = id
        self.tokens = tokens
        self.nano = nano
        self.done: Callable[[Any], None] | None = done
        """Told once; None: it has been."""
        self.at = 0


class Call(Batch):
    """A batch on its way."""

    __slots__ = ("asks", "renews", "reserved", "sent_at", "seq")

    def __init__(self) -> None:
        super().__init__()
        self.asks: list[tuple[int, Ask]] = []
        """With the place of each one's op."""
        self.reserved: list[Op] = []
        """What was acknowledged, as it has to be said again if it gets lost."""
        self.renews = False
        self.seq = 0
        self.sent_at = 0.0


def undo(ask: Ask) -> Op:
    """Give back what a reservation holds that nobody waits for any more, if it was made."""
    return (
        CLOSE, ask.id, ask.guard, 0, ask.tokens, str(ask.nano), 0, 0, "0", [],
    )  # fmt: skip
