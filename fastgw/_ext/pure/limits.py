"""Limits and budgets in memory: meters, all-or-nothing guards, reservations. Twin: _limits.pyx."""

from __future__ import annotations

import time
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from typing import Any

from fastgw._ext import weights
from fastgw._ext.pure.estimate import Family

_METRICS = {"requests": 0, "tokens": 1}
_NAMES = ("requests", "tokens")
_CONCURRENT = 2
_MONEY = 3
_CELLS = 128
_SLICE = 2048
"""Output tokens a stream reserves while nobody knows how long answers get."""
_SHORTEST_SLICE = 256
_LONGEST_SLICE = 16384
_LEAST_ANSWERS = 256
"""Seen before a slice is what they say."""
_MOST_ANSWERS = 4096
"""Past that all counts are halved, so that old ones fade."""
_UNKNOWN_CEILING = 16384
"""Tokens of a whole answer of a model whose longest answer nobody knows."""
_MARGIN = 64
"""Tokens before the end of a slice at which the next is reserved."""
_LAST = 16
"""And at which a stream ends that gets none."""
_STEPS = 8
"""Tiers of a price, the plain one among them."""
_CLASSES = weights.length_classes()
_FOREVER = 0x3FFFFFFFFFFFFFFF
_DAY = timedelta(days=1)
_SOON_US = 1_000_000
"""When somebody else's slot or reservation may have come back."""
_MOST_FORGONE = 64
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

