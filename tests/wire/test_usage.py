"""A provider's usage object in our words: tokens counted once, nonsense never money."""

from __future__ import annotations

import pytest

from fastgw.domain import Usage
from fastgw.wire import json, usage


def read(reported: dict[str, object]) -> Usage | None:
    """Read a usage object as it comes over the wire."""
    return usage.read(json.dumps(reported))


def test_details_are_part_of_the_totals():
    """OpenAI: the prompt includes what was cached, the completion includes reasoning."""
    reported = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    assert read(reported) == Usage(
        input_tokens=100,
        output_tokens=50,
        cached_tokens=60,
        cache_write_tokens=10,
        reasoning_tokens=30,
    )


def test_reasoning_beside_the_completion_is_added_to_it():
    """xAI's total shows that its completion leaves reasoning out; ours includes it."""
    reported = {
        "prompt_tokens": 12,
        "completion_tokens": 1,
        "total_tokens": 241,
        "completion_tokens_details": {"reasoning_tokens": 228},
    }
    found = read(reported)
    assert found is not None
    assert (found.output_tokens, found.reasoning_tokens) == (229, 228)


def test_more_reasoning_than_completion_is_cut_when_no_total_explains_it():
    """A part is never larger than the whole."""
    reported = {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 9}}
    assert read(reported) == Usage(output_tokens=5, reasoning_tokens=5)


@pytest.mark.parametrize("name", ["prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens"])
def test_cache_reads_beside_the_details_count(name):
    """DeepSeek, Mistral and Together each have a name of their own."""
    found = read({"prompt_tokens": 64, "completion_tokens": 6, name: 32})
    assert found == Usage(input_tokens=64, output_tokens=6, cached_tokens=32)


def test_a_count_that_is_not_known_yet_is_no_report():
    """Databricks sends null with every event but the last: a cut stream is not free."""
    assert read({"prompt_tokens": 396, "completion_tokens": None}) is None


def test_an_absent_count_is_none_of_that_kind():
    """Embeddings report a prompt alone."""
    assert read({"prompt_tokens": 8, "total_tokens": 8}) == Usage(input_tokens=8)


@pytest.mark.parametrize("count", [-1, 1.5, "7", True, 1 << 60, [1]])
def test_nonsense_is_no_report(count):
    """A negative, fractional, textual or endless count is never money."""
    assert read({"prompt_tokens": count, "completion_tokens": 1}) is None
    assert read({"prompt_tokens": 1, "completion_tokens": count}) is None
