"""What an exchange costs, against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.catalog.cost import cost
from fastgw.domain import Price, Usage

MOST = 2**63 - 1
COUNT = st.integers(0, 10**9)
PICO = st.integers(0, 10**9)
PRICES = st.builds(
    Price,
    input=PICO,
    output=PICO,
    cached=st.none() | PICO,
    cache_write=st.none() | PICO,
    reasoning=st.none() | PICO,
    per_request=PICO,
)
ANY_USAGE = st.builds(
    Usage,
    **dict.fromkeys(Usage.__struct_fields__, st.integers(-(10**6), 2**70)),
)


@st.composite
def consistent(draw):
    cached, written, plain = draw(COUNT), draw(COUNT), draw(COUNT)
    reasoning, said = draw(COUNT), draw(COUNT)
    return Usage(
        input_tokens=cached + written + plain,
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=reasoning + said,
        reasoning_tokens=reasoning,
    )


def half_up(amount: Fraction) -> int:
    whole, rest = divmod(amount.numerator, amount.denominator)
    return whole + (2 * rest >= amount.denominator)


@given(consistent(), PRICES)
def test_each_line_is_rounded_half_up_once(usage, price):
    """The cost is the sum of exact price lines, each rounded half up to a nano-dollar."""
    lines = [
        (
            usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens,
            price.input,
        ),
        (usage.cached_tokens, price.input if price.cached is None else price.cached),
        (usage.cache_write_tokens, price.input if price.cache_write is None else price.cache_write),
        (usage.output_tokens - usage.reasoning_tokens, price.output),
        (usage.reasoning_tokens, price.output if price.reasoning is None else price.reasoning),
        (1, price.per_request),
    ]
    assert cost(usage, price) == sum(half_up(Fraction(n * pico, 1000)) for n, pico in lines)


@given(ANY_USAGE, PRICES)
def test_no_report_credits_or_overflows(usage, price):
    """Negative, contradictory and absurd reports cost something between nothing and the most."""
    assert price.per_request // 1000 <= cost(usage, price) <= MOST


@given(ANY_USAGE, PRICES, st.sampled_from(["cached_tokens", "cache_write_tokens"]), COUNT)
def test_parts_never_cost_more_than_their_whole_at_the_dearest_line(usage, price, part, more):
    """Claiming more cached tokens than there is input bills the input once, not twice."""
    import msgspec

    usage = msgspec.structs.replace(usage, **{part: getattr(usage, part) + more})
    dearest_in = max(price.input, price.cached or 0, price.cache_write or 0)
    dearest_out = max(price.output, price.reasoning or 0)
    ceiling = (
        max(usage.input_tokens, 0) * dearest_in
        + max(usage.output_tokens, 0) * dearest_out
        + price.per_request
    )
    assert cost(usage, price) <= ceiling // 1000 + 6


@pytest.mark.parametrize(
    ("usage", "price", "nano"),
    [
        (Usage(input_tokens=1), Price(input=499), 0),
        (Usage(input_tokens=1), Price(input=500), 1),
        (Usage(input_tokens=1, output_tokens=1), Price(input=500, output=500), 2),
        (Usage(input_tokens=1000, cached_tokens=2000), Price(input=2_500_000, cached=0), 0),
        (Usage(input_tokens=-5, output_tokens=-5), Price(input=10**6, output=10**6), 0),
        (Usage(input_tokens=10), Price(input=-(10**6), output=-1, per_request=-1), 0),
        (Usage(input_tokens=2**200), Price(input=10**9), MOST),
        (
            Usage(input_tokens=1200, output_tokens=300, cached_tokens=200),
            Price(input=2_500_000, output=10_000_000, cached=1_250_000),
            2_500_000 + 250_000 + 3_000_000,
        ),
    ],
)
def test_worked_examples(usage, price, nano):
    """A few sums done by hand."""
    assert cost(usage, price) == nano
