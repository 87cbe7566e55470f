"""What an exchange costs: integers only, rounded half up to nano-dollars once a price line."""

from __future__ import annotations

from fastgw.domain import PICO, Price, Usage

PICO_IN_NANO = PICO // 10**9
MOST = 2**63 - 1
"""Nano-dollars a database column holds; an absurd report saturates rather than lose a record."""


def cost(usage: Usage, price: Price) -> int:
    """Give the cost in nano-dollars, never negative.

    Parts are clamped to their whole (cached and cache writes to input, reasoning to output), so
    that a report that contradicts itself never credits anybody.
    """
    whole_in, whole_out = max(usage.input_tokens, 0), max(usage.output_tokens, 0)
    cached = min(max(usage.cached_tokens, 0), whole_in)
    written = min(max(usage.cache_write_tokens, 0), whole_in - cached)
    reasoning = min(max(usage.reasoning_tokens, 0), whole_out)
    total = (
        _line(whole_in - cached - written, price.input)
        + _line(cached, price.input if price.cached is None else price.cached)
        + _line(written, price.input if price.cache_write is None else price.cache_write)
        + _line(whole_out - reasoning, price.output)
        + _line(reasoning, price.output if price.reasoning is None else price.reasoning)
        + _line(1, price.per_request)
    )
    return min(total, MOST)


def _line(units: int, price: int) -> int:
    return (units * max(price, 0) + PICO_IN_NANO // 2) // PICO_IN_NANO
