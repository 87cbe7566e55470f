"""What an exchange costs: integers only, rounded half up to nano-dollars once a price line."""

from __future__ import annotations

from fastgw._ext import usage as counted
from fastgw.domain import Price, Usage

Tier = tuple[int, int, int, int, int, int, int, int, int, int, int, int]


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
            usage.cache_write_1h_tokens,
            usage.audio_input_tokens,
            usage.image_input_tokens,
            usage.audio_output_tokens,
            usage.image_output_tokens,
        ),
        price_lines(price),
    )


def price_lines(price: Price) -> tuple[Tier, ...]:
    """Give a price a tier, all lines known, as `fastgw._ext.usage.cost` takes them."""
    return (_lines(0, price), *(_lines(above, tier) for above, tier in price.tiers))


def dearest_input(price: Price) -> int:
    """Give what a token of the input costs at most, tiers apart."""
    return max(_lines(0, price)[i] for i in (1, 3, 4, 6, 7, 8))


def dearest_output(price: Price) -> int:
    """Give what a token of the output costs at most, tiers apart."""
    return max(_lines(0, price)[i] for i in (2, 5, 9, 10))


def in_service(price: Price | None, service: str) -> Price | None:
    """Give the price in a class of service, which is the plain one where it has none of its own."""
    if price is None or not service:
        return price
    return dict(price.services).get(service, price)


def _lines(above: int, price: Price) -> Tier:
    write = _or(price.cache_write, price.input)
    return (
        above,
        price.input,
        price.output,
        _or(price.cached, price.input),
        write,
        _or(price.reasoning, price.output),
        _or(price.cache_write_1h, write),
        _or(price.audio_input, price.input),
        _or(price.image_input, price.input),
        _or(price.audio_output, price.output),
        _or(price.image_output, price.output),
        price.per_request,
    )


def _or(price: int | None, wider: int) -> int:
    return wider if price is None else price
