"""The usage reader, in both builds: tokens counted once, nonsense never money, sums exact.

Its worst day: a provider that spells the same numbers otherwise, a report read by the quick reader
in one way and by a JSON decoder in another, and an amount that wraps around.
"""

from __future__ import annotations

import json
import random
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpora import recordings, shared

OPENAI = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 0},
}
RESPONSES = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 30},
    "total_tokens": 150,
}
ANTHROPIC = {
    "input_tokens": 30,
    "cache_creation_input_tokens": 10,
    "cache_read_input_tokens": 60,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 50,
    "output_tokens_details": {"thinking_tokens": 30},
    "service_tier": "standard",
}


def text(value):
    """Give JSON as a server writes it."""
    return json.dumps(value, separators=(",", ":")).encode()


@pytest.mark.parametrize("reported", [OPENAI, RESPONSES, ANTHROPIC])
@pytest.mark.parametrize("indent", [None, 2])
def test_every_api_counts_the_same(build, reported, indent):
    """Whoever reports, input includes the cache and output includes reasoning."""
    body = json.dumps(reported, indent=indent).encode()
    assert build.usage.read(body)[:5] == (100, 50, 60, 10, 30)


def test_anthropic_without_a_cache(build):
    """Its old answers name no cache at all."""
    assert build.usage.read(b'{"input_tokens":7,"output_tokens":3}')[:5] == (7, 3, 0, 0, 0)


def test_cache_names_beside_a_prompt_are_no_addition(build):
    """A gateway that speaks OpenAI's API may repeat Anthropic's names: its prompt is whole."""
    reported = {"prompt_tokens": 100, "completion_tokens": 1, "cache_read_input_tokens": 60}
    assert build.usage.read(text(reported))[:5] == (100, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("reported", "counts"),
    [
        (b'{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens":3}', (3, 2, 0, 0, 0)),
        (b'{"prompt\\u005ftokens":1,"completion_tokens":2}', (1, 2, 0, 0, 0)),
        (b'{"prompt_tokens":1.0,"completion_tokens":2e1}', (1, 20, 0, 0, 0)),
        (b'{"prompt_tokens":-0,"completion_tokens":2}', (0, 2, 0, 0, 0)),
        ('{"prompt_tokens":1,"completion_tokens":2,"note":"ä"}'.encode(), (1, 2, 0, 0, 0)),
        (b'{"Prompt_tokens":9,"prompt_tokens":1}', (1, 0, 0, 0, 0)),
        (b'{"prompt_tokens":1,"prompt_tokens_details":null}', (1, 0, 0, 0, 0)),
        (b'{"input_tokens":5,"prompt_tokens_details":[],"x":{}}', (5, 0, 0, 0, 0)),
        (b'{"cost":0.00012,"x":[[],{},[1,{"a":[true,null]}]],"prompt_tokens":1}', (1, 0, 0, 0, 0)),
        (b"{}", (0, 0, 0, 0, 0)),
        (b'{"prompt_tokens":1099511627776}', (1 << 40, 0, 0, 0, 0)),
        (b'{"prompt_tokens":1099511627777}', None),
        (b'{"prompt_tokens":1000000000000000000000}', None),
        (b'{"prompt_tokens":-1}', None),
        (b'{"prompt_tokens":null}', None),
        (b'{"prompt_tokens":true}', None),
        (b'{"prompt_tokens":"1"}', None),
        (b'{"prompt_tokens":01}', None),
        (b'{"prompt_tokens":1}x', None),
        (b'{"prompt_tokens":1,}', None),
        (b'{"prompt_tokens":1,"x":[1 2]}', None),
        (b'{"prompt_tokens":1', None),
        (b"null", None),
        (b"[]", None),
        (b"", None),
    ],
)  # fmt: skip
def test_odd_spellings(build, reported, counts):
    """What JSON allows is read as a decoder reads it; what is no JSON or no sense reports none."""
    found = build.usage.read(reported)
    assert (found and found[:5]) == counts


