# cython: embedsignature=True, cdivision=True
"""Limits and budgets in memory: meters, all-or-nothing guards, reservations. Twin: pure/limits.py.

A guard asks every meter first and takes from all of them afterwards; nothing can come in between,
so a reservation is whole or is none. Knows numbers only: whose they are is the flow's business.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fastgw._ext._estimate cimport Family

from fastgw._ext.weights import length_classes

cdef extern from "<time.h>" nogil:
    const int CLOCK_BOOTTIME

cdef enum:
    DAY = 0
    WEEK = 1
    MONTH = 2
    TOTAL = 3

cdef enum:
    SLICE = 2048  # output tokens a stream reserves while nobody knows how long answers get
    SHORTEST_SLICE = 256
    LONGEST_SLICE = 16384
    LEAST_ANSWERS = 256  # seen before a slice is what they say
    MOST_ANSWERS = 4096  # past that all counts are halved, so that old ones fade
    UNKNOWN_CEILING = 16384  # a whole answer of a model whose longest answer nobody knows
    MARGIN = 64  # tokens before the end of a slice at which the next is reserved
    LAST = 16  # and at which a stream ends that gets none

cdef dict KINDS = {"day": DAY, "week": WEEK, "month": MONTH, "total": TOTAL}
cdef dict METRICS = {"requests": REQUESTS, "tokens": TOKENS}

cdef long long FOREVER = 0x3fffffffffffffff
cdef long long DAY_US = 86_400_000_000
cdef long long SOON_US = 1_000_000  # when somebody else's slot or reservation may have come back


cdef long long read_clock(int clock) noexcept nogil:
    cdef timespec time
    clock_gettime(clock, &time)
    return <long long>time.tv_sec * 1_000_000 + time.tv_nsec // 1_000


cdef long long EPOCH = read_clock(CLOCK_REALTIME) - read_clock(CLOCK_BOOTTIME)


cpdef long long now_us() noexcept:
    """Give the time as epoch microseconds that never run back.

    The wall clock as it was at import, carried on by the time since boot: setting the clock moves
    no window, and a machine that slept wakes up in the right period.
    """
    return EPOCH + read_clock(CLOCK_BOOTTIME)


cdef inline long long later(long long a, long long b) noexcept nogil:
    return a if a > b else b


cdef class Meter:
    def __cinit__(self, *args, **kwargs):
        self.latest = 0

    cdef bint fits(self, long long now, long long amount) noexcept:
        return False

    cdef void take(self, long long now, long long amount) noexcept:
        pass

    cdef void correct(
        self, long long at, long long now, long long taken, long long used
    ) noexcept:
        pass

    cdef bint fits_later(self, long long at, long long now, long long amount) noexcept:
        return self.fits(now, amount)

    cdef void take_later(self, long long at, long long now, long long amount) noexcept:
        self.take(now, amount)

    cpdef long long remaining(self, long long now) noexcept:
        """Give how much is left."""
        return 0

    cpdef long long reset_us(self, long long now) noexcept:
        """Give how long until all of it is there again; -1: never."""
        return -1

    cpdef long long retry_us(self, long long now, long long amount) noexcept:
        """Give how long until `amount` fits; 0: it does, -1: never."""
        return -1

    cpdef bint idle(self, long long now) noexcept:
        """Tell whether it holds nothing that a new meter would not know."""
        return False

    cdef long long most(self) noexcept:
        """Give the most that can be had at once."""
        return self.limit


@cython.final
cdef class Window(Meter):
    # A cell's width is the window's 127th part, rounded up. So at most 128 cells reach into a
    # window, and one leaves no later than 1/127 of a window after its first microsecond did.

    def __init__(self, long long limit, long long window_us, str metric="requests"):
        if window_us < 1:
            raise ValueError("a window lasts at least a microsecond")
        self.metric = METRICS[metric]
        self.limit = limit
        self.window_us = window_us
        self.cell_us = (window_us + CELLS - 2) // (CELLS - 1)
        self.tail_end = self.cell_us - 1 + window_us
        memset(self.cells, 0, sizeof(self.cells))

    cdef void advance(self, long long now) noexcept:
        cdef int index
        while self.tail_end <= now:
            if self.total == 0:
                self.tail = (now - self.window_us + 1) // self.cell_us
                self.tail_end = (self.tail + 1) * self.cell_us - 1 + self.window_us
                return
            index = self.tail & (CELLS - 1)
            self.total -= self.cells[index]
            self.cells[index] = 0
            self.tail += 1
            self.tail_end += self.cell_us

    cdef bint fits(self, long long now, long long amount) noexcept:
        self.latest = now
        self.advance(now)
        return self.total + amount <= self.limit

    cdef void take(self, long long now, long long amount) noexcept:
        self.cells[(now // self.cell_us) & (CELLS - 1)] += amount
        self.total += amount

    cdef void correct(
        self, long long at, long long now, long long taken, long long used
    ) noexcept:
        cdef long long cell = at // self.cell_us
        if used > taken:
            # What was not foreseen counts from when it became known: its own cell may be gone.
            self.latest = now = later(now, self.latest)
            self.advance(now)
            self.take(now, used - taken)
        elif cell >= self.tail:
            self.cells[cell & (CELLS - 1)] -= taken - used
            self.total -= taken - used

    cpdef long long remaining(self, long long now) noexcept:
        """Give how much is left."""
        self.advance(later(now, self.latest))
        return later(self.limit - self.total, 0)

    cpdef long long reset_us(self, long long now) noexcept:
        """Give how long until all of it is there again."""
        cdef long long cell
        now = later(now, self.latest)
        self.advance(now)
        if self.total == 0:
            return 0
        cell = now // self.cell_us
        while self.cells[cell & (CELLS - 1)] == 0:
            cell -= 1
        return (cell + 1) * self.cell_us - 1 + self.window_us - now

    cpdef long long retry_us(self, long long now, long long amount) noexcept:
        """Give how long until `amount` fits; 0: it does, -1: never."""
        cdef long long over, cell
        now = later(now, self.latest)
        self.advance(now)
        over = self.total + amount - self.limit
        if over <= 0:
            return 0
        if amount > self.limit:
            return -1
        cell = self.tail
        while True:
            over -= self.cells[cell & (CELLS - 1)]
            if over <= 0:
                return (cell + 1) * self.cell_us - 1 + self.window_us - now
            cell += 1

    cpdef bint idle(self, long long now) noexcept:
        """Tell whether it holds nothing that a new meter would not know."""
        self.advance(later(now, self.latest))
        return self.total == 0


@cython.final
cdef class Bucket(Meter):
    def __init__(
        self,
        long long rate_per_window,
        long long window_us,
        long long burst,
        str metric="requests",
    ):
        if window_us < 1:
            raise ValueError("a window lasts at least a microsecond")
        self.metric = METRICS[metric]
        self.limit = rate_per_window
        self.window_us = window_us
        self.burst = burst
        memset(&self.debt, 0, sizeof(Debt))

    cdef void advance(self, long long now) noexcept:
        if now > self.latest:
            drain(&self.debt, self.limit, now - self.latest)
            self.latest = now

    cdef bint fits(self, long long now, long long amount) noexcept:
        self.advance(now)
        return debt_fits(&self.debt, amount, self.burst, self.window_us)

    cdef void take(self, long long now, long long amount) noexcept:
        charge(&self.debt, amount, self.window_us)

    cdef void correct(
        self, long long at, long long now, long long taken, long long used
    ) noexcept:
        self.advance(now)
        if used > taken:
            charge(&self.debt, used - taken, self.window_us)
        else:
            refund(&self.debt, taken - used, self.window_us, self.limit, self.latest - at)

    cpdef long long remaining(self, long long now) noexcept:
        """Give how much is left."""
        self.advance(now)
        return debt_room(&self.debt, self.burst, self.window_us)

    cpdef long long reset_us(self, long long now) noexcept:
        """Give how long until all of it is there again; -1: never."""
        self.advance(now)
        return debt_empty(&self.debt, self.limit)

    cpdef long long retry_us(self, long long now, long long amount) noexcept:
        """Give how long until `amount` fits; 0: it does, -1: never."""
        self.advance(now)
        if debt_fits(&self.debt, amount, self.burst, self.window_us):
            return 0
        if amount > self.burst:
            return -1
        return debt_retry(&self.debt, amount, self.burst, self.window_us, self.limit)

    cpdef bint idle(self, long long now) noexcept:
        """Tell whether it holds nothing that a new meter would not know."""
        self.advance(now)
        return debt_empty(&self.debt, 0) == 0

    cdef long long most(self) noexcept:
        """Give the most that can be had at once."""
        return self.burst


@cython.final
cdef class Slots(Meter):
    def __init__(self, long long limit):
        self.metric = CONCURRENT
        self.limit = limit

    cdef bint fits(self, long long now, long long amount) noexcept:
        self.latest = now
        return self.taken + amount <= self.limit

    cdef void take(self, long long now, long long amount) noexcept:
        self.taken += amount

    cdef void correct(
        self, long long at, long long now, long long taken, long long used
    ) noexcept:
        self.taken -= taken - used

    cpdef long long remaining(self, long long now) noexcept:
        """Give how many are free."""
        return later(self.limit - self.taken, 0)

    cpdef long long reset_us(self, long long now) noexcept:
        """Give when it makes sense to look again: nobody knows when a slot comes back."""
        return SOON_US if self.taken else 0

    cpdef long long retry_us(self, long long now, long long amount) noexcept:
        """Give when it makes sense to ask again; 0: it fits, -1: never."""
        if self.taken + amount <= self.limit:
            return 0
        return -1 if amount > self.limit else SOON_US

    cpdef bint idle(self, long long now) noexcept:
        """Tell whether it holds nothing that a new meter would not know."""
        return self.taken == 0


cdef long long month_start(long long days, int further) noexcept nogil:
    """Give the day on which the month of a day begins, or the month after it (`further` 1).

    Days count from 1970-01-01. Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin
    in March, so that the leap day is the last of its year.
    """
    cdef long long shifted = days + 719_468
    cdef long long era = shifted // 146_097
    cdef long long of_era = shifted - era * 146_097
    cdef long long year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    cdef long long of_year = of_era - (365 * year + year // 4 - year // 100)
    cdef long long month = (5 * of_year + 2) // 153 + further
    if month == 12:
        month = 0
        year += 1
        if year == 400:
            year = 0
            era += 1
    of_year = (153 * month + 2) // 5
    return era * 146_097 + year * 365 + year // 4 - year // 100 + of_year - 719_468


@cython.final
cdef class Budget(Meter):
    def __init__(self, long long limit_nano, str period, bint hard=True):
        self.metric = MONEY
        self.limit = limit_nano
        self.period = period
        self.kind = KINDS[period]
        self.hard = hard
        self.end = FOREVER if self.kind == TOTAL else 0
        self.start_before = FOREVER

    @property
    def spent(self):
        """What was settled in the period; set it to what the store knows, before first use."""
        return self.used

    @spent.setter
    def spent(self, long long nano):
        self.used = nano

    cpdef long long starts_us(self, long long now) noexcept:
        """Give when the period began, in epoch microseconds."""
        self.roll(later(now, self.latest))
        return self.start

    cdef void roll(self, long long now) noexcept:
        cdef long long day
        if now < self.end:
            return
        if self.end:  # what is still reserved belongs to the period that is over
            self.start_before = self.start
            self.spent_before = self.used
            self.reserved_before = self.reserved
            self.used = self.reserved = 0
        day = now // DAY_US
        if self.kind == WEEK:  # 1970-01-01 was a Thursday
            day = (day + 3) // 7 * 7 - 3
            self.end = (day + 7) * DAY_US
        elif self.kind == MONTH:
            self.end = month_start(day, 1) * DAY_US
            day = month_start(day, 0)
        else:
            self.end = (day + 1) * DAY_US
        self.start = day * DAY_US

    cdef bint fits(self, long long now, long long amount) noexcept:
        self.latest = now
        self.roll(now)
        return not self.hard or amount <= self.limit - self.used - self.reserved

    cdef void take(self, long long now, long long amount) noexcept:
        self.reserved += amount

    cdef void correct(
        self, long long at, long long now, long long taken, long long used
    ) noexcept:
        if at >= self.start:
            self.reserved -= taken
            self.used = self.used + used if used < FOREVER - self.used else FOREVER
        elif at >= self.start_before:
            self.reserved_before -= taken
            if used < FOREVER - self.spent_before:
                self.spent_before += used
            else:
                self.spent_before = FOREVER

    cdef bint fits_later(self, long long at, long long now, long long amount) noexcept:
        # An exchange counts in the period it began in, all of it.
        self.latest = now
        self.roll(now)
        if not self.hard:
            return True
        if at >= self.start:
            return amount <= self.limit - self.used - self.reserved
        if at >= self.start_before:
            return amount <= self.limit - self.spent_before - self.reserved_before
        return False

    cdef void take_later(self, long long at, long long now, long long amount) noexcept:
        if at >= self.start:
            self.reserved += amount
        elif at >= self.start_before:
            self.reserved_before += amount

    cpdef long long remaining(self, long long now) noexcept:
        """Give what may still be reserved."""
        self.roll(later(now, self.latest))
        return later(self.limit - self.used - self.reserved, 0)

    cpdef long long reset_us(self, long long now) noexcept:
        """Give how long until the next period; -1: there is none."""
        if self.kind == TOTAL:
            return -1
        now = later(now, self.latest)
        self.roll(now)
        return self.end - now

    cpdef long long retry_us(self, long long now, long long amount) noexcept:
        """Give how long until `amount` may fit; 0: it does, -1: never."""
        now = later(now, self.latest)
        if self.fits(now, amount):
            return 0
        if amount <= self.limit - self.used:  # only open reservations stand in the way
            return SOON_US
        if amount > self.limit:
            return -1
        return self.reset_us(now)

    cpdef bint idle(self, long long now) noexcept:
        """Tell whether it holds nothing that the store does not know."""
        return self.reserved == 0


cdef enum:
    SHARED_BUCKET = 2  # the kind of a token bucket, as tick.lua numbers them


@cython.final
cdef class Shared(Meter):
    def __init__(
        self,
        key,
        int kind,
        int metric,
        long long limit,
        long long window_us=0,
        long long burst=0,
        bint hard=True,
        str period="",
    ):
        self.key = key
        self.kind = kind
        self.metric = metric
        self.limit = limit
        self.window_us = window_us
        self.burst = burst
        self.hard = hard
        self.period = period
        self.left = self.most()

    cdef long long most(self) noexcept:
        """Give the most that can be had at once."""
        return self.burst if self.kind == SHARED_BUCKET else self.limit

    cpdef void hear(self, long long now, long long left, long long reset) noexcept:
        """Note what is left, and how long until all of it is there again; -1: never."""
        self.latest = now
        self.left = left
        self.reset_at = -1 if reset < 0 else now + reset

    cpdef long long remaining(self, long long now) noexcept:
        """Give how much was left."""
        return self.left

    cpdef long long reset_us(self, long long now) noexcept:
        """Give how long until all of it is there again; -1: never."""
        return -1 if self.reset_at < 0 else later(self.reset_at - now, 0)

    cpdef long long retry_us(self, long long now, long long amount) noexcept:
        """Give how long until `amount` fits, by what was last heard; 0: it does, -1: never."""
        return 0 if amount <= self.left or not self.hard else self.reset_us(now)

    cpdef bint idle(self, long long now) noexcept:
        """Tell whether it holds nothing: what is kept elsewhere stays there."""
        return self.escrow == 0


cdef inline Meter meter_at(tuple meters, Py_ssize_t index):
    return <Meter>PyTuple_GET_ITEM(meters, index)


cdef inline long long share(
    int metric, long long requests, long long tokens, long long slots, long long nano
) noexcept:
    """Give which of the amounts a metric counts."""
    if metric == REQUESTS:
        return requests
    if metric == TOKENS:
        return tokens
    return nano if metric == MONEY else slots


@cython.final
cdef class Guard:
    def __init__(self, tuple meters not None):
        cdef Meter meter
        self.meters = tuple(dict.fromkeys(meters))  # one that stands twice would be asked once
        self.count = len(self.meters)
        for meter in self.meters:
            if meter.metric == TOKENS:
                self.wants_tokens = True
            elif meter.metric == MONEY:
                self.wants_money = True

    cdef long long latest(self, long long now) noexcept:
        cdef Py_ssize_t index
        for index in range(self.count):
            now = later(now, meter_at(self.meters, index).latest)
        return now

    cpdef Reservation reserve(self, long long now, long long tokens, long long nano):
        """Take from every meter, or from none: then the answer is None and nothing has changed."""
        cdef Py_ssize_t index
        cdef Meter meter
        cdef Reservation held
        tokens = later(tokens, 0)
        nano = later(nano, 0)
        now = self.latest(now)
        for index in range(self.count):
            meter = meter_at(self.meters, index)
            if not meter.fits(now, share(meter.metric, 1, tokens, 1, nano)):
                return None
        held = Reservation.__new__(Reservation)
        held.guard = self
        held.at_us = now
        held.tokens = tokens
        held.nano = nano
        for index in range(self.count):
            meter = meter_at(self.meters, index)
            meter.take(now, share(meter.metric, 1, tokens, 1, nano))
        held.open = True
        return held

    cpdef Reservation admit(self, str id, long long at, long long tokens, long long nano):
        """Give the reservation that the keeper of the meters has made under this id."""
        cdef Reservation held = Reservation.__new__(Reservation)
        held.guard = self
        held.id = id
        held.at_us = at
        held.tokens = later(tokens, 0)
        held.nano = later(nano, 0)
        held.open = True
        return held

    cpdef tuple refusal(self, long long now, long long tokens, long long nano):
        """Give the meter that stands in the way the longest, and for how long; -1: for ever.

        (None, 0) when nothing does.
        """
        cdef Py_ssize_t index
        cdef long long wait, longest = 0
        cdef Meter meter, worst = None
        now = self.latest(now)
        for index in range(self.count):
            meter = meter_at(self.meters, index)
            wait = meter.retry_us(
                now, share(meter.metric, 1, later(tokens, 0), 1, later(nano, 0))
            )
            if wait == 0 or longest == -1:
                continue
            if wait == -1 or wait > longest:
                worst = meter
                longest = wait
        return worst, longest

    cpdef bytes fields(self, long long now):
        """Give the x-ratelimit header lines, b"" when there is nothing to tell.

        Of several meters of a metric `limit` is the least that one can give, `remaining` the least
        that is left, `reset` when `limit` fits everywhere. So who is alone, sends no more than
        `remaining` and waits for `reset` when that is too little, is never refused.
        """
        cdef char lines[512]
        cdef Py_ssize_t size = 0
        cdef int metric
        cdef Py_ssize_t index
        cdef long long most, left
        cdef Meter meter
        now = self.latest(now)
        for metric in range(2):
            most = left = FOREVER
            for index in range(self.count):
                meter = meter_at(self.meters, index)
                if meter.metric == metric:
                    most = min(most, meter.most())
                    left = min(left, meter.remaining(now))
            if most < FOREVER:
                size += put_lines(
                    lines + size, metric, most, left, self.reset_us(metric, most, now)
                )
        return PyBytes_FromStringAndSize(lines, size) if size else b""

    cdef long long reset_us(self, int metric, long long amount, long long now) noexcept:
        """Give how long until an amount fits every meter of a metric; -1: never."""
        cdef Py_ssize_t index
        cdef long long wait, longest = 0
        cdef Meter meter
        if amount <= 0:
            return -1
        for index in range(self.count):
            meter = meter_at(self.meters, index)
            if meter.metric != metric:
                continue
            # All of a meter is found sooner from its newest end.
            wait = meter.reset_us(now) if meter.most() == amount else meter.retry_us(now, amount)
            if wait < 0:
                return -1
            longest = later(longest, wait)
        return longest

    cdef bint extend(self, Reservation held, long long now, long long tokens, long long nano):
        cdef Py_ssize_t index
        cdef Meter meter
        cdef bint taking
        now = self.latest(now)
        for taking in range(2):
            for index in range(self.count):
                meter = meter_at(self.meters, index)
                if meter.metric < TOKENS or meter.metric == CONCURRENT or held.lets_go(index):
                    continue
                amount = tokens if meter.metric == TOKENS else nano
                if taking:
                    meter.take_later(held.at_us, now, amount)
                elif not meter.fits_later(held.at_us, now, amount):
                    return False
        if held.later is None:
            held.later = []
        held.later.append((now, tokens))
        held.tokens += tokens
        held.nano += nano
        return True

    cdef void correct_tokens(
        self, Meter meter, Reservation held, long long now, long long used
    ) noexcept:
        """Correct what was taken at several times; what was not needed is what was taken last."""
        cdef long long at, tokens, part, before = held.tokens
        cdef Py_ssize_t index
        for index in range(len(held.later) - 1, -1, -1):
            at, tokens = held.later[index]
            before -= tokens
            part = min(later(used - before, 0), tokens)
            used -= part
            meter.correct(at, now, tokens, part)
        meter.correct(held.at_us, now, before, used)

    cdef void close(
        self, Reservation held, long long now, long long requests, long long tokens, long long nano
    ) noexcept:
        cdef Py_ssize_t index
        cdef Meter meter
        for index in range(self.count):
            if held.lets_go(index):
                continue
            meter = meter_at(self.meters, index)
            if meter.metric == TOKENS and held.later is not None:
                self.correct_tokens(meter, held, now, tokens)
                continue
            meter.correct(
                held.at_us,
                now,
                share(meter.metric, 1, held.tokens, 1, held.nano),
                share(meter.metric, requests, tokens, 0, nano),
            )


@cython.final
@cython.no_gc  # it holds a guard, and no guard or meter holds it: there is no cycle to find
@cython.freelist(256)
cdef class Reservation:
    def __init__(self):
        raise TypeError("a guard makes reservations")

    def __dealloc__(self):
        if self.open:  # nobody said what was used: what was reserved counts as used
            self.close(self.at_us, 1, self.tokens, self.nano)

    cdef void close(
        self, long long now, long long requests, long long tokens, long long nano
    ) noexcept:
        self.open = False
        if self.guard.keeper is None:
            self.guard.close(self, now, requests, tokens, nano)
        else:
            self.guard.keeper.close(
                self.guard, self.id, self.at_us, self.tokens, self.nano, requests, tokens, nano,
                self.forgone,
            )

    cdef bint lets_go(self, Py_ssize_t index) noexcept:
        return index < 64 and self.forgone >> index & 1

    cpdef bint extend(self, long long now, long long tokens, long long nano):
        """Take so much more from every meter of tokens and money, or from none: then it is False.

        Money counts in the period the reservation was made in, whenever it is extended.
        """
        if not self.open:
            return False
        return self.guard.extend(self, now, later(tokens, 0), later(nano, 0))

    cpdef void settle(self, long long now, long long tokens, long long nano) noexcept:
        """Say what was used. Once: what comes later does nothing."""
        if self.open:
            self.close(now, 1, later(tokens, 0), later(nano, 0))

    cpdef void release(self, long long now) noexcept:
        """Give everything back: nothing was used."""
        if self.open:
            self.close(now, 0, 0, 0)

    cpdef void forgo(self, Py_ssize_t index, long long now) noexcept:
        """Give back what was taken from one meter of the guard, which turned out not to apply."""
        cdef Meter meter
        if not self.open or not 0 <= index < min(self.guard.count, 64):
            return
        if self.forgone >> index & 1:
            return
        self.forgone |= <unsigned long long>1 << index
        if self.guard.keeper is not None:
            return  # it is told when the reservation is closed
        meter = meter_at(self.guard.meters, index)
        if meter.metric == TOKENS and self.later is not None:
            self.guard.correct_tokens(meter, self, now, 0)
            return
        meter.correct(self.at_us, now, share(meter.metric, 1, self.tokens, 1, self.nano), 0)


# -- header lines -------------------------------------------------------------------------------

cdef const char *NAMES[2]
NAMES[0] = b"requests: "
NAMES[1] = b"tokens: "


cdef Py_ssize_t put_text(char *at, const char *text, Py_ssize_t size) noexcept nogil:
    memcpy(at, text, size)
    return size


cdef Py_ssize_t put_number(char *at, long long number) noexcept nogil:
    cdef char digits[20]
    cdef Py_ssize_t count = 0, index
    number = later(number, 0)
    while True:
        digits[count] = c'0' + <char>(number % 10)
        count += 1
        number //= 10
        if number == 0:
            break
    for index in range(count):
        at[index] = digits[count - 1 - index]
    return count


cdef Py_ssize_t put_duration(char *at, long long us) noexcept nogil:
    """Write a time as OpenAI does: 12ms, 1.5s, 6m0s; rounded up."""
    cdef long long ms = (us + 999) // 1000
    cdef long long seconds = ms // 1000
    cdef long long part = ms % 1000
    cdef Py_ssize_t size = 0
    cdef long long unit = 100
    if 0 < ms < 1000:
        size = put_number(at, ms)
        return size + put_text(at + size, b"ms", 2)
    if seconds >= 3600:
        size += put_number(at + size, seconds // 3600)
        size += put_text(at + size, b"h", 1)
    if seconds >= 60:
        size += put_number(at + size, seconds // 60 % 60)
        size += put_text(at + size, b"m", 1)
    size += put_number(at + size, seconds % 60)
    if part:
        size += put_text(at + size, b".", 1)
        while part:
            at[size] = c'0' + <char>(part // unit)
            size += 1
            part %= unit
            unit //= 10
    return size + put_text(at + size, b"s", 1)


cdef Py_ssize_t put_lines(
    char *at, int name, long long limit, long long left, long long reset
) noexcept nogil:
    cdef Py_ssize_t length = 10 if name == 0 else 8
    cdef Py_ssize_t size = 0
    size += put_text(at + size, b"x-ratelimit-limit-", 18)
    size += put_text(at + size, NAMES[name], length)
    size += put_number(at + size, limit)
    size += put_text(at + size, b"\r\nx-ratelimit-remaining-", 24)
    size += put_text(at + size, NAMES[name], length)
    size += put_number(at + size, left)
    if reset >= 0:
        size += put_text(at + size, b"\r\nx-ratelimit-reset-", 20)
        size += put_text(at + size, NAMES[name], length)
        size += put_duration(at + size, reset)
    return size + put_text(at + size, b"\r\n", 2)


# -- amounts ------------------------------------------------------------------------------------

cdef long long CLASSES[LENGTHS]  # upper ends of the classes of lengths: 16 to 880,000


cdef int fill_classes() except -1:
    cdef int index
    for index, tokens in enumerate(length_classes()):
        CLASSES[index] = tokens
    return 0


fill_classes()


@cython.final
cdef class Lengths:
    def __cinit__(self):
        memset(self.counts, 0, sizeof(self.counts))
        self.slice = SLICE

    cpdef void observe(self, long long tokens) noexcept:
        """Learn from one answer; the slice is what 99 of 100 do not exceed."""
        cdef int index = 0
        cdef unsigned int above = 0
        if tokens < 1:
            return
        while index < LENGTHS - 1 and CLASSES[index] < tokens:
            index += 1
        self.counts[index] += 1
        self.total += 1
        if self.total > MOST_ANSWERS:
            self.total = 0
            for index in range(LENGTHS):
                self.counts[index] //= 2
                self.total += self.counts[index]
        if self.total < LEAST_ANSWERS:
            return
        index = LENGTHS - 1
        while above + self.counts[index] <= self.total // 100:
            above += self.counts[index]
            index -= 1
        self.slice = min(later(CLASSES[index], SHORTEST_SLICE), LONGEST_SLICE)


cdef inline long long many(long long tokens, long long choices) noexcept:
    return min(tokens, 1 << 40) * min(later(choices, 1), 1 << 16)


@cython.final
cdef class Tariff:
    def __init__(
        self,
        Family family not None,
        long long input_pico=0,
        long long output_pico=0,
        long long request_pico=0,
        long long max_output=-1,
        Family answers=None,
        Lengths lengths=None,
        tuple tiers=(),
    ):
        cdef int step
        if len(tiers) >= STEPS:
            raise ValueError("seven tiers at most")
        self.family = family
        self.answers = answers if answers is not None else Family()
        self.lengths = lengths if lengths is not None else Lengths()
        self.input_pico = input_pico
        self.output_pico = output_pico
        self.request_pico = request_pico
        self.max_output = max_output
        self.steps = 1 + len(tiers)
        tiers = ((0, input_pico, output_pico), *tiers)
        for step, (above, dearer_in, dearer_out) in enumerate(tiers):
            self.above[step] = above
            self.input_at[step] = dearer_in
            self.output_at[step] = dearer_out

    cdef int step_of(self, long long prompt) noexcept:
        """Give which prices a prompt of so many tokens has."""
        cdef int step = self.steps - 1
        while step > 0 and prompt <= self.above[step]:
            step -= 1
        return step

    cdef long long most_output(self, long long most) noexcept:
        """Give the longest one answer can get, -1 when nobody knows."""
        if most >= 0 and self.max_output >= 0:
            return min(most, self.max_output)
        return later(most, self.max_output)

    cpdef long long reserved_output(self, long long most, long long choices, bint stream) noexcept:
        """Give the tokens of all answers that are reserved at first."""
        cdef long long output = self.most_output(most)
        if stream:
            output = min(output, self.lengths.slice) if output >= 0 else self.lengths.slice
        elif output < 0:
            output = UNKNOWN_CEILING
        return many(output, choices)

    cdef Amounts bound(
        self,
        long long estimated,
        long long beside,
        long long size,
        long long most,
        long long choices,
        bint stream,
    ) noexcept:
        cdef long long prompt = min(self.family.correct(estimated), later(size, estimated))
        cdef long long output = self.reserved_output(most, choices, stream)
        cdef Amounts amounts
        cdef int step
        prompt += min(later(beside, 0), 1 << 40)
        step = self.step_of(prompt)
        amounts.tokens = prompt + output
        amounts.nano = nano_of(
            prompt, self.input_at[step], output, self.output_at[step], self.request_pico
        )
        return amounts

    def amounts(
        self,
        long long estimated,
        long long beside,
        long long size,
        long long most,
        long long choices,
        bint stream,
    ):
        """Give (tokens, nano-dollars) to reserve for a request; of a stream its first slice.

        `estimated` is the estimator's count of the prompt, `beside` the most its pictures and the
        like may count, `size` the body's bytes, `most` the maximum the client asked for or -1,
        `choices` how many answers it wants.
        """
        cdef Amounts amounts = self.bound(estimated, beside, size, most, choices, stream)
        return amounts.tokens, amounts.nano

    cpdef void learn_answer(
        self, long long counted, long long output, long long reasoning, long long choices
    ) noexcept:
        """Learn from a stream: what was counted as it passed, what the provider reported."""
        cdef long long shown = output - reasoning
        self.lengths.observe(output // later(choices, 1))
        # Reasoning may have passed or not: the count says which.
        if abs(shown - counted) > abs(output - counted):
            shown = output
        self.answers.observe(counted, shown)


@cython.final
@cython.no_gc  # it holds a reservation and a tariff, which hold no such thing
cdef class Slices:
    def __init__(
        self,
        Reservation held not None,
        Tariff tariff not None,
        long long most,
        long long choices,
    ):
        self.held = held
        self.tariff = tariff
        self.choices = min(later(choices, 1), 1 << 16)
        self.most = tariff.most_output(most)
        if self.most >= 0:
            self.most = many(self.most, choices)
        self.covered = tariff.reserved_output(most, choices, True)
        self.output_pico = tariff.output_at[tariff.step_of(held.tokens - self.covered)]
        self.draw_line()

    cdef long long reach(self, long long tokens) noexcept:
        """Give how many tokens the tap may count before there can be so many."""
        return (later(tokens, 0) << 20) // self.tariff.answers.correct(1 << 20)

    cdef void draw_line(self) noexcept:
        if self.most >= 0 and self.covered >= self.most:
            self.line = FOREVER  # the provider was told, or cannot
        else:
            self.line = self.reach(self.covered - min(MARGIN * self.choices, self.covered // 4))

    cpdef void heard(self, bint room) noexcept:
        """Take the answer of who keeps the meters."""
        if room:
            self.covered += self.asked
            self.draw_line()
        self.asked = 0

    cpdef bint go_on(self, long long now, long long delivered):
        """Tell whether a stream may go on of which so much has passed, as the tap counts it.

        At the line another slice is reserved. Without room for one, or while others are asked for
        it, the stream goes on to the end of what it has, and it is tried again on the way; False:
        it has come there.
        """
        cdef long long more, left
        while delivered >= self.line:
            more = many(self.tariff.lengths.slice, self.choices)
            if self.most >= 0:
                more = min(more, self.most - self.covered)
            if self.held.guard.keeper is not None:
                if self.asked == 0:
                    self.asked = more
                    self.held.guard.keeper.extend(
                        self.held, more, nano_of(0, 0, more, self.output_pico, 0), self.heard
                    )
            elif self.held.extend(now, more, nano_of(0, 0, more, self.output_pico, 0)):
                self.covered += more
                self.draw_line()
                continue
            left = self.reach(self.covered - LAST * self.choices) - delivered
            if left <= 0:
                self.cut = True
                return False
            self.line = delivered + (left + 1) // 2
        return True
