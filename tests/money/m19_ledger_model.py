"""M-19: random operations on budgets against a model of the ledger: an open book of entries.

Reserve, extend, settle, void, expire (nobody said anything), forgo, overrun, period change. After
each: reserved is never negative, spend never falls but when a period turns, the sum of the book's
entries is the balance, and what is settled once is settled for good. Hypothesis looks for the
shortest sequence that is wrong; the long form runs a million operations.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from fastgw._ext import limits
from tests.adversity.verdict import Verdict, main

SECOND = 1_000_000
DAY = 86_400 * SECOND
START = 1_790_000_000 * SECOND
LIMIT = 100_000


@dataclass(frozen=True)
class Form:
    """How many operations, and how many sequences hypothesis tries."""

    operations: int
    sequences: int
    seed: int = 19


LONG = Form(operations=1_000_000, sequences=2_000)
SHORT = Form(operations=20_000, sequences=40)


@dataclass
class Entry:
    """One line of the book: what is held, or what was settled; a day's or a total's."""

    day: int
    held: int
    tokens: int
    settled: int | None = None
    apart: bool = False
    """Let go of by the first of the two budgets."""


@dataclass
class Ledger:
    """Two budgets, a token window and slots behind one guard, and the book they must agree with."""

    now: int = START
    book: list[Entry] = field(default_factory=list)
    open: list[tuple[Entry, limits.Reservation]] = field(default_factory=list)
    day: limits.Budget = field(default_factory=lambda: limits.Budget(LIMIT, "day"))
    total: limits.Budget = field(default_factory=lambda: limits.Budget(200 * LIMIT, "total"))
    slots: limits.Slots = field(default_factory=lambda: limits.Slots(8))
    last: tuple[int, int] = (0, 0)
    days: list[int] = field(default_factory=lambda: [START // DAY])
    """The last two it was asked in."""
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Put the meters behind one guard."""
        self.guard = limits.Guard((self.day, self.total, self.slots))

    # -- operations -----------------------------------------------------------------------------

    def reserve(self, nano: int) -> None:
        """Hold an amount, if the book says that there is room."""
        room = self.room(self.now // DAY)
        held = self.guard.reserve(self.now, nano, nano)
        fits = nano <= min(room) and len(self.open) < 8
        self.check((held is not None) == fits, f"reserve {nano} of {room}: {held}")
        if held is not None:
            entry = Entry(self.now // DAY, nano, nano)
            self.book.append(entry)
            self.open.append((entry, held))

    def extend(self, place: int, nano: int) -> None:
        """Hold more for one that is under way."""
        entry, held = self.open[place % len(self.open)]
        today = self.now // DAY
        room = self.room(entry.day)
        known = entry.apart or entry.day >= self.earliest(today)
        fits = known and nano <= (room[1] if entry.apart else min(room))
        done = held.extend(self.now, 0, nano)
        self.check(done == fits, f"extend by {nano} of {room}: {done}")
        if done:
            entry.held += nano

    def earliest(self, today: int) -> int:
        """Give the day whose room the budget still knows: the last before today it was asked in."""
        return self.days[-1] if today != self.days[-1] else self.days[0]

    def close(self, place: int, used: int, how: str) -> None:
        """Settle, void, let go, or forget; and try once more, which must do nothing."""
        entry, held = self.open.pop(place % len(self.open))
        if how == "forgo" and not entry.apart:
            held.forgo(0, self.now)
            entry.apart = True
        if how == "void":
            held.release(self.now)
            entry.settled = 0
        elif how == "expire":
            entry.settled = entry.held
        else:
            held.settle(self.now, used, used)
            entry.settled = used
        if how != "expire":
            held.settle(self.now, 7, 7)
            held.release(self.now)
        del held

    def pass_time(self, elapsed: int) -> None:
        """Let time go by."""
        self.now += elapsed

    # -- what must hold -------------------------------------------------------------------------

    def room(self, day: int) -> tuple[int, int]:
        """Give what the book leaves of a day and in all."""
        of_day = sum(self.weight(e) for e in self.book if e.day == day and not e.apart)
        return LIMIT - of_day, 200 * LIMIT - sum(map(self.weight, self.book))

    def weight(self, entry: Entry) -> int:
        """Give what an entry takes of a budget."""
        return entry.held if entry.settled is None else entry.settled

    def check(self, fact: bool, what: str) -> None:
        """Note what is wrong."""
        if not fact:
            self.faults.append(f"at {self.now - START}: {what}")

    def audit(self) -> None:
        """Compare the budgets with the book."""
        today = self.now // DAY
        if self.day.starts_us(self.now) // DAY != today:
            self.faults.append("the day is not today")
        if today != self.days[-1]:
            self.days = [self.days[-1], today]
            self.last = (0, self.last[1])
        held = [e for e in self.book if e.settled is None]
        for budget, entries in (
            (self.day, [e for e in self.book if e.day == today and not e.apart]),
            (self.total, self.book),
        ):
            reserved = sum(e.held for e in entries if e.settled is None)
            spent = sum(e.settled for e in entries if e.settled is not None)
            self.check(budget.reserved == reserved >= 0, f"{budget.reserved} not {reserved} held")
            self.check(budget.spent == spent, f"{budget.spent} not {spent} spent")
        self.check(self.slots.taken == len(held), f"{self.slots.taken} slots, {len(held)} open")
        now = (self.day.spent, self.total.spent)
        self.check(now[0] >= self.last[0] and now[1] >= self.last[1], f"fell to {now}")
        self.last = now

    def forget(self) -> None:
        """Drop what is settled and past, so that a million operations stay quick; sums stay."""
        today = self.now // DAY
        old = [e for e in self.book if e.settled is not None and e.day < today - 1]
        if len(old) > 200:
            kept = [e for e in self.book if e.settled is None or e.day >= today - 1]
            kept.append(Entry(0, 0, 0, sum(e.settled or 0 for e in old), apart=True))
            self.book = kept


class Machine(RuleBasedStateMachine):
    """The same operations, chosen by hypothesis."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()

    @rule(nano=st.integers(0, 2 * LIMIT) | st.integers(0, 5_000))
    def reserve(self, nano: int) -> None:
        """Hold."""
        self.ledger.reserve(nano)

    @rule(place=st.integers(0, 7), nano=st.integers(0, LIMIT) | st.integers(0, 3_000))
    def extend(self, place: int, nano: int) -> None:
        """Hold more."""
        if self.ledger.open:
            self.ledger.extend(place, nano)

    @rule(
        place=st.integers(0, 7),
        used=st.integers(0, 2 * LIMIT) | st.integers(0, 5_000),
        how=st.sampled_from(["settle", "void", "expire", "forgo"]),
    )
    def close(self, place: int, used: int, how: str) -> None:
        """Close."""
        if self.ledger.open:
            self.ledger.close(place, used, how)

    @rule(elapsed=st.sampled_from([0, 1, SECOND, DAY // 3, DAY, 3 * DAY]))
    def pass_time(self, elapsed: int) -> None:
        """Wait."""
        self.ledger.pass_time(elapsed)

    @invariant()
    def agrees(self) -> None:
        """The book and the budgets agree."""
        self.ledger.audit()
        assert not self.ledger.faults, self.ledger.faults[0]


def operate(ledger: Ledger, random_: random.Random) -> None:
    """Do something."""
    what = random_.random()
    if what < 0.35:
        ledger.reserve(random_.choice((random_.randrange(5_000), random_.randrange(2 * LIMIT))))
    elif what < 0.5 and ledger.open:
        ledger.extend(random_.randrange(8), random_.randrange(random_.choice((3_000, LIMIT))))
    elif what < 0.9 and ledger.open:
        how = random_.choice(("settle", "settle", "settle", "void", "expire", "forgo"))
        ledger.close(random_.randrange(8), random_.randrange(5_000), how)
    else:
        ledger.pass_time(random_.choice((0, 1, SECOND, SECOND, 3_600 * SECOND, DAY // 2)))


async def run(form: Form) -> Verdict:
    """Operate, and let hypothesis try."""
    verdict = Verdict("M-19 the ledger against its model")
    random_ = random.Random(form.seed)
    done = periods = 0
    while done < form.operations:
        ledger = Ledger()
        first = ledger.now // DAY
        for _ in range(min(20_000, form.operations - done)):
            operate(ledger, random_)
            ledger.audit()
            ledger.forget()
            done += 1
            if ledger.faults:
                break
        periods += ledger.now // DAY - first
        verdict.problems += ledger.faults[:3]
        if ledger.faults:
            break
    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=form.sequences,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except AssertionError as exc:
        verdict.problems.append(f"hypothesis: {exc}")
    verdict.figure = (
        f"{done} operations over {periods} days and {form.sequences} sequences of hypothesis:"
        " book and budgets agree"
    )
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