def test_an_event_is_searched_where_providers_put_usage(build):
    """At the top, in Groq's own member, in a response, in a message; null is not there yet."""
    body = text(RESPONSES)
    for event in (
        b'{"choices":[],"usage":%b}',
        b'{"usage":null,"x_groq":{"id":"x","usage":%b}}',
        b'{"type":"response.completed","response":{"output":[{"text":"\\"}"}],"usage":%b}}',
        b'{"message":{"usage":%b},"response":{"usage":null},"x_groq":7}',
        b'{"us\\u0061ge":%b}',
    ):
        assert build.usage.read_event(event % body)[:5] == (100, 50, 60, 10, 30)
    for event in (
        b"{}",
        b'{"usage":5}',
        b'{"usage":null}',
        b"[]",
        b"no JSON",
        b'{"x":{"usage":{}}}',
    ):
        assert build.usage.read_event(event) is None


def test_anthropic_tells_in_two_events(build):
    """What the last event leaves out or leaves null stands in the first."""
    first = text({"type": "message_start", "message": {"usage": {**ANTHROPIC, "output_tokens": 1}}})
    for last in (
        {"output_tokens": 50},
        {"output_tokens": 50, "input_tokens": None, "output_tokens_details": None},
        {**ANTHROPIC},
    ):
        event = text({"type": "message_delta", "usage": last})
        assert build.usage.read_event(event, first)[:5] == (100, 50, 60, 10, 30)
    event = text({"usage": {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 2}}})
    assert build.usage.read_event(event, first)[:5] == (100, 9, 60, 10, 2)
    assert build.usage.read_event(event, b"{}")[:5] == (0, 9, 0, 0, 2)


# Properties.

NAMES = [
    *OPENAI, *RESPONSES, *ANTHROPIC, "cached_tokens", "cache_write_tokens", "reasoning_tokens",
    "ephemeral_1h_input_tokens", "audio_tokens", "image_tokens",
    "thinking_tokens", "prompt_cache_hit_tokens", "num_cached_tokens", "x", "Prompt_tokens", "é",
]  # fmt: skip
VALUES = st.one_of(
    st.integers(-2, 9),
    st.sampled_from([1 << 40, (1 << 40) + 1, 10**18, 10**19, -(10**30), 1.5, 3.0, 1e300]),
    st.none(),
    st.booleans(),
    st.sampled_from(["", "7", 'a"b', "\x7f", "ß"]),
)
DETAILS = st.dictionaries(st.sampled_from(NAMES), VALUES | st.just([{}]), max_size=4)
REPORTS = st.dictionaries(st.sampled_from(NAMES), VALUES | DETAILS | st.lists(VALUES), max_size=8)
EVENTS = st.one_of(
    st.fixed_dictionaries({"usage": REPORTS | VALUES}),
    st.fixed_dictionaries({"response": st.fixed_dictionaries({"usage": REPORTS | VALUES})}),
    st.fixed_dictionaries(
        {"usage": st.none(), "message": st.fixed_dictionaries({"usage": REPORTS})}
    ),
)


@settings(max_examples=400, deadline=None)
@given(REPORTS, st.sampled_from([None, 1]), st.randoms(use_true_random=False))
def test_the_twins_read_alike(twins, report, indent, rng):
    """Any report, and any report with a few bytes changed, is read the same by both builds."""
    body = bytearray(json.dumps(report, indent=indent).encode())
    for _ in range(rng.choice([0, 0, 1, 3])):
        if not body:
            break
        at = rng.randrange(len(body))
        body[at : at + rng.choice([0, 1, 2])] = rng.choice(
            [b"", b'"', b"}", b"{", b",", b"0", b"-", b".", b" ", b"\\", b"\xff", b"null"]
        )
    one, other = (each.usage.read(bytes(body)) for each in twins)
    assert one == other


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.none() | EVENTS)
def test_the_twins_read_events_alike(twins, event, first):
    """Two events are put together the same way by both builds."""
    before = text(first) if first is not None else None
    one, other = (each.usage.read_event(text(event), before) for each in twins)
    assert one == other


ANY = st.integers(-5, 5) | st.integers(-(2**70), 2**70) | st.integers(2**62, 2**63)


@settings(max_examples=300, deadline=None)
@given(st.tuples(*[ANY] * 10), st.lists(st.tuples(*[ANY] * 12), min_size=1, max_size=9))
def test_the_twins_price_alike(twins, counts, tiers):
    """No amount wraps around: the compiled sum is that of Python's endless integers."""
    prices = tuple(tiers)
    one, other = (each.usage.cost(counts, prices) for each in twins)
    assert one == other
    assert 0 <= one < 2**63


