"""Limits and budgets in memory, for compiled lanes: reserve and settle are plain C calls there.

Times are microseconds of `now_us()`, amounts whole numbers that are not negative.
"""

cimport cython

from fastgw._ext._estimate cimport Family

cdef extern from *:
    """
    /* A bucket's debt in units times microseconds: a day's window times a billion tokens is more
       than 64 bits hold. */
    typedef struct { __int128 value; } fgw_debt;

    static inline void
    fgw_drain(fgw_debt *debt, long long rate, long long elapsed)
    {
        __int128 drained = (__int128)rate * elapsed;
        debt->value = drained >= debt->value ? 0 : debt->value - drained;
    }

    static inline void
    fgw_charge(fgw_debt *debt, long long amount, long long window)
    {
        debt->value += (__int128)amount * window;
    }

    /* What of an amount taken `elapsed` ago has not drained yet: more than that must not come back,
       or the bucket would be emptier than if it had never been taken. */
    static inline void
    fgw_refund(fgw_debt *debt, long long amount, long long window, long long rate,
               long long elapsed)
    {
        __int128 left = (__int128)amount * window - (__int128)rate * elapsed;
        if (left > 0)
            debt->value = left >= debt->value ? 0 : debt->value - left;
    }

    static inline __int128
    fgw_excess(const fgw_debt *debt, long long amount, long long burst, long long window)
    {
        return debt->value + ((__int128)amount - burst) * window;
    }

    static inline int
    fgw_fits(const fgw_debt *debt, long long amount, long long burst, long long window)
    {
        return fgw_excess(debt, amount, burst, window) <= 0;
    }

    static inline long long
    fgw_room(const fgw_debt *debt, long long burst, long long window)
    {
        __int128 excess = fgw_excess(debt, 0, burst, window);
        return excess >= 0 ? 0 : (long long)(-excess / window);
    }

    /* Microseconds until `over` has drained, rounded up. */
    static inline long long
    fgw_wait(__int128 over, long long rate)
    {
        __int128 wait;
        if (over <= 0)
            return 0;
        if (rate <= 0)
            return -1;
        wait = (over + rate - 1) / rate;
        return wait > 0x3fffffffffffffffLL ? 0x3fffffffffffffffLL : (long long)wait;
    }

    static inline long long
    fgw_retry(const fgw_debt *debt, long long amount, long long burst, long long window,
              long long rate)
    {
        return fgw_wait(fgw_excess(debt, amount, burst, window), rate);
    }

    static inline long long
    fgw_empty(const fgw_debt *debt, long long rate)
    {
        return fgw_wait(debt->value, rate);
    }

    /* Pico-dollars of two price lines and a fee as nano-dollars, rounded up. */
    static inline long long
    fgw_nano(long long in, long long in_price, long long out, long long out_price, long long fee)
    {
        __int128 pico = (__int128)in * in_price + (__int128)out * out_price + fee;
        __int128 nano = (pico + 999) / 1000;
        return nano > 0x3fffffffffffffffLL ? 0x3fffffffffffffffLL : (long long)nano;
    }
    """
    ctypedef struct Debt "fgw_debt":
        pass
    void drain "fgw_drain"(Debt *debt, long long rate, long long elapsed) noexcept nogil
    void charge "fgw_charge"(Debt *debt, long long amount, long long window) noexcept nogil
    void refund "fgw_refund"(
        Debt *debt, long long amount, long long window, long long rate, long long elapsed
    ) noexcept nogil
    bint debt_fits "fgw_fits"(
        const Debt *debt, long long amount, long long burst, long long window
    ) noexcept nogil
    long long debt_room "fgw_room"(
        const Debt *debt, long long burst, long long window
    ) noexcept nogil
    long long debt_retry "fgw_retry"(
        const Debt *debt, long long amount, long long burst, long long window, long long rate
    ) noexcept nogil
    long long debt_empty "fgw_empty"(const Debt *debt, long long rate) noexcept nogil
    long long nano_of "fgw_nano"(
        long long in_, long long in_price, long long out, long long out_price, long long fee
    ) noexcept nogil

cdef enum:
    REQUESTS = 0
    TOKENS = 1
    CONCURRENT = 2
    MONEY = 3

    CELLS = 128


cpdef long long now_us() noexcept


cdef class Meter:
    """What one limit or budget counts for one match."""

    cdef readonly int metric
    cdef public object rule
    cdef public object value  # what it matched
    cdef public long long limit
    cdef readonly long long latest  # when it was last asked: time never runs back

    cdef bint fits(self, long long now, long long amount) noexcept
    cdef void take(self, long long now, long long amount) noexcept
    # `taken` at `at` turned out to be `used`.
    cdef void correct(
        self, long long at, long long now, long long taken, long long used
    ) noexcept
    # The same for what a reservation of `at` takes later.
    cdef bint fits_later(self, long long at, long long now, long long amount) noexcept
    cdef void take_later(self, long long at, long long now, long long amount) noexcept
    cpdef long long remaining(self, long long now) noexcept
    cpdef long long reset_us(self, long long now) noexcept
    cpdef long long retry_us(self, long long now, long long amount) noexcept
    cpdef bint idle(self, long long now) noexcept
    cdef long long most(self) noexcept


@cython.final
cdef class Window(Meter):
    """A sliding window: a ring of cells, the oldest of which leaves as a whole."""

    cdef readonly long long window_us
    cdef long long cell_us
    cdef long long total
    cdef long long tail  # the oldest cell that counts
    cdef long long tail_end  # when it leaves
    cdef long long cells[CELLS]

    cdef void advance(self, long long now) noexcept


