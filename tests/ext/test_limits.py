"""Limits and budgets in memory: never more than allowed, all or nothing, settled once."""

from __future__ import annotations

import gc
import itertools
import random
import time
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ext.shared_meters import Build as Shared

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
START = 1_790_000_000 * SECOND
"""Some time in 2026; virtual, as all times here."""


@pytest.fixture(params=["compiled", "pure", "redis"], scope="module")
def build(request):
    """Give both builds, and the meters that Redis keeps: one suite holds all three to the same."""
    if request.param != "redis":
        compiled, pure = request.getfixturevalue("twins")
        yield compiled if request.param == "compiled" else pure
        return
    shared = Shared(request.getfixturevalue("redis_server_url"))
    yield shared
    shared.keeper.leave()


def at(text):
    """Give epoch microseconds of an ISO time."""
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def micros(moment):
    return (moment - BEGINNING) // timedelta(microseconds=1)


class ExactWindow:
    """What a window must do, by brute force: every amount with its time, cells by arithmetic."""

    def __init__(self, limit, window_us):
        self.limit = limit
        self.window_us = window_us
        self.cell_us = -(-window_us // 127)
        self.taken = []

    def leaves(self, when):
        return (when // self.cell_us + 1) * self.cell_us - 1 + self.window_us

    def total(self, now):
        return sum(amount for when, amount in self.taken if self.leaves(when) > now)

    def fits(self, now, amount):
        return self.total(now) + amount <= self.limit

    def wait(self, now, amount):
        if self.fits(now, amount):
            return 0
        if amount > self.limit:
            return -1
        ends = sorted({self.leaves(when) for when, _ in self.taken if self.leaves(when) > now})
        return next(end for end in ends if self.fits(end, amount)) - now

    def rolling(self, now):
        """Give what counts in the window that ends now, to the microsecond."""
        return sum(amount for when, amount in self.taken if when > now - self.window_us)


class ExactBucket:
    """What a bucket must do, in fractions."""

    def __init__(self, rate, window_us, burst):
        self.rate = Fraction(rate, window_us)
        self.burst = burst
        self.taken = []

    def debt(self, now):
        debt, last = Fraction(0), 0
        for when, amount in self.taken:
            debt = max(debt - self.rate * (when - last), 0) + amount
            last = when
        return max(debt - self.rate * (now - last), 0)

    def fits(self, now, amount):
        return self.debt(now) + amount <= self.burst


steps = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3), st.integers(0, 40), st.integers(0, 2_000)),
        st.integers(0, 8),
        st.sampled_from(["keep", "settle", "release", "more"]),
        st.integers(0, 5),
    ),
    max_size=120,
)


@pytest.mark.parametrize("window_us", [1, 5, 127, 128, 300, 1000])
@settings(max_examples=60, deadline=None)
@given(steps=steps, limit=st.integers(0, 20))
def test_a_window_is_what_brute_force_says(build, window_us, steps, limit):
    """Admits exactly by cells, so never more than the limit in any rolling window."""
    window = build.limits.Window(limit, window_us, "tokens")
    guard = build.limits.Guard((window,))
    exact = ExactWindow(limit, window_us)
    now, held = START, []
    for pause, amount, what, some in steps:
        now += pause
        assert window.retry_us(now, amount) == exact.wait(now, amount)
        fits = exact.fits(now, amount)
        reservation = guard.reserve(now, amount, 0)
        assert (reservation is not None) == fits
        if reservation is not None:
            exact.taken.append((now, amount))
            assert exact.rolling(now) <= limit
            held.append((reservation, len(exact.taken) - 1))
        if held and what in {"settle", "release"}:
            reservation, index = held.pop(some % len(held))
            when, taken = exact.taken[index]
            used = 0 if what == "release" else min(some, taken)
            if what == "release":
                reservation.release(now)
            else:
                reservation.settle(now, used, 0)
            exact.taken[index] = (when, used)
        assert window.remaining(now) == max(limit - exact.total(now), 0)
        ends = [exact.leaves(when) for when, amount in exact.taken if amount]
        assert window.reset_us(now) == max([0, *(end - now for end in ends)])


