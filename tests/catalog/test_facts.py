"""Reading price files: what is right is exact, what is wrong is named, nothing is guessed."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.catalog.facts import CatalogError, pico, read
from fastgw.domain import Price


def entry(**fields):
    return {"litellm_provider": "openai", "mode": "chat"} | fields


def text(entries) -> bytes:
    return json.dumps(entries).encode()


def only(fields_text: str):
    """Read one entry given as JSON text, so that numbers stay as they are written."""
    reading = read(b'{"m":{"litellm_provider":"openai",' + fields_text.encode() + b"}}")
    assert reading.problems == ()
    return reading.models["openai", "m"], reading


def test_prices_are_the_digits_of_the_text():
    """A price is what stands in the file, not the nearest float; fifteen digits survive."""
    facts, reading = only(
        '"input_cost_per_token":1.5e-07,"output_cost_per_token":0.000000600000,'
        '"cache_read_input_token_cost":7.5E-8,"input_cost_per_token_batches":7.5e-8'
    )
    assert facts.price == Price(input=150_000, output=600_000, cached=75_000)
    assert facts.extra == {"input_cost_per_token_batches": 75_000}
    assert reading.rounded == 0


def test_a_fraction_of_a_picodollar_is_rounded_half_up_and_counted():
    """0.5 pico-dollars become 1; each rounded price is counted."""
    facts, reading = only('"input_cost_per_token":1.0000005e-6,"output_cost_per_token":1.4e-12')
    assert (facts.price.input, facts.price.output) == (1_000_001, 1)
    assert reading.rounded == 2


@given(st.decimals(0, 10_000, allow_nan=False, places=15))
def test_pico_against_fractions(value):
    """Rounding is half up on the exact value."""
    exact = Fraction(value) * 10**12
    whole, inexact = int(exact), exact.denominator != 1
    assert pico(value) == (whole + (exact - whole >= Fraction(1, 2)), not inexact)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"input_cost_per_token": "0.1"}, "input_cost_per_token is not a number"),
        ({"input_cost_per_token": True}, "input_cost_per_token is not a number"),
        ({"input_cost_per_token": -1e-6}, "between 0 and"),
        ({"input_cost_per_token": 10_001}, "between 0 and"),
        ({"search_context_cost_per_query": {"high": -1}}, "between 0 and"),
        ({"tiered_pricing": [{"input_cost_per_token": 1e-6}]}, "no range"),
        ({"tiered_pricing": ["x"]}, "not a list of tiers"),
        ({"tiered_pricing": [{"range": [0, {}], "input_cost_per_token": 0}]}, "no range"),
        ({"max_input_tokens": "many"}, "max_input_tokens is not a number of tokens"),
        ({"max_input_tokens": -1}, "not a number of tokens"),
        ({"max_input_tokens": 10**30}, "not a number of tokens"),
        ({"max_output_tokens": 1.5}, "not a number of tokens"),
        ({"max_output_tokens": [1]}, "not a number of tokens"),
        ({"deprecation_date": "soon"}, "not YYYY-MM-DD"),
        ({"deprecation_date": 20260101}, "not YYYY-MM-DD"),
        ({"mode": 7}, "mode is not a word"),
        ({"litellm_provider": None}, "litellm_provider"),
        ({"litellm_provider": "a\x1b[31m"}, "litellm_provider"),
    ],
)
def test_a_wrong_entry_is_named_and_takes_no_other_with_it(fields, reason):
    """The bad entry is skipped with its name and the field at fault; its neighbour is read."""
    reading = read(text({"bad": entry(**fields), "good": entry(input_cost_per_token=1e-6)}))
    assert [problem.name for problem in reading.problems] == ["bad"]
    assert reason in reading.problems[0].reason
    assert set(reading.models) == {("openai", "good")}


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x00", "x" * 301, "tab\t", "\u202egpt"])
def test_an_unprintable_name_is_refused(name):
    """A name that could garble a terminal or a log is no model name."""
    reading = read(text({name: entry()}))
    assert [problem.name for problem in reading.problems] == [name]
    assert reading.models == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'"x"',
        b"<html>",
        b'{"a":{"x":NaN}}',
        b"\xff\xfe",
        b'{"a":' * 5000,
        b'{"a":{"litellm_provider":"openai","input_cost_per_token":1e-99999999999999999999}}',
    ],
)
def test_a_text_that_is_no_price_file_is_refused_as_a_whole(content):
    """Anything but a JSON object is one clear error."""
    with pytest.raises(CatalogError):
        read(content)


@pytest.mark.parametrize("number", ["1e400", "1e-400", "0e999999", "1" * 400, "0." + "3" * 3000])
def test_absurd_numbers_are_judged_quickly(number):
    """Numbers beyond any price neither hang the reader nor slip through as something else."""
    reading = read(
        b'{"m":{"litellm_provider":"x","input_cost_per_token":' + number.encode() + b"}}"
    )
    big = Decimal(number) > 10_000
    assert len(reading.problems) == big
    assert len(reading.models) == (not big)


def test_provider_names_and_prefixes_become_ours():
    """Type and upstream name as the providers know them; unknown providers keep their name."""
    reading = read(
        text(
            {
                "gpt-4o": entry(),
                "azure/eu/gpt-4o": entry(litellm_provider="azure"),
                "groq/llama-3": entry(litellm_provider="groq"),
                "vertex_ai/claude-x@1": entry(litellm_provider="vertex_ai-anthropic_models"),
                "gemini-pro": entry(litellm_provider="vertex_ai-language-models"),
                "gemini/gemini-pro": entry(litellm_provider="gemini"),
                "us.anthropic.x-v1:0": entry(litellm_provider="bedrock_converse"),
                "bedrock/us-east-1/anthropic.x": entry(litellm_provider="bedrock"),
                "command-r": entry(litellm_provider="cohere_chat"),
                "newcomer/m/1": entry(litellm_provider="newcomer"),
                "sample_spec": {"mode": "one of"},
            }
        )
    )
    assert set(reading.models) == {
        ("openai", "gpt-4o"),
        ("azure", "eu/gpt-4o"),
        ("groq", "llama-3"),
        ("vertex", "claude-x@1"),
        ("vertex", "gemini-pro"),
        ("gemini", "gemini-pro"),
        ("bedrock", "us.anthropic.x-v1:0"),
        ("bedrock", "us-east-1/anthropic.x"),
        ("cohere", "command-r"),
        ("newcomer", "m/1"),
    }
    assert reading.problems == ()


@given(
    st.dictionaries(
        st.sampled_from(["m", "openai/m", "openai/openai/m", "text/m", "azure/m", "openai/"]),
        st.sampled_from(["openai", "text-completion-openai", "azure", "azure_text"]),
        min_size=1,
    )
)
def test_no_row_is_lost_to_a_duplicate(entries):
    """Every entry is a model of its own or named as a problem, whatever the prefixes."""
    reading = read(text({name: entry(litellm_provider=p) for name, p in entries.items()}))
    assert len(reading.models) + len(reading.problems) == len(entries)
    assert all((facts.provider, facts.name) == key for key, facts in reading.models.items())


def test_who_needs_no_prefix_has_the_short_name():
    """Of `openai/m` and `m` the plain one is `m`, whichever comes first in the file."""
    reading = read(
        text({"openai/m": entry(max_input_tokens=1), "m": entry(max_input_tokens=2)}),
    )
    assert reading.models["openai", "m"].context_window == 2
    assert reading.models["openai", "openai/m"].context_window == 1


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"output_cost_per_image": 0.04},
        {"input_cost_per_token": 0, "output_cost_per_token": 0, "output_cost_per_image": 0.04},
        {"input_cost_per_second": 0.001, "output_cost_per_token": 0},
    ],
)
def test_not_known_is_not_free(fields):
    """A model billed by something we do not count has no price, rather than a price of zero."""
    reading = read(text({"m": entry(**fields)}))
    assert reading.models["openai", "m"].price is None


def test_a_free_model_is_free():
    """Zero prices and nothing else are a price of zero."""
    reading = read(text({"m": entry(input_cost_per_token=0, output_cost_per_token=0.0)}))
    assert reading.models["openai", "m"].price == Price()


def test_the_lowest_tier_is_the_base_price():
    """Tiered models cost at least their first tier; the other tiers are kept by range."""
    tiers = [
        {"range": [256000.0, 1e6], "input_cost_per_token": 2e-6, "output_cost_per_token": 4e-6},
        {"range": [0, 256000.0], "input_cost_per_token": 1e-6, "output_cost_per_token": 3e-6},
    ]
    facts = read(text({"m": entry(tiered_pricing=tiers)})).models["openai", "m"]
    assert facts.price == Price(input=1_000_000, output=3_000_000)
    assert facts.extra == {
        "tiered_pricing.256000-1000000.input_cost_per_token": 2_000_000,
        "tiered_pricing.256000-1000000.output_cost_per_token": 4_000_000,
    }


def test_cache_writes_published_as_zero_cost_what_input_costs():
    """Zero says that writing costs nothing on top; such tokens are input all the same."""
    fields = '"input_cost_per_token":1e-6,"output_cost_per_token":2e-6,'
    facts, _ = only(fields + '"cache_creation_input_token_cost":0.0')
    assert facts.price.cache_write is None
    facts, _ = only(fields + '"output_cost_per_reasoning_token":0')
    assert facts.price.reasoning is None
    facts, _ = only(fields + '"cache_read_input_token_cost":0')
    assert facts.price.cached == 0


def test_a_fee_per_query_is_a_fee_per_request():
    """Rerank and search models cost by the query."""
    facts, _ = only('"mode":"rerank","input_cost_per_token":0,"input_cost_per_query":0.002')
    assert facts.price == Price(per_request=2 * 10**9)


def test_windows_features_and_deprecation():
    """Whole numbers written with a point are counts; a date is that day's first millisecond."""
    facts, _ = only(
        '"max_input_tokens":128000.0,"max_output_tokens":4096,"supports_vision":true,'
        '"supports_audio_input":false,"supports_function_calling":true,'
        '"deprecation_date":"2026-02-01"'
    )
    assert (facts.context_window, facts.max_output_tokens) == (128000, 4096)
    assert facts.features == ("function_calling", "vision")
    assert facts.deprecated_at == 1_769_904_000_000