@cython.final
cdef class Bucket(Meter):
    """A token bucket: what was taken drains at a steady rate (GCRA)."""

    cdef readonly long long window_us
    cdef public long long burst
    cdef Debt debt

    cdef void advance(self, long long now) noexcept


@cython.final
cdef class Slots(Meter):
    """Exchanges at the same time."""

    cdef readonly long long taken


@cython.final
cdef class Budget(Meter):
    """Spend in a calendar period, in nano-dollars."""

    cdef readonly str period
    cdef public bint hard
    cdef public bint loaded  # whether what was spent before is known
    cdef readonly long long reserved
    cdef readonly long long spent_before  # in the period before, late settlements included
    cdef long long used
    cdef long long reserved_before
    cdef long long start_before
    cdef int kind
    cdef long long start
    cdef long long end

    cpdef long long starts_us(self, long long now) noexcept
    cdef void roll(self, long long now) noexcept


@cython.final
cdef class Shared(Meter):
    """A meter that is kept elsewhere, for many workers: what was last heard of it."""

    cdef readonly object key
    cdef readonly int kind
    cdef readonly long long window_us
    cdef public long long burst
    cdef readonly str period
    cdef public bint hard
    cdef public bint loaded
    cdef public long long spent
    cdef readonly long long left
    cdef readonly long long reset_at  # -1: never
    cdef public long long escrow  # what this worker may spend without asking
    cdef public long long wish  # what it would like to have of that

    cpdef void hear(self, long long now, long long left, long long reset) noexcept


@cython.final
cdef class Guard:
    """Every meter that applies to one kind of request, reserved from in one step."""

    cdef readonly tuple meters
    cdef public object keeper  # who keeps its meters; None: they are kept here
    cdef Py_ssize_t count
    cdef readonly bint wants_tokens
    cdef readonly bint wants_money

    cpdef Reservation reserve(self, long long now, long long tokens, long long nano)
    cpdef Reservation admit(self, str id, long long at, long long tokens, long long nano)
    cpdef tuple refusal(self, long long now, long long tokens, long long nano)
    cpdef bytes fields(self, long long now)
    cdef long long latest(self, long long now) noexcept
    cdef long long reset_us(self, int metric, long long amount, long long now) noexcept
    cdef bint extend(self, Reservation held, long long now, long long tokens, long long nano)
    cdef void close(
        self, Reservation held, long long now, long long requests, long long tokens, long long nano
    ) noexcept
    cdef void correct_tokens(
        self, Meter meter, Reservation held, long long now, long long used
    ) noexcept


@cython.final
cdef class Reservation:
    """What one exchange holds until it is settled or released, once."""

    cdef readonly Guard guard
    cdef readonly str id  # where it is kept by others, else None
    cdef readonly long long at_us
    cdef public long long tokens
    cdef public long long nano
    cdef readonly bint open
    cdef unsigned long long forgone
    cdef list later  # (when, tokens) of each extension; None: there was none

    cdef void close(
        self, long long now, long long requests, long long tokens, long long nano
    ) noexcept
    cdef bint lets_go(self, Py_ssize_t index) noexcept
    cpdef bint extend(self, long long now, long long tokens, long long nano)
    cpdef void settle(self, long long now, long long tokens, long long nano) noexcept
    cpdef void release(self, long long now) noexcept
    cpdef void forgo(self, Py_ssize_t index, long long now) noexcept


cdef struct Amounts:
    long long tokens
    long long nano


cdef enum:
    LENGTHS = 64
    STEPS = 8


@cython.final
cdef class Lengths:
    """How long a model's answers are, learnt from what providers report."""

    cdef unsigned int counts[LENGTHS]
    cdef unsigned int total
    cdef readonly long long slice

    cpdef void observe(self, long long tokens) noexcept


@cython.final
cdef class Tariff:
    """What a request to one model may use at most, and what that may cost."""

    cdef readonly Family family
    cdef readonly Family answers
    cdef readonly Lengths lengths
    cdef readonly long long input_pico
    cdef readonly long long output_pico
    cdef readonly long long request_pico
    cdef readonly long long max_output
    # Prices of prompts above so many tokens, in rising order; the first hold for all others.
    cdef int steps
    cdef long long above[STEPS]
    cdef long long input_at[STEPS]
    cdef long long output_at[STEPS]

    cdef int step_of(self, long long prompt) noexcept
    cdef long long most_output(self, long long most) noexcept
    cpdef long long reserved_output(self, long long most, long long choices, bint stream) noexcept
    cdef Amounts bound(
        self,
        long long estimated,
        long long beside,
        long long size,
        long long most,
        long long choices,
        bint stream,
    ) noexcept
    cpdef void learn_answer(
        self, long long counted, long long output, long long reasoning, long long choices
    ) noexcept


@cython.final
cdef class Slices:
    """How far what a stream has reserved reaches, and more of it before it is used up."""

    cdef readonly Reservation held
    cdef readonly Tariff tariff
    cdef readonly long long covered
    cdef readonly long long line
    cdef readonly bint cut
    cdef long long most
    cdef long long output_pico
    cdef long long asked  # for so much more, and who keeps the meters has not answered
    cdef readonly long long choices

    cpdef void heard(self, bint room) noexcept
    cpdef bint go_on(self, long long now, long long delivered)
    cdef long long reach(self, long long tokens) noexcept
    cdef void draw_line(self) noexcept
