"""What an exchange costs: integers only, rounded half up to nano-dollars once a price line."""

from __future__ import annotations

from fastgw._ext import usage as counted
from fastgw.domain import Price, Usage


def cost(usage: Usage, price: Price) -> int:
    """Give the cost in nano-dollars, never negative.

    Parts are clamped to their whole (cached and cache writes to input, reasoning to output), so
    that a report that contradicts itself never credits anybody.
    """
    return counted.cost(
        (
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
        ),
        price_lines(price),
    )


def price_lines(price: Price) -> tuple[int, int, int, int, int, int]:
    """Give a price as (input, output, cached, cache_write, reasoning, per_request), all known."""
    return (
        price.input,
        price.output,
        price.input if price.cached is None else price.cached,
        price.input if price.cache_write is None else price.cache_write,
        price.output if price.reasoning is None else price.reasoning,
        price.per_request,
    )