_EPOCH = (time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 1000


def now_us() -> int:
    """Give the time as epoch microseconds that never run back.

    The wall clock as it was at import, carried on by the time since boot: setting the clock moves
    no window, and a machine that slept wakes up in the right period.
    """
    return _EPOCH + time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Meter:
    """What one limit or budget counts for one match."""

    metric: int = 0
    """0 requests, 1 tokens, 2 concurrent, 3 money."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.rule: Any = None
        self.value = ""
        self.latest = 0
        """When it was last asked; time never runs back."""

    @property
    def most(self) -> int:
        """The most that can be had at once."""
        return self.limit

    def fits(self, now: int, amount: int, /) -> bool:
        """Tell whether `amount` may be taken now."""
        raise NotImplementedError

    def take(self, now: int, amount: int, /) -> None:
        """Take what fits."""
        raise NotImplementedError

    def correct(self, at: int, now: int, taken: int, used: int, /) -> None:
        """Note that what was taken at `at` turned out to be `used`."""
        raise NotImplementedError

    def fits_later(self, _at: int, now: int, amount: int, /) -> bool:
        """Tell whether a reservation that was made at `at` may take so much more now."""
        return self.fits(now, amount)

    def take_later(self, _at: int, now: int, amount: int, /) -> None:
        """Take what fits later."""
        self.take(now, amount)

    def remaining(self, now: int, /) -> int:
        """Give how much is left."""
        raise NotImplementedError

    def reset_us(self, now: int, /) -> int:
        """Give how long until all of it is there again; -1: never."""
        raise NotImplementedError

    def retry_us(self, now: int, amount: int, /) -> int:
        """Give how long until `amount` fits; 0: it does, -1: never."""
        raise NotImplementedError

    def idle(self, now: int, /) -> bool:
        """Tell whether it holds nothing that a new meter would not know."""
        raise NotImplementedError


class Window(Meter):
    """A sliding window: a ring of cells, the oldest of which leaves as a whole.

    A cell's width is the window's 127th part, rounded up. So at most 128 cells reach into a window,
    and one leaves no later than 1/127 of a window after its first microsecond did.
    """

    def __init__(self, limit: int, window_us: int, metric: str = "requests") -> None:
        if window_us < 1:
            raise ValueError("a window lasts at least a microsecond")
        super().__init__(limit)
        self.metric = _METRICS[metric]
        self.window_us = window_us
        self._cell_us = -(-window_us // (_CELLS - 1))
        self._cells = [0] * _CELLS
        self._total = 0
        self._tail = 0

    def _leaves(self, cell: int) -> int:
        return (cell + 1) * self._cell_us - 1 + self.window_us

    def _advance(self, now: int) -> None:
        while self._leaves(self._tail) <= now:
            if self._total == 0:
                self._tail = (now - self.window_us + 1) // self._cell_us
                return
            self._total -= self._cells[self._tail % _CELLS]
            self._cells[self._tail % _CELLS] = 0
            self._tail += 1

    def fits(self, now: int, amount: int, /) -> bool:
        """Tell whether `amount` may be taken now."""
        self.latest = now
        self._advance(now)
        return self._total + amount <= self.limit

    def take(self, now: int, amount: int, /) -> None:
        """Take what fits."""
        self._cells[now // self._cell_us % _CELLS] += amount
        self._total += amount

    def correct(self, at: int, now: int, taken: int, used: int, /) -> None:
        """Note that what was taken at `at` turned out to be `used`."""
        cell = at // self._cell_us
        if used > taken:
            # What was not foreseen counts from when it became known: its own cell may be gone.
            self.latest = now = max(now, self.latest)
            self._advance(now)
            self.take(now, used - taken)
        elif cell >= self._tail:
            self._cells[cell % _CELLS] -= taken - used
            self._total -= taken - used

    def remaining(self, now: int, /) -> int:
        """Give how much is left."""
        self._advance(max(now, self.latest))
        return max(self.limit - self._total, 0)

    def reset_us(self, now: int, /) -> int:
        """Give how long until all of it is there again."""
        now = max(now, self.latest)
        self._advance(now)
        if self._total == 0:
            return 0
        cell = now // self._cell_us
        while self._cells[cell % _CELLS] == 0:
            cell -= 1
        return self._leaves(cell) - now

    def retry_us(self, now: int, amount: int, /) -> int:
        """Give how long until `amount` fits; 0: it does, -1: never."""
        now = max(now, self.latest)
        self._advance(now)
        over = self._total + amount - self.limit
        if over <= 0:
            return 0
        if amount > self.limit:
            return -1
        cell = self._tail
        while (over := over - self._cells[cell % _CELLS]) > 0:
            cell += 1
        return self._leaves(cell) - now

    def idle(self, now: int, /) -> bool:
        """Tell whether it holds nothing that a new meter would not know."""
        self._advance(max(now, self.latest))
        return self._total == 0


class Bucket(Meter):
    """A token bucket: what was taken drains at a steady rate (GCRA).

    The debt is in units times microseconds, so that no fraction is ever rounded.
    """

    def __init__(
        self, rate_per_window: int, window_us: int, burst: int, metric: str = "requests"
    ) -> None:
        if window_us < 1:
            raise ValueError("a window lasts at least a microsecond")
        super().__init__(rate_per_window)
        self.metric = _METRICS[metric]
        self.window_us = window_us
        self.burst = burst
        self._debt = 0

    @property
    def most(self) -> int:
        """The most that can be had at once."""
        return self.burst

    def _advance(self, now: int) -> None:
        if now > self.latest:
            self._debt = max(self._debt - self.limit * (now - self.latest), 0)
            self.latest = now

    def _excess(self, amount: int) -> int:
        return self._debt + (amount - self.burst) * self.window_us

    def _wait(self, over: int) -> int:
        if over <= 0:
            return 0
        if self.limit <= 0:
            return -1
        return min(-(-over // self.limit), _FOREVER)

    def fits(self, now: int, amount: int, /) -> bool:
        """Tell whether `amount` may be taken now."""
        self._advance(now)
        return self._excess(amount) <= 0

    def take(self, _now: int, amount: int, /) -> None:
        """Take what fits."""
        self._debt += amount * self.window_us

    def correct(self, at: int, now: int, taken: int, used: int, /) -> None:
        """Note that what was taken at `at` turned out to be `used`.

        What has drained since does not come back: the bucket would be emptier than if it had never
        been taken.
        """
        self._advance(now)
        if used > taken:
            self._debt += (used - taken) * self.window_us
        else:
            left = (taken - used) * self.window_us - self.limit * (self.latest - at)
            self._debt = max(self._debt - max(left, 0), 0)

    def remaining(self, now: int, /) -> int:
        """Give how much is left."""
        self._advance(now)
        return max(-self._excess(0) // self.window_us, 0)

    def reset_us(self, now: int, /) -> int:
        """Give how long until all of it is there again; -1: never."""
        self._advance(now)
        return self._wait(self._debt)

    def retry_us(self, now: int, amount: int, /) -> int:
        """Give how long until `amount` fits; 0: it does, -1: never."""
        self._advance(now)
        if self._excess(amount) <= 0:
            return 0
        if amount > self.burst:
            return -1
        return self._wait(self._excess(amount))

    def idle(self, now: int, /) -> bool:
        """Tell whether it holds nothing that a new meter would not know."""
        self._advance(now)
        return self._debt == 0


class Slots(Meter):
    """Exchanges at the same time."""

    metric = _CONCURRENT

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.taken = 0

    def fits(self, now: int, amount: int, /) -> bool:
        """Tell whether `amount` may be taken now."""
        self.latest = now
        return self.taken + amount <= self.limit

    def take(self, _now: int, amount: int, /) -> None:
        """Take what fits."""
        self.taken += amount

    def correct(self, _at: int, _now: int, taken: int, used: int, /) -> None:
        """Note that what was taken turned out to be `used`."""
        self.taken -= taken - used

    def remaining(self, _now: int, /) -> int:
        """Give how many are free."""
        return max(self.limit - self.taken, 0)

    def reset_us(self, _now: int, /) -> int:
        """Give when it makes sense to look again: nobody knows when a slot comes back."""
        return _SOON_US if self.taken else 0

    def retry_us(self, _now: int, amount: int, /) -> int:
        """Give when it makes sense to ask again; 0: it fits, -1: never."""
        if self.taken + amount <= self.limit:
            return 0
        return -1 if amount > self.limit else _SOON_US

    def idle(self, _now: int, /) -> bool:
        """Tell whether it holds nothing that a new meter would not know."""
        return self.taken == 0


class Budget(Meter):
    """Spend in a calendar period, in nano-dollars."""

    metric = _MONEY

    def __init__(self, limit_nano: int, period: str, hard: bool = True) -> None:
        super().__init__(limit_nano)
        if period not in {"day", "week", "month", "total"}:
            raise KeyError(period)
        self.period = period
        self.hard = hard
        self.loaded = False
        """Whether what was spent before is known."""
        self.spent = 0
        """What was settled in the period; set it to what the store knows, before first use."""
        self.reserved = 0
        self.spent_before = 0
        """What was settled in the period before, late settlements included."""
        self._reserved_before = 0
        self._start_before = _FOREVER
        self._start = 0
        self._end = _FOREVER if period == "total" else 0

    def starts_us(self, now: int, /) -> int:
        """Give when the period began, in epoch microseconds."""
        self._roll(max(now, self.latest))
        return self._start

    def _roll(self, now: int) -> None:
        if now < self._end:
            return
        if self._end:  # what is still reserved belongs to the period that is over
            self._start_before = self._start
            self.spent_before, self._reserved_before = self.spent, self.reserved
            self.spent = self.reserved = 0
        day = _BEGINNING + timedelta(days=now // 86_400_000_000)
        if self.period == "week":
            day -= timedelta(days=day.weekday())
            end = day + 7 * _DAY
        elif self.period == "month":
            day = day.replace(day=1)
            end = (day + 31 * _DAY).replace(day=1)
        else:
            end = day + _DAY
        self._start = (day - _BEGINNING) // timedelta(microseconds=1)
        self._end = (end - _BEGINNING) // timedelta(microseconds=1)

    def fits(self, now: int, amount: int, /) -> bool:
        """Tell whether `amount` may be taken now."""
        self.latest = now
        self._roll(now)
        return not self.hard or amount <= self.limit - self.spent - self.reserved

    def take(self, _now: int, amount: int, /) -> None:
        """Take what fits."""
        self.reserved += amount

    def correct(self, at: int, _now: int, taken: int, used: int, /) -> None:
        """Note that what was taken at `at` turned out to be `used`."""
        if at >= self._start:
            self.reserved -= taken
            self.spent = min(self.spent + used, _FOREVER)
        elif at >= self._start_before:
            self._reserved_before -= taken
            self.spent_before = min(self.spent_before + used, _FOREVER)

    def fits_later(self, at: int, now: int, amount: int, /) -> bool:
        """Tell whether a reservation that was made at `at` may take so much more now.

        An exchange counts in the period it began in, all of it.
        """
        self.latest = now
        self._roll(now)
        if not self.hard:
            return True
        if at >= self._start:
            return amount <= self.limit - self.spent - self.reserved
        if at >= self._start_before:
            return amount <= self.limit - self.spent_before - self._reserved_before
        return False

    def take_later(self, at: int, _now: int, amount: int, /) -> None:
        """Take what fits later."""
        if at >= self._start:
            self.reserved += amount
        elif at >= self._start_before:
            self._reserved_before += amount

    def remaining(self, now: int, /) -> int:
        """Give what may still be reserved."""
        self._roll(max(now, self.latest))
        return max(self.limit - self.spent - self.reserved, 0)

    def reset_us(self, now: int, /) -> int:
        """Give how long until the next period; -1: there is none."""
        if self.period == "total":
            return -1
        now = max(now, self.latest)
        self._roll(now)
        return self._end - now

    def retry_us(self, now: int, amount: int, /) -> int:
        """Give how long until `amount` may fit; 0: it does, -1: never."""
        now = max(now, self.latest)
        if self.fits(now, amount):
            return 0
        if amount <= self.limit - self.spent:  # only open reservations stand in the way
            return _SOON_US
        return -1 if amount > self.limit else self.reset_us(now)

    def idle(self, _now: int, /) -> bool:
        """Tell whether it holds nothing that the store does not know."""
        return self.reserved == 0


_SHARED_BUCKET = 2
"""The kind of a token bucket, as tick.lua numbers them."""


class Shared(Meter):
    """A meter that is kept elsewhere, for many workers: what was last heard of it."""

    def __init__(
        self,
        key: Any,
        kind: int,
        metric: int,
        limit: int,
        window_us: int = 0,
        burst: int = 0,
        hard: bool = True,
        period: str = "",
    ) -> None:
        super().__init__(limit)
        self.key = key
        self.kind = kind
        self.metric = metric
        self.window_us = window_us
        self.burst = burst
        self.hard = hard
        self.period = period
        self.loaded = False
        self.spent = 0
        self.left = self.most
        self.reset_at = 0
        """-1: never."""
        self.escrow = 0
        """What this worker may spend without asking."""
        self.wish = 0
        """What it would like to have of that."""

    @property
    def most(self) -> int:
        """The most that can be had at once."""
        return self.burst if self.kind == _SHARED_BUCKET else self.limit

    def hear(self, now: int, left: int, reset: int, /) -> None:
        """Note what is left, and how long until all of it is there again; -1: never."""
        self.latest = now
        self.left = left
        self.reset_at = -1 if reset < 0 else now + reset

    def remaining(self, _now: int, /) -> int:
        """Give how much was left."""
        return self.left

    def reset_us(self, now: int, /) -> int:
        """Give how long until all of it is there again; -1: never."""
        return -1 if self.reset_at < 0 else max(self.reset_at - now, 0)

    def retry_us(self, now: int, amount: int, /) -> int:
        """Give how long until `amount` fits, by what was last heard; 0: it does, -1: never."""
        return 0 if amount <= self.left or not self.hard else self.reset_us(now)

    def idle(self, _now: int, /) -> bool:
        """Tell whether it holds nothing: what is kept elsewhere stays there."""
        return self.escrow == 0


def _share(metric: int, requests: int, tokens: int, slots: int, nano: int) -> int:
    return (requests, tokens, slots, nano)[metric]


class Guard:
    """Every meter that applies to one kind of request, reserved from in one step."""

    def __init__(self, meters: tuple[Meter, ...], /) -> None:
        self.meters = tuple(dict.fromkeys(meters))
        """One that stands twice would be asked once and taken from twice."""
        self.keeper: Any = None
        """Who keeps its meters; None: they are kept here."""
        self.wants_tokens = any(meter.metric == _METRICS["tokens"] for meter in self.meters)
        self.wants_money = any(meter.metric == _MONEY for meter in self.meters)

    def _latest(self, now: int) -> int:
        return max([now, *(meter.latest for meter in self.meters)])

    def reserve(self, now: int, tokens: int, nano: int, /) -> Reservation | None:
        """Take from every meter, or from none: then the answer is None and nothing has changed."""
        tokens, nano = max(tokens, 0), max(nano, 0)
        now = self._latest(now)
        for meter in self.meters:
            if not meter.fits(now, _share(meter.metric, 1, tokens, 1, nano)):
                return None
        for meter in self.meters:
            meter.take(now, _share(meter.metric, 1, tokens, 1, nano))
        return Reservation(self, now, tokens, nano)

    def admit(self, name: str, at: int, tokens: int, nano: int, /) -> Reservation:
        """Give the reservation that the keeper of the meters has made under this id."""
        return Reservation(self, at, max(tokens, 0), max(nano, 0), name)

    def refusal(self, now: int, tokens: int, nano: int, /) -> tuple[Meter | None, int]:
        """Give the meter that stands in the way the longest, and for how long; -1: for ever.

        (None, 0) when nothing does.
        """
        now = self._latest(now)
        worst, longest = None, 0
        for meter in self.meters:
            amount = _share(meter.metric, 1, max(tokens, 0), 1, max(nano, 0))
            wait = meter.retry_us(now, amount)
            if wait == 0 or longest == -1:
                continue
            if wait == -1 or wait > longest:
                worst, longest = meter, wait
        return worst, longest

    def fields(self, now: int, /) -> bytes:
        """Give the x-ratelimit header lines, b"" when there is nothing to tell.

        Of several meters of a metric `limit` is the least that one can give, `remaining` the least
        that is left, `reset` when `limit` fits everywhere. So who is alone, sends no more than
        `remaining` and waits for `reset` when that is too little, is never refused.
        """
        now = self._latest(now)
        lines = []
        for metric, name in enumerate(_NAMES):
            meters = [meter for meter in self.meters if meter.metric == metric]
            if not meters:
                continue
            most = min(meter.most for meter in meters)
            left = min(meter.remaining(now) for meter in meters)
            lines.append(f"x-ratelimit-limit-{name}: {max(most, 0)}\r\n")
            lines.append(f"x-ratelimit-remaining-{name}: {left}\r\n")
            waits = [meter.retry_us(now, most) if most > 0 else -1 for meter in meters]
            if -1 not in waits:
                lines.append(f"x-ratelimit-reset-{name}: {_duration(max(waits))}\r\n")
        return "".join(lines).encode()


class Reservation:
    """What one exchange holds until it is settled or released, once."""

    __slots__ = ("_forgone", "_later", "at_us", "guard", "id", "nano", "open", "tokens")

    def __init__(
        self, guard: Guard, at_us: int, tokens: int, nano: int, name: str | None = None, /
    ) -> None:
        self.guard = guard
        self.id = name
        """Where it is kept by others, else None."""
        self.at_us = at_us
        self.tokens = tokens
        self.nano = nano
        self.open = True
        self._forgone: set[int] = set()
        self._later: list[tuple[int, int]] = []
        """(when, tokens) of each extension."""

    def __del__(self) -> None:
        if self.open:  # nobody said what was used: what was reserved counts as used
            self._close(self.at_us, 1, self.tokens, self.nano)

    def extend(self, now: int, tokens: int, nano: int, /) -> bool:
        """Take so much more from every meter of tokens and money, or from none: then it is False.

        Money counts in the period the reservation was made in, whenever it is extended.
        """
        if not self.open:
            return False
        tokens, nano = max(tokens, 0), max(nano, 0)
        now = self.guard._latest(now)  # noqa: SLF001 - two halves of one thing
        asked = [
            (meter, tokens if meter.metric == _METRICS["tokens"] else nano)
            for index, meter in enumerate(self.guard.meters)
            if index not in self._forgone and meter.metric in (_METRICS["tokens"], _MONEY)
        ]
        if not all(meter.fits_later(self.at_us, now, amount) for meter, amount in asked):
            return False
        for meter, amount in asked:
            meter.take_later(self.at_us, now, amount)
        self._later.append((now, tokens))
        self.tokens += tokens
        self.nano += nano
        return True

    def settle(self, now: int, tokens: int, nano: int, /) -> None:
        """Say what was used. Once: what comes later does nothing."""
        if self.open:
            self._close(now, 1, max(tokens, 0), max(nano, 0))

    def release(self, now: int, /) -> None:
        """Give everything back: nothing was used."""
        if self.open:
            self._close(now, 0, 0, 0)

    def forgo(self, index: int, now: int, /) -> None:
        """Give back what was taken from one meter of the guard, which turned out not to apply."""
        meters = self.guard.meters
        if (
            self.open
            and 0 <= index < min(len(meters), _MOST_FORGONE)
            and index not in self._forgone
        ):
            self._forgone.add(index)
            if self.guard.keeper is None:  # else it is told when the reservation is closed
                self._correct(meters[index], now, 0, 0, 0)

    def _close(self, now: int, requests: int, tokens: int, nano: int) -> None:
        self.open = False
        if self.guard.keeper is not None:
            forgone = sum(1 << index for index in self._forgone)
            self.guard.keeper.close(
                self.guard, self.id, self.at_us, self.tokens, self.nano, requests, tokens, nano,
                forgone,
            )  # fmt: skip
            return
        for index, meter in enumerate(self.guard.meters):
            if index not in self._forgone:
                self._correct(meter, now, requests, tokens, nano)

    def _correct(self, meter: Meter, now: int, requests: int, tokens: int, nano: int) -> None:
        taken = _share(meter.metric, 1, self.tokens, 1, self.nano)
        used = _share(meter.metric, requests, tokens, 0, nano)
        if meter.metric == _METRICS["tokens"]:  # what was not needed is what was taken last
            for at, more in reversed(self._later):
                taken -= more
                part = min(max(used - taken, 0), more)
                used -= part
                meter.correct(at, now, more, part)
        meter.correct(self.at_us, now, taken, used)


def _duration(us: int) -> str:
    """Write a time as OpenAI does: 12ms, 1.5s, 6m0s; rounded up."""
    ms = -(-us // 1000)
    if 0 < ms < 1000:
        return f"{ms}ms"
    seconds, part = divmod(ms, 1000)
    hours = f"{seconds // 3600}h" if seconds >= 3600 else ""
    minutes = f"{seconds // 60 % 60}m" if seconds >= 60 else ""
    fraction = f".{part:03d}".rstrip("0") if part else ""
    return f"{hours}{minutes}{seconds % 60}{fraction}s"


class Lengths:
    """How long a model's answers are, learnt from what providers report."""

    __slots__ = ("_counts", "_total", "slice")

    def __init__(self) -> None:
        self._counts = [0] * len(_CLASSES)
        self._total = 0
        self.slice = _SLICE
        """Tokens that 99 of 100 answers do not exceed."""

    def observe(self, tokens: int, /) -> None:
        """Learn from one answer."""
        if tokens < 1:
            return
        last = len(_CLASSES) - 1
        self._counts[min(bisect_left(_CLASSES, tokens), last)] += 1
        self._total += 1
        if self._total > _MOST_ANSWERS:
            self._counts = [count // 2 for count in self._counts]
            self._total = sum(self._counts)
        if self._total < _LEAST_ANSWERS:
            return
        above, index = 0, last
        while above + self._counts[index] <= self._total // 100:
            above += self._counts[index]
            index -= 1
        self.slice = min(max(_CLASSES[index], _SHORTEST_SLICE), _LONGEST_SLICE)


def _many(tokens: int, choices: int) -> int:
    return min(tokens, 1 << 40) * min(max(choices, 1), 1 << 16)


def _nano(pico: int) -> int:
    return min(-(-pico // 1000), _FOREVER)


class Tariff:
    """What a request to one model may use at most, and what that may cost."""

    def __init__(
        self,
        family: Family,
        input_pico: int = 0,
        output_pico: int = 0,
        request_pico: int = 0,
        max_output: int = -1,
        answers: Family | None = None,
        lengths: Lengths | None = None,
        tiers: tuple[tuple[int, int, int], ...] = (),
    ) -> None:
        if len(tiers) >= _STEPS:
            raise ValueError("seven tiers at most")
        self.family = family
        self.answers = answers or Family()
        """Corrects what is counted of answers as they pass."""
        self.lengths = lengths or Lengths()
        self.input_pico = input_pico
        self.output_pico = output_pico
        self.request_pico = request_pico
        self.max_output = max_output
        self._steps = ((0, input_pico, output_pico), *tiers)

    def prices_of(self, prompt: int) -> tuple[int, int]:
        """Give what input and output cost of a prompt of so many tokens."""
        steps = reversed(self._steps)
        _, into, out = next((step for step in steps if prompt > step[0]), self._steps[0])
        return into, out

    def most_output(self, most: int) -> int:
        """Give the longest one answer can get, -1 when nobody knows."""
        if most >= 0 and self.max_output >= 0:
            return min(most, self.max_output)
        return max(most, self.max_output)

    def reserved_output(self, most: int, choices: int, stream: bool) -> int:
        """Give the tokens of all answers that are reserved at first."""
        output = self.most_output(most)
        if stream:
            output = min(output, self.lengths.slice) if output >= 0 else self.lengths.slice
        elif output < 0:
            output = _UNKNOWN_CEILING
        return _many(output, choices)

    def amounts(
        self, estimated: int, beside: int, size: int, most: int, choices: int, stream: bool, /
    ) -> tuple[int, int]:
        """Give (tokens, nano-dollars) to reserve for a request; of a stream its first slice.

        `estimated` is the estimator's count of the prompt, `beside` the most its pictures and the
        like may count, `size` the body's bytes, `most` the maximum the client asked for or -1,
        `choices` how many answers it wants.
        """
        prompt = min(self.family.correct(estimated), max(size, estimated))
        prompt += min(max(beside, 0), 1 << 40)
        output = self.reserved_output(most, choices, stream)
        into, out = self.prices_of(prompt)
        pico = prompt * into + output * out + self.request_pico
        return prompt + output, _nano(pico)

    def learn_answer(self, counted: int, output: int, reasoning: int, choices: int, /) -> None:
        """Learn from a stream: what was counted as it passed, what the provider reported."""
        self.lengths.observe(output // max(choices, 1))
        # Reasoning may have passed or not: the count says which.
        shown = min((output - reasoning, output), key=lambda tokens: abs(tokens - counted))
        self.answers.observe(counted, shown)


class Slices:
    """How far what a stream has reserved reaches, and more of it before it is used up."""

    __slots__ = (
        *("_asked", "_most", "_output_pico", "choices", "covered", "cut", "held", "line", "tariff"),
    )

    def __init__(self, held: Reservation, tariff: Tariff, most: int, choices: int, /) -> None:
        self.held = held
        self.tariff = tariff
        self.cut = False
        """Whether the stream had to end for want of room."""
        self.choices = min(max(choices, 1), 1 << 16)
        self._most = tariff.most_output(most)
        if self._most >= 0:
            self._most = _many(self._most, choices)
        self.covered = tariff.reserved_output(most, choices, True)
        """Tokens of the answer that are reserved."""
        self._output_pico = tariff.prices_of(held.tokens - self.covered)[1]
        self.line = 0
        """Tokens the tap may count before more must be reserved."""
        self._asked = 0
        """For so much more, and who keeps the meters has not answered."""
        self._draw_line()

    def _reach(self, tokens: int) -> int:
        """Give how many tokens the tap may count before there can be so many."""
        return (max(tokens, 0) << 20) // self.tariff.answers.correct(1 << 20)

    def _draw_line(self) -> None:
        if 0 <= self._most <= self.covered:
            self.line = _FOREVER  # the provider was told, or cannot
        else:
            margin = min(_MARGIN * self.choices, self.covered // 4)
            self.line = self._reach(self.covered - margin)

    def heard(self, room: bool, /) -> None:
        """Take the answer of who keeps the meters."""
        if room:
            self.covered += self._asked
            self._draw_line()
        self._asked = 0

    def go_on(self, now: int, delivered: int, /) -> bool:
        """Tell whether a stream may go on of which so much has passed, as the tap counts it.

        At the line another slice is reserved. Without room for one, or while others are asked for
        it, the stream goes on to the end of what it has, and it is tried again on the way; False:
        it has come there.
        """
        while delivered >= self.line:
            more = _many(self.tariff.lengths.slice, self.choices)
            if self._most >= 0:
                more = min(more, self._most - self.covered)
            nano, keeper = _nano(more * self._output_pico), self.held.guard.keeper
            if keeper is not None:
                if not self._asked:
                    self._asked = more
                    keeper.extend(self.held, more, nano, self.heard)
            elif self.held.extend(now, more, nano):
                self.covered += more
                self._draw_line()
                continue
            left = self._reach(self.covered - _LAST * self.choices) - delivered
            if left <= 0:
                self.cut = True
                return False
            self.line = delivered + (left + 1) // 2
        return True