def test_a_window_is_used_to_992_in_1000(build):
    """Under constant demand at least 127 of 128 of the limit is admitted."""
    window = build.limits.Window(100, MINUTE)
    guard = build.limits.Guard((window,))
    admitted, now = 0, START
    while now < START + 50 * MINUTE:
        wait = window.retry_us(now, 1)
        now += wait
        if not wait:
            guard.reserve(now, 0, 0).settle(now, 0, 0)
            admitted += 1
    assert admitted >= 100 * 50 * 127 // 128


def test_what_was_not_foreseen_counts_from_when_it_is_known(build):
    """More used than reserved blocks the window for its whole length from then on."""
    window = build.limits.Window(100, MINUTE, "tokens")
    guard = build.limits.Guard((window,))
    held = guard.reserve(START, 10, 0)
    late = START + 2 * MINUTE
    held.settle(late, 160, 0)
    assert window.remaining(late) == 0
    assert guard.reserve(late + MINUTE - 1, 1, 0) is None
    assert guard.reserve(late + MINUTE + SECOND, 1, 0) is not None


@settings(max_examples=150, deadline=None)
@given(
    steps=steps,
    rate=st.integers(0, 50),
    window_us=st.integers(1, 500),
    burst=st.integers(0, 20),
)
def test_a_bucket_is_what_fractions_say(build, steps, rate, window_us, burst):
    """Without refunds a bucket is exact, and its wait is the shortest whole microsecond."""
    bucket = build.limits.Bucket(rate, window_us, burst, "tokens")
    guard = build.limits.Guard((bucket,))
    exact = ExactBucket(rate, window_us, burst)
    now, held = START, []
    for pause, amount, *_ in steps:
        now += pause
        wait = bucket.retry_us(now, amount)
        if wait > 0:
            assert exact.fits(now + wait, amount)
            assert not exact.fits(now + wait - 1, amount)
        elif wait < 0:
            assert amount > burst or rate == 0
        assert bucket.remaining(now) == max(burst - exact.debt(now), 0).__floor__()
        reservation = guard.reserve(now, amount, 0)
        assert (reservation is not None) == exact.fits(now, amount) == (wait == 0)
        if reservation is not None:
            exact.taken.append((now, amount))
            held.append(reservation)


@settings(max_examples=150, deadline=None)
@given(
    steps=steps,
    rate=st.integers(0, 50),
    window_us=st.integers(1, 500),
    burst=st.integers(0, 20),
)
def test_refunds_leave_a_bucket_within_burst_and_rate(build, steps, rate, window_us, burst):
    """What is used in any interval stays within burst + rate * length, whatever is given back."""
    bucket = build.limits.Bucket(rate, window_us, burst, "tokens")
    guard = build.limits.Guard((bucket,))
    exact = ExactBucket(rate, window_us, burst)
    now, held = START, []
    for pause, amount, what, some in steps:
        now += pause
        reservation = guard.reserve(now, amount, 0)
        if reservation is not None:
            exact.taken.append((now, amount))
            held.append((reservation, len(exact.taken) - 1))
        if held and what == "settle":
            reservation, index = held.pop(some % len(held))
            when, taken = exact.taken[index]
            reservation.settle(now, min(some, taken), 0)
            exact.taken[index] = (when, min(some, taken))
        assert bucket.remaining(now) <= burst - exact.debt(now)
    used = exact.taken
    for (i, (first, _)), (j, (last, _)) in itertools.combinations_with_replacement(
        list(enumerate(used))[-25:], 2
    ):
        total = sum(amount for _, amount in used[i : j + 1])
        assert total <= burst + exact.rate * (last - first)