@given(st.tuples(*[st.integers(0, 1 << 40)] * 2), st.tuples(*[st.integers(0, 10**10)] * 11))
def test_lines_are_rounded_half_up(build, counts, prices):
    """Each price line is rounded once, half up."""
    lines = [
        Fraction(units * pico, 1000)
        for units, pico in zip((*counts, 1), (prices[0], prices[1], prices[10]), strict=True)
    ]
    expected = sum((2 * line + 1).__floor__() // 2 for line in lines)
    found = build.usage.cost((*counts, *[0] * 8), ((0, *prices),))
    assert found == min(expected, 2**63 - 1)


COUNT = st.integers(0, 1 << 30)
TIER = st.tuples(st.integers(0, 1 << 31), *[st.integers(0, 10**12)] * 11)


@settings(max_examples=300, deadline=None)
@given(st.tuples(*[COUNT] * 10), st.lists(TIER, min_size=1, max_size=8))
def test_every_line_is_priced_by_its_tier(build, counts, tiers):
    """The sum by hand: the tier the whole input reaches, parts taken out of their wholes in order,
    each line rounded half up by itself."""
    tiers = sorted(tiers)
    whole_in, whole_out, cached, written, thought, hour, audio_in, seen, audio_out, drawn = counts
    lines = [tier for tier in tiers if whole_in > tier[0]][-1:] or tiers[:1]
    left_in, left_out, parts = whole_in, whole_out, {}
    for name, part in (("cached", cached), ("written", written), ("audio_in", audio_in),
                       ("seen", seen)):  # fmt: skip
        parts[name] = min(part, left_in)
        left_in -= parts[name]
    for name, part in (("thought", thought), ("audio_out", audio_out), ("drawn", drawn)):
        parts[name] = min(part, left_out)
        left_out -= parts[name]
    hour = min(hour, parts["written"])
    units = (
        left_in, left_out, parts["cached"], parts["written"] - hour, parts["thought"], hour,
        parts["audio_in"], parts["seen"], parts["audio_out"], parts["drawn"], 1,
    )  # fmt: skip
    lines = [Fraction(n * pico, 1000) for n, pico in zip(units, lines[0][1:], strict=True)]
    expected = sum((2 * line + 1).__floor__() // 2 for line in lines)
    assert build.usage.cost(counts, tuple(tiers)) == min(expected, 2**63 - 1)


@pytest.mark.parametrize(
    ("reported", "parts"),
    [
        (
            {**ANTHROPIC, "cache_creation": {"ephemeral_1h_input_tokens": 4}},
            (4, 0, 0, 0, 0),
        ),
        (
            {**ANTHROPIC, "cache_creation": {"ephemeral_1h_input_tokens": 99}},
            (10, 0, 0, 0, 0),
        ),
        ({**ANTHROPIC, "cache_creation": {"ephemeral_1h_input_tokens": -4}}, (0, 0, 0, 0, 0)),
        ({**ANTHROPIC, "cache_creation": [4]}, (0, 0, 0, 0, 0)),
        (
            {
                **OPENAI,
                "prompt_tokens_details": {"audio_tokens": 20, "image_tokens": 7},
                "completion_tokens_details": {"audio_tokens": 30, "image_tokens": 900},
            },
            (0, 20, 7, 30, 20),
        ),
        (
            {**OPENAI, "prompt_tokens_details": {"cached_tokens": 95, "audio_tokens": 20}},
            (0, 5, 0, 0, 0),
        ),
    ],
)
def test_parts_that_are_charged_otherwise(build, reported, parts):
    """An hour in the cache, audio, pictures: never more of them than of what they are part of."""
    assert build.usage.read(text(reported))[5:] == parts


def test_recorded_usage(twins):
    """Every usage object of the corpus is plain JSON to both builds and gives the same counts."""
    rng = random.Random(1)
    read = 0
    for path in sorted(shared("recordings").glob("*.jsonl")):
        for exchange in recordings(path.stem):
            body = exchange["response"]["body"]
            for match in re.finditer(r'"usage": ?(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})', body):
                payload = match[1].encode()
                compiled, pure = (each.usage.read(payload) for each in twins)
                assert compiled == pure
                read += compiled is not None
                cut = payload[: rng.randrange(len(payload))]
                assert [each.usage.read(cut) for each in twins] == [None, None]
    assert read > 2_000
