"""Types of the compiled limits and budgets. Times are epoch microseconds that never run back."""

from typing import Any

from fastgw._ext._estimate import Family

def now_us() -> int:
    """Give the time as epoch microseconds that never run back.

    The wall clock as it was at import, carried on by the time since boot: setting the clock moves
    no window, and a machine that slept wakes up in the right period.
    """

class Meter:
    """What one limit or budget counts for one match."""

    @property
    def metric(self) -> int:
        """0 requests, 1 tokens, 2 concurrent, 3 money."""

    @property
    def latest(self) -> int:
        """When it was last asked."""

    rule: Any
    value: str
    limit: int
    def remaining(self, now: int, /) -> int:
        """Give how much is left."""

    def reset_us(self, now: int, /) -> int:
        """Give how long until all of it is there again; -1: never."""

    def retry_us(self, now: int, amount: int, /) -> int:
        """Give how long until `amount` fits; 0: it does, -1: never."""

    def idle(self, now: int, /) -> bool:
        """Tell whether it holds nothing that a new meter would not know."""

class Window(Meter):
    """A sliding window: a ring of cells, the oldest of which leaves as a whole."""

    def __init__(self, limit: int, window_us: int, metric: str = "requests") -> None: ...
    @property
    def window_us(self) -> int:
        """Its length."""

class Bucket(Meter):
    """A token bucket: what was taken drains at a steady rate (GCRA)."""

    burst: int
    def __init__(
        self, rate_per_window: int, window_us: int, burst: int, metric: str = "requests"
    ) -> None: ...
    @property
    def window_us(self) -> int:
        """How long it takes to drain `limit`."""

class Slots(Meter):
    """Exchanges at the same time."""

    def __init__(self, limit: int) -> None: ...
    @property
    def taken(self) -> int:
        """How many there are."""

class Budget(Meter):
    """Spend in a calendar period, in nano-dollars."""

    hard: bool
    loaded: bool
    spent: int
    def __init__(self, limit_nano: int, period: str, hard: bool = True) -> None: ...
    @property
    def period(self) -> str:
        """One of day, week, month, total; UTC, and a week begins on Monday."""

    @property
    def reserved(self) -> int:
        """What open reservations hold."""

    @property
    def spent_before(self) -> int:
        """What was settled in the period before, late settlements included."""

    def starts_us(self, now: int, /) -> int:
        """Give when the period began, in epoch microseconds."""

class Shared(Meter):
    """A meter that is kept elsewhere, for many workers: what was last heard of it."""

    key: Any
    kind: int
    window_us: int
    burst: int
    period: str
    hard: bool
    loaded: bool
    spent: int
    left: int
    reset_at: int
    """-1: never."""
    escrow: int
    """What this worker may spend without asking."""
    wish: int
    """What it would like to have of that."""

    def hear(self, now: int, left: int, reset: int, /) -> None:
        """Note what is left, and how long until all of it is there again; -1: never."""

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
    ) -> None: ...

class Guard:
    """Every meter that applies to one kind of request, reserved from in one step."""

    def __init__(self, meters: tuple[Meter, ...], /) -> None: ...
    @property
    def meters(self) -> tuple[Meter, ...]:
        """The meters, each once."""

    @property
    def wants_tokens(self) -> bool:
        """Whether one of them counts tokens."""

    @property
    def wants_money(self) -> bool:
        """Whether one of them is a budget."""

    keeper: Any
    """Who keeps its meters; None: they are kept here."""

    def admit(self, name: str, at: int, tokens: int, nano: int, /) -> Reservation:
        """Give the reservation that the keeper of the meters has made under this id."""

    def reserve(self, now: int, tokens: int, nano: int, /) -> Reservation | None:
        """Take from every meter, or from none: then the answer is None and nothing has changed."""

    def refusal(self, now: int, tokens: int, nano: int, /) -> tuple[Meter | None, int]:
        """Give the meter that stands in the way the longest, and for how long; -1: for ever.

        (None, 0) when nothing does.
        """

    def fields(self, now: int, /) -> bytes:
        """Give the x-ratelimit header lines, b"" when there is nothing to tell.

        Of several meters of a metric `limit` is the least that one can give, `remaining` the least
        that is left, `reset` when `limit` fits everywhere. So who is alone, sends no more than
        `remaining` and waits for `reset` when that is too little, is never refused.
        """