def test_a_bucket_of_a_day_and_a_billion_is_exact(build):
    """The debt is wider than 64 bits where it must be."""
    most = 9_000_000_000_000
    bucket = build.limits.Bucket(most, DAY, most, "tokens")
    guard = build.limits.Guard((bucket,))
    assert guard.reserve(START, most, 0) is not None
    assert guard.reserve(START, 1, 0) is None
    assert bucket.retry_us(START, 1) == 1
    assert bucket.reset_us(START) == DAY
    assert bucket.remaining(START + DAY // 2) == most // 2


def test_slots_come_back_and_never_exceed(build):
    """Concurrency: a slot is held until its exchange is settled, released or dropped."""
    slots = build.limits.Slots(2)
    guard = build.limits.Guard((slots,))
    first, second = guard.reserve(START, 0, 0), guard.reserve(START, 0, 0)
    assert guard.reserve(START, 0, 0) is None
    meter, wait = guard.refusal(START, 0, 0)
    assert meter is slots
    assert wait > 0
    first.settle(START, 0, 0)
    third = guard.reserve(START, 0, 0)
    assert third is not None
    second.release(START)
    del third
    gc.collect()
    assert slots.taken == 0


# -- budgets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "begins", "ends"),
    [
        ("day", "2024-02-29", "2024-03-01"),
        ("week", "2024-02-26", "2024-03-04"),
        ("month", "2024-02-01", "2024-03-01"),
        ("month", "2023-12-01", "2024-01-01"),
        ("month", "2100-02-01", "2100-03-01"),
    ],
)
def test_a_period_is_the_calendars(build, period, begins, ends):
    """Spend counts to the last microsecond of its period; the next one begins at nothing."""
    budget = build.limits.Budget(100, period)
    guard = build.limits.Guard((budget,))
    assert budget.starts_us(at(begins) + DAY // 2) == at(begins)
    guard.reserve(at(begins) + DAY // 2, 0, 60).settle(at(begins) + DAY // 2, 0, 100)
    last = at(ends) - 1
    assert guard.refusal(last, 0, 1) == (budget, 1)
    assert guard.reserve(last, 0, 1) is None
    assert guard.reserve(last + 1, 0, 100).open
    assert guard.reserve(last + 1, 0, 1) is None
    assert budget.spent == 100, "the dropped reservation, and nothing of the last period"
    assert budget.starts_us(at(ends)) == at(ends)


@settings(max_examples=300)
@given(
    now=st.integers(31 * DAY, 400 * 366 * DAY),
    period=st.sampled_from(["day", "week", "month"]),
)
def test_periods_agree_with_the_standard_library(twins, now, period):
    """Both builds cut the calendar alike, leap days and all."""
    budgets = [build.limits.Budget(0, period) for build in twins]
    starts = {(budget.starts_us(now), budget.reset_us(now)) for budget in budgets}
    assert len(starts) == 1
    ((start, rest),) = starts
    assert start <= now < now + rest
    day = BEGINNING + timedelta(days=now // DAY)
    expected = {
        "day": day,
        "week": day - timedelta(days=day.weekday()),
        "month": day.replace(day=1),
    }
    assert start == micros(expected[period])


def test_a_total_budget_never_comes_back(build):
    """Nothing resets it, so there is no use in waiting."""
    budget = build.limits.Budget(100, "total")
    guard = build.limits.Guard((budget,))
    guard.reserve(START, 0, 100).settle(START, 0, 100)
    assert guard.refusal(START + 10_000 * DAY, 0, 1) == (budget, -1)
    assert budget.reset_us(START) == -1


def test_a_reservation_of_the_last_period_leaves_the_new_one_alone(build):
    """An exchange over midnight is the old day's, both as it holds and as it settles."""
    budget = build.limits.Budget(100, "day")
    guard = build.limits.Guard((budget,))
    held = guard.reserve(at("2026-11-21T23:59:59"), 0, 90)
    fresh = guard.reserve(at("2026-11-22T00:00:00"), 0, 90)
    assert fresh is not None
    held.settle(at("2026-11-22T00:00:01"), 0, 80)
    assert (budget.spent, budget.reserved) == (0, 90)
    fresh.settle(at("2026-11-22T00:00:02"), 0, 70)
    assert (budget.spent, budget.reserved) == (70, 0)


def test_open_reservations_are_told_from_spend(build):
    """Where only what is held stands in the way, it is worth asking again soon."""
    budget = build.limits.Budget(100, "month")
    guard = build.limits.Guard((budget,))
    held = guard.reserve(START, 0, 90)
    meter, wait = guard.refusal(START, 0, 20)
    assert meter is budget
    assert 0 < wait <= 5 * SECOND
    held.settle(START, 0, 90)
    assert guard.refusal(START, 0, 20)[1] == budget.reset_us(START) > 5 * SECOND


def test_an_overrun_is_spent_in_full(build):
    """A provider that bills more than was reserved uses the budget up, and then some."""
    budget = build.limits.Budget(100, "day")
    guard = build.limits.Guard((budget,))
    guard.reserve(START, 0, 60).settle(START, 0, 250)
    assert budget.spent == 250
    assert budget.remaining(START) == 0
    assert guard.reserve(START, 0, 1) is None
    assert guard.reserve(START, 0, 0) is None


def test_a_soft_budget_counts_and_refuses_nobody(build):
    """`hard: false` keeps books only."""
    budget = build.limits.Budget(100, "day", False)
    guard = build.limits.Guard((budget,))
    guard.reserve(START, 0, 500).settle(START, 0, 400)
    assert guard.refusal(START, 0, 500) == (None, 0)
    assert budget.spent == 400
    assert guard.reserve(START, 0, 500) is not None


def test_a_budget_starts_from_what_the_store_knows(build):
    """What was spent before the process began counts."""
    budget = build.limits.Budget(100, "day")
    budget.starts_us(START)
    budget.spent = 95
    guard = build.limits.Guard((budget,))
    assert guard.reserve(START, 0, 6) is None
    assert guard.reserve(START, 0, 5) is not None


def test_absurd_reports_do_not_overflow(build):
    """A provider that reports nonsense uses a budget up; it does not credit it."""
    budget = build.limits.Budget(2**60, "total")
    guard = build.limits.Guard((budget,))
    for _ in range(5):
        held = guard.reserve(START, 0, 0)
        if held is not None:
            held.settle(START, 0, 2**61)
    assert budget.remaining(START) == 0
    assert budget.spent > 2**60


# -- all together -------------------------------------------------------------------------------


def stack(limits):
    """Give one meter of each kind and two budgets."""
    return (
        limits.Window(20, MINUTE),
        limits.Window(2_000, MINUTE, "tokens"),
        limits.Bucket(30, MINUTE, 10),
        limits.Slots(5),
        limits.Budget(50_000, "day"),
        limits.Budget(300_000, "month"),
    )


def state(meters, now):
    """Give everything that can be seen of meters."""
    return [
        (
            meter.remaining(now),
            meter.reset_us(now),
            getattr(meter, "taken", 0),
            getattr(meter, "spent", 0),
            getattr(meter, "reserved", 0),
        )
        for meter in meters
    ]


@pytest.mark.parametrize("tight", range(6))
def test_one_refusal_changes_nothing_elsewhere(build, tight):
    """Whichever of six stands in the way, the five others keep what they had."""
    meters = stack(build.limits)
    guard = build.limits.Guard(meters)
    assert guard.reserve(START, 100, 1_000) is not None
    meters[tight].limit = 0
    if tight == 2:
        meters[tight].burst = 0
    before = state(meters, START)
    for _ in range(100):
        assert guard.reserve(START, 100, 1_000) is None
    assert state(meters, START) == before
    assert guard.refusal(START, 100, 1_000)[0] is meters[tight]


def test_a_reservation_is_settled_once(build):
    """The second word on it does nothing, whatever it is."""
    meters = stack(build.limits)
    guard = build.limits.Guard(meters)
    held = guard.reserve(START, 100, 1_000)
    held.settle(START, 60, 700)
    before = state(meters, START)
    held.settle(START, 10, 10)
    held.release(START)
    held.forgo(0, START)
    del held
    gc.collect()
    assert state(meters, START) == before
    assert meters[1].remaining(START) == 2_000 - 60
    assert (meters[3].taken, meters[4].spent, meters[4].reserved) == (0, 700, 0)


def test_a_release_gives_everything_back(build):
    """As if it had never been."""
    meters = stack(build.limits)
    guard = build.limits.Guard(meters)
    before = state(meters, START)
    guard.reserve(START, 100, 1_000).release(START)
    assert state(meters, START) == before


def test_a_dropped_reservation_counts_as_used(build):
    """Whoever forgets it pays what was reserved, and the slot comes back."""
    meters = stack(build.limits)
    guard = build.limits.Guard(meters)
    held = guard.reserve(START, 100, 1_000)
    del held
    gc.collect()
    assert meters[0].remaining(START) == 19
    assert meters[1].remaining(START) == 1_900
    assert (meters[3].taken, meters[4].spent, meters[4].reserved) == (0, 1_000, 0)


def test_one_meter_can_be_let_go_early(build):
    """What did not apply after all is given back once, and the settlement leaves it out."""
    meters = stack(build.limits)
    guard = build.limits.Guard(meters)
    held = guard.reserve(START, 100, 1_000)
    for _ in range(2):
        held.forgo(1, START)
        held.forgo(4, START)
        held.forgo(-1, START)
        held.forgo(6, START)
    held.settle(START, 100, 1_000)
    assert meters[1].remaining(START) == 2_000
    assert (meters[4].spent, meters[4].reserved) == (0, 0)
    assert (meters[5].spent, meters[5].reserved) == (1_000, 0)


def test_a_meter_that_stands_twice_is_taken_from_once(build):
    """Otherwise two takes would follow one look."""
    slots = build.limits.Slots(1)
    guard = build.limits.Guard((slots, slots))
    assert guard.meters == (slots,)
    held = guard.reserve(START, 0, 0)
    assert held is not None
    assert slots.taken == 1


def test_the_longest_wait_is_told(build):
    """A client that waits for the first of two limits would only be refused by the second."""
    minute = build.limits.Window(1, MINUTE)
    hour = build.limits.Window(1, 60 * MINUTE)
    never = build.limits.Window(5, MINUTE, "tokens")
    guard = build.limits.Guard((minute, hour, never))
    assert guard.reserve(START, 0, 0) is not None
    meter, wait = guard.refusal(START, 0, 0)
    assert meter is hour
    assert 60 * MINUTE <= wait <= 61 * MINUTE
    assert guard.refusal(START, 6, 0) == (never, -1)
    assert guard.refusal(START + wait, 0, 0) == (None, 0)


def test_no_limits_refuse_nobody(build):
    """An empty guard admits everything and says nothing."""
    guard = build.limits.Guard(())
    held = guard.reserve(START, 1, 1)
    held.settle(START, 5, 5)
    assert guard.fields(START) == b""
    assert not guard.wants_tokens
    assert not guard.wants_money


def test_a_guard_says_what_it_needs(build):
    """Where nobody counts tokens or money, nobody needs to estimate them."""
    limits = build.limits
    guard = limits.Guard((limits.Window(1, 1, "tokens"),))
    assert (guard.wants_tokens, guard.wants_money) == (True, False)
    guard = limits.Guard((limits.Budget(1, "day"),))
    assert (guard.wants_tokens, guard.wants_money) == (False, True)


def test_the_header_lines_tell_of_the_tightest(build):
    """OpenAI's six names: the least that a meter gives at once, and the least that is left."""
    limits = build.limits
    guard = limits.Guard(
        (
            limits.Window(100, MINUTE),
            limits.Bucket(60, MINUTE, 10),
            limits.Window(90_000, 24 * 60 * MINUTE, "tokens"),
            limits.Slots(7),
        )
    )
    now = START // MINUTE * MINUTE
    assert guard.fields(now) == (
        b"x-ratelimit-limit-requests: 10\r\n"
        b"x-ratelimit-remaining-requests: 10\r\n"
        b"x-ratelimit-reset-requests: 0s\r\n"
        b"x-ratelimit-limit-tokens: 90000\r\n"
        b"x-ratelimit-remaining-tokens: 90000\r\n"
        b"x-ratelimit-reset-tokens: 0s\r\n"
    )
    guard.reserve(now, 600, 0).settle(now, 500, 0)
    lines = guard.fields(now + 500_000).split(b"\r\n")
    assert lines[1] == b"x-ratelimit-remaining-requests: 9"
    assert lines[2] == b"x-ratelimit-reset-requests: 500ms"
    assert lines[4] == b"x-ratelimit-remaining-tokens: 89500"
    assert lines[5].startswith(b"x-ratelimit-reset-tokens: 24h")


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (1, b"1ms"),
        (999_001, b"1s"),
        (1_500_000, b"1.5s"),
        (59_999_000, b"59.999s"),
        (60_000_000, b"1m0s"),
        (360_000_000, b"6m0s"),
        (3_600_000_000, b"1h0m0s"),
        (90_061_040_000, b"25h1m1.04s"),
    ],
)
def test_times_are_written_as_openai_does(build, us, text):
    """Rounded up to the millisecond, so that a client which obeys is not too early."""
    bucket = build.limits.Bucket(1, us, 1)
    guard = build.limits.Guard((bucket,))
    guard.reserve(START, 0, 0).settle(START, 0, 0)
    assert guard.fields(START).split(b"\r\n")[2] == b"x-ratelimit-reset-requests: " + text


def test_time_never_runs_back(build):
    """A clock behind what a meter has seen neither frees nor loses anything."""
    window = build.limits.Window(2, MINUTE)
    guard = build.limits.Guard((window,))
    held = guard.reserve(START, 0, 0)
    early = guard.reserve(START - 10 * MINUTE, 0, 0)
    assert early.at_us == START
    assert guard.reserve(START - MINUTE, 0, 0) is None
    early.release(START - MINUTE)
    assert window.remaining(START - MINUTE) == 1
    held.release(START)
    assert window.remaining(START) == 2


def test_the_clock_is_epoch_time(build):
    """Budgets need the calendar: what `now_us` gives is near the wall clock and grows."""
    first, second = build.limits.now_us(), build.limits.now_us()
    assert first <= second
    assert abs(first - time.time_ns() // 1000) < MINUTE


def test_idle_meters_are_told(build):
    """One that holds nothing can be made anew without anybody noticing."""
    meters = stack(build.limits)
    guard = build.limits.Guard(meters)
    assert all(meter.idle(START) for meter in meters)
    held = guard.reserve(START, 10, 10)
    assert not any(meter.idle(START) for meter in meters)
    held.settle(START, 10, 10)
    assert all(meter.idle(START + 2 * MINUTE) for meter in meters)


def test_a_lower_limit_counts_at_once(build):
    """A changed number needs no new meter; what is used stays used."""
    window = build.limits.Window(10, MINUTE)
    guard = build.limits.Guard((window,))
    for _ in range(6):
        guard.reserve(START, 0, 0).settle(START, 0, 0)
    window.limit = 5
    assert window.remaining(START) == 0
    assert guard.reserve(START, 0, 0) is None
    window.limit = 7
    assert guard.reserve(START, 0, 0) is not None


def test_a_hundred_thousand_random_operations(twins):
    """Both builds agree on every answer, and nothing is ever admitted twice or below zero."""
    compare(twins, 100_000)


def told(fields):
    """Give the header lines but for those that say when."""
    return tuple(line for line in fields.splitlines() if b"-reset-" not in line)


def test_redis_agrees_with_what_is_kept_in_process(build, twins):
    """The same random operations have the same answers, whoever keeps the meters."""
    if build.name == "redis":
        compare((twins[0], build), 2_000)


def compare(builds, turns):
    """Do the same with both and look at everything that can be seen."""
    random_ = random.Random(11)
    stacks = [stack(build.limits) for build in builds]
    guards = [
        [build.limits.Guard(meters), build.limits.Guard(meters[:1] + meters[3:])]
        for build, meters in zip(builds, stacks, strict=True)
    ]
    now, held, spent = START, [], 0
    for turn in range(turns):
        now += random_.choice((0, 0, 1, 1_000, 250_000, 3 * SECOND))
        if random_.random() < 0.0005:
            now += random_.choice((MINUTE, DAY, 31 * DAY))
        which, tokens, nano = random_.randrange(2), random_.randrange(300), random_.randrange(4_000)
        made = [pair[which].reserve(now, tokens, nano) for pair in guards]
        assert (made[0] is None) == (made[1] is None)
        if made[0] is not None:
            held.append(made)
        while held and (len(held) > 5 or random_.random() < 0.6):
            both = held.pop(random_.randrange(len(held)))
            what, used = random_.random(), random_.randrange(400)
            for one in both:
                if what < 0.1:
                    one.forgo(0, now)
                if what < 0.8:
                    one.settle(now, used, used * 10)
                elif what < 0.95:
                    one.release(now)
                one.settle(now, 1, 1)
            del both, one
        if turn % 10 == 0:
            assert state(stacks[0], now) == state(stacks[1], now)
            # Who only hears of meters knows when all of one is back, not when a part of it is.
            assert len({told(pair[0].fields(now)) for pair in guards}) == 1
            waits = [pair[0].refusal(now, tokens, nano) for pair in guards]
            assert waits[0][1] == waits[1][1]
            slots, month = stacks[0][3], stacks[0][5]
            assert 0 <= slots.taken <= 5
            assert month.reserved >= 0
            assert month.spent >= spent or now >= START + 20 * DAY
            spent = month.spent


# -- amounts ------------------------------------------------------------------------------------


def test_a_family_begins_careful_and_learns(build):
    """The bound follows the 99.9th percentile of what providers count, between 1/4 and 4."""
    family = build.estimate.Family()
    assert 1_250 <= family.correct(1_000) <= 1_320
    for _ in range(20_000):
        family.observe(1_000, 900)
    assert 900 <= family.correct(1_000) <= 960
    family.observe(1_000, 2_000)
    for _ in range(99):
        family.observe(1_000, 900)
    assert family.correct(1_000) < 1_000
    for _ in range(10):
        family.observe(1_000, 2_000)
    assert 2_000 <= family.correct(1_000) <= 2_100
    for _ in range(200):
        family.observe(1_000, 10**9)
    assert family.correct(1_000) == 4_000
    for _ in range(20_000):
        family.observe(1_000, 1)
    assert 250 <= family.correct(1_000) <= 270
    assert family.correct(0) == 0
    assert family.correct(-5) == 0


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(-5, 5_000), st.integers(-5, 30_000)), max_size=300))
def test_families_learn_alike_in_both_builds(twins, prompts):
    """Twins agree after whatever they were told."""
    families = [build.estimate.Family() for build in twins]
    for estimated, actual in prompts:
        for family in families:
            family.observe(estimated, actual)
        assert len({family.correct(7_777) for family in families}) == 1


