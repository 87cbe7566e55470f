"""Whole prices: tiers, classes of service and further lines, from the fields files publish."""

from __future__ import annotations

import pytest

from fastgw import catalog
from fastgw.catalog.cost import cost, dearest_input, dearest_output, in_service, price_lines
from fastgw.catalog.prices import whole, whole_of
from fastgw.domain import Price, Usage

PLAIN = Price(input=10, output=20, cached=1)


def test_lines_tiers_and_services_are_found():
    """A line, then perhaps a tier, then perhaps a service; what is not named stays as it is."""
    price = whole(
        PLAIN,
        {
            "cache_creation_input_token_cost_above_1hr": 16,
            "input_cost_per_audio_token": 70,
            "output_cost_per_image_token": 90,
            "input_cost_per_token_above_200k_tokens": 15,
            "output_cost_per_token_above_272k_tokens": 33,
            "input_cost_per_token_batches": 5,
            "output_cost_per_token_batches": 8,
            "input_cost_per_token_above_200k_tokens_batches": 7,
            "cache_read_input_token_cost_flex": 2,
            "input_cost_per_image": 1_000,
            "search_context_cost_per_query.search_context_size_high": 5,
        },
    )
    assert (price.input, price.output, price.cached) == (10, 20, 1)
    assert (price.cache_write_1h, price.audio_input, price.image_output) == (16, 70, 90)
    assert [above for above, _ in price.tiers] == [200_000, 272_000]
    assert price.tiers[0][1].input == 15
    assert (price.tiers[1][1].input, price.tiers[1][1].output) == (10, 33)
    batch, flex = in_service(price, "batch"), in_service(price, "flex")
    assert (batch.input, batch.output, batch.cached) == (5, 8, 1)
    assert (batch.tiers[0][1].input, batch.tiers[0][1].output) == (7, 8)
    assert (flex.input, flex.cached) == (10, 2)
    assert in_service(price, "priority") is price
    assert in_service(None, "flex") is None


def test_ranges_of_the_other_spelling_are_tiers():
    """`tiered_pricing.LOW-HIGH.LINE`: above its low end, for the whole request."""
    price = whole(PLAIN, {"tiered_pricing.32000-128000.input_cost_per_token": 12})
    assert price.tiers == ((32_000, Price(input=12, output=20, cached=1)),)
    assert whole(PLAIN, {"tiered_pricing.0-32000.input_cost_per_token": 12}).tiers == ()


def test_a_published_zero_is_no_price_where_it_would_be_a_gift():
    """Cache writes and reasoning are never free beside what costs."""
    assert whole(PLAIN, {"cache_creation_input_token_cost_above_1hr": 0}).cache_write_1h is None
    assert whole(PLAIN, {"input_cost_per_token_flex": 0}).services[0][1].input == 0
    assert whole(None, {"input_cost_per_token_flex": 1}) is None
    assert whole_of(PLAIN, "{}") == PLAIN


@pytest.mark.parametrize(("tokens", "nano"), [(200_000, 2_000), (200_001, 3_000), (272_001, 4_000)])
def test_a_tier_begins_above_its_number(tokens, nano):
    """200,000 tokens are not above 200k."""
    price = whole(Price(input=10), {"input_cost_per_token_above_200k_tokens": 15})
    assert cost(Usage(input_tokens=tokens), price) // 1000 * 1000 == nano


def test_the_bundled_catalogue_gives_whole_prices():
    """Every model's extra fields make a price that compiled code has room for."""
    tiers = services = 0
    for facts in catalog.load().models.values():
        price = whole(facts.price, facts.extra)
        if price is None:
            continue
        tiers += bool(price.tiers)
        services += bool(price.services)
        for each in (price, *(inner for _, inner in price.services)):
            lines = price_lines(each)
            assert len(lines) <= 8
            assert all(0 <= amount < 2**63 for line in lines for amount in line)
            assert dearest_input(each) >= each.input
            assert dearest_output(each) >= each.output
    assert tiers > 200
    assert services > 400