class Reservation:
    """What one exchange holds until it is settled or released, once."""

    @property
    def guard(self) -> Guard:
        """Who gave it."""

    @property
    def at_us(self) -> int:
        """When it was made."""

    @property
    def id(self) -> str | None:
        """Where it is kept by others, else None."""

    tokens: int
    """Tokens it holds."""
    nano: int
    """Nano-dollars it holds."""

    @property
    def open(self) -> bool:
        """Whether it holds anything still."""

    def extend(self, now: int, tokens: int, nano: int, /) -> bool:
        """Take so much more from every meter of tokens and money, or from none: then it is False.

        Money counts in the period the reservation was made in, whenever it is extended.
        """

    def settle(self, now: int, tokens: int, nano: int, /) -> None:
        """Say what was used. Once: what comes later does nothing."""

    def release(self, now: int, /) -> None:
        """Give everything back: nothing was used."""

    def forgo(self, index: int, now: int, /) -> None:
        """Give back what was taken from one meter of the guard, which turned out not to apply."""

class Lengths:
    """How long a model's answers are, learnt from what providers report."""

    def __init__(self) -> None: ...
    @property
    def slice(self) -> int:
        """Tokens that 99 of 100 answers do not exceed."""

    def observe(self, tokens: int, /) -> None:
        """Learn from one answer."""

class Tariff:
    """What a request to one model may use at most, and what that may cost."""

    @property
    def family(self) -> Family:
        """Corrects the estimates of prompts."""

    @property
    def answers(self) -> Family:
        """Corrects what is counted of answers as they pass."""

    @property
    def lengths(self) -> Lengths:
        """Says how much of an answer is reserved at a time."""

    @property
    def input_pico(self) -> int:
        """Pico-dollars a token of the prompt."""

    @property
    def output_pico(self) -> int:
        """Pico-dollars a token of the answer."""

    @property
    def request_pico(self) -> int:
        """Pico-dollars a request."""

    @property
    def max_output(self) -> int:
        """The longest answer in tokens, -1 when it is not known."""

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
        """`tiers`: what input and output cost of prompts above so many tokens, in rising order."""

    def amounts(
        self, estimated: int, beside: int, size: int, most: int, choices: int, stream: bool, /
    ) -> tuple[int, int]:
        """Give (tokens, nano-dollars) to reserve for a request; of a stream its first slice.

        `estimated` is the estimator's count of the prompt, `beside` the most its pictures and the
        like may count, `size` the body's bytes, `most` the maximum the client asked for or -1,
        `choices` how many answers it wants.
        """

    def reserved_output(self, most: int, choices: int, stream: bool) -> int:
        """Give the tokens of all answers that are reserved at first."""

    def learn_answer(self, counted: int, output: int, reasoning: int, choices: int, /) -> None:
        """Learn from a stream: what was counted as it passed, what the provider reported."""

class Slices:
    """How far what a stream has reserved reaches, and more of it before it is used up."""

    def __init__(self, held: Reservation, tariff: Tariff, most: int, choices: int) -> None: ...
    @property
    def held(self) -> Reservation:
        """What is extended."""

    @property
    def tariff(self) -> Tariff:
        """What it costs."""

    @property
    def choices(self) -> int:
        """How many answers it carries."""

    @property
    def covered(self) -> int:
        """Tokens of the answer that are reserved."""

    @property
    def line(self) -> int:
        """Tokens the tap may count before more must be reserved."""

    @property
    def cut(self) -> bool:
        """Whether the stream had to end for want of room."""

    def go_on(self, now: int, delivered: int, /) -> bool:
        """Tell whether a stream may go on of which so much has passed, as the tap counts it.

        At the line another slice is reserved. Without room for one the stream goes on to the end
        of what it has, and is asked again on the way; False: it has come there.
        """