def test_the_amounts_are_an_upper_bound(build):
    """Prompt by its family, output by the client's maximum, the model's, or one slice."""
    family = build.estimate.Family()
    tariff = build.limits.Tariff(family, 2_500_000, 10_000_000, 0, 16_000)
    prompt = family.correct(100)
    unsaid = -1
    assert tariff.amounts(100, 0, 5_000, 50, 1, False) == (
        prompt + 50,
        -(-(prompt * 2_500_000 + 50 * 10_000_000) // 1000),
    )
    assert tariff.amounts(100, 0, 5_000, 50, 3, True)[0] == prompt + 150
    assert tariff.amounts(100, 0, 5_000, unsaid, 1, False)[0] == prompt + 16_000
    assert tariff.amounts(100, 0, 5_000, unsaid, 1, True)[0] == prompt + 2_048
    assert tariff.amounts(100, 0, 5_000, 99_999, 1, True)[0] == prompt + 2_048
    assert tariff.amounts(100, 0, 110, 0, 0, False)[0] == 110
    # What a model adds counts, however short the body is.
    assert tariff.amounts(100, 0, 60, 0, 0, False)[0] == 100
    unknown = build.limits.Tariff(family)
    assert unknown.amounts(100, 0, 5_000, unsaid, 1, False) == (prompt + 16_384, 0)
    assert unknown.amounts(100, 0, 5_000, 99_999, 1, False)[0] == prompt + 99_999
    assert unknown.amounts(100, 9_000, 5_000, 1, 1, False)[0] == prompt + 9_001
    silent = build.limits.Tariff(family, 1, 1, 0, 0)
    assert silent.amounts(100, 0, 5_000, unsaid, 1, True)[0] == prompt


@given(*[st.integers(-1, 2**62)] * 5, st.booleans(), *[st.integers(0, 2**54)] * 3)
def test_amounts_agree_and_never_overflow(
    twins, estimated, beside, size, most, choices, stream, input_pico, output_pico, request_pico
):
    """Absurd numbers saturate; in both builds alike."""
    found = {
        build.limits.Tariff(
            build.estimate.Family(), input_pico, output_pico, request_pico, -1
        ).amounts(estimated, beside, size, most, choices, stream)
        for build in twins
    }
    assert len(found) == 1
    tokens, nano = found.pop()
    assert tokens >= 0
    assert 0 <= nano < 2**62
