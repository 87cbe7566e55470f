"""What each function of fastgw/_ext costs, in both builds.

    pytest bench/test_ext.py --benchmark-group-by=param:build

Targets on one core (DESIGN.md, "Speed"): scan 0.35 us for 1.2 KB and 15 us for 119 KB, a 200-byte
chunk through the tap 0.2 us, an id 0.1 us, the estimator about 1.2 us a KB, a usage object 0.4 us.
"""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import orjson
import pytest

PATTERNS = {"compiled": "fastgw._ext._{}", "pure": "fastgw._ext.pure.{}"}
MODULES = ("scan", "sse", "estimate", "ids", "usage")
NAMES = frozenset(
    b"model stream stream_options max_tokens max_completion_tokens max_output_tokens n best_of "
    b"service_tier tools store background metadata user".split()
)
PROSE = (
    "Please summarise the following report for a reader who knows the field; keep names, dates\n"
    'and amounts exactly, quote what is called "material", and list open questions at the end. '
)


def request(messages, size):
    """Give a chat request with texts of `size` characters."""
    text = (PROSE * (size // len(PROSE) + 1))[:size]
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i in range(messages)]
    return orjson.dumps(
        {
            "model": "gpt-4o-mini",
            "messages": turns,
            "temperature": 0.7,
            "max_tokens": 256,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


BODIES = {"1.2KB": request(2, 500), "119KB": request(31, 3720)}
CHUNK = (
    b'data: {"id":"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWx","object":"chat.completion.chunk",'
    b'"created":1700000000,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":" hello"},'
    b'"finish_reason":null}]}\n\n'
)
LONG_CHUNK = CHUNK.replace(
    b'"choices"', b'"service_tier":"default","system_fingerprint":"fp_b376dfbbd5","choices"'
).replace(b"}]}", b'}],"usage":null,"obfuscation":"abcdEFG"}')
USAGE_CHUNK = (
    b'data: {"id":"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWx","object":"chat.completion.chunk",'
    b'"created":1700000000,"model":"gpt-4o","choices":[],"usage":{"prompt_tokens":10,'
    b'"completion_tokens":20,"total_tokens":30}}\n\n'
)


@pytest.fixture(params=PATTERNS)
def build(request):
    """Give the modules of one build."""
    pattern = PATTERNS[request.param]
    try:
        return SimpleNamespace(**{n: import_module(pattern.format(n)) for n in MODULES})
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(params=BODIES)
def body(request):
    """Give a request body of one size."""
    return BODIES[request.param]


def test_scan(benchmark, build, body):
    """Find the policy keys of a body."""
    assert len(benchmark(build.scan.top_level, body, NAMES)) == 4


def test_scan_model_only(benchmark, build, body):
    """Find two keys: what is left is the scan, not the answer's dict."""
    assert len(benchmark(build.scan.top_level, body, frozenset([b"model", b"stream"]))) == 2


def test_estimate_prompt(benchmark, build, body):
    """Estimate a body's prompt."""
    assert benchmark(build.estimate.prompt, body) > 200


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_estimate_text(benchmark, build, size):
    """Estimate plain text."""
    text = (PROSE * (size // len(PROSE) + 1))[:size].encode()
    assert benchmark(build.estimate.text, text) > size // 8


@pytest.mark.parametrize("chunk", [CHUNK, LONG_CHUNK, USAGE_CHUNK], ids=["200B", "330B", "usage"])
def test_tap(benchmark, build, chunk):
    """Pass a whole event on."""
    tap = build.sse.Tap()
    assert benchmark(tap.feed, chunk) is chunk


def test_tap_of_a_cut_chunk(benchmark, build):
    """Pass an event that comes in two reads."""
    tap = build.sse.Tap()
    first, second = CHUNK[:100], CHUNK[100:]

    def feed_both():
        tap.feed(first)
        return tap.feed(second)

    assert benchmark(feed_both) == CHUNK


def test_id(benchmark, build):
    """Make an id."""
    assert len(benchmark(build.ids.Source("fgw").next)) == 26


USAGE = (
    b'{"prompt_tokens":1024,"completion_tokens":256,"total_tokens":1280,"prompt_tokens_details":'
    b'{"cached_tokens":512,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":128,'
    b'"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)


def test_usage(benchmark, build):
    """Read a usage object."""
    assert benchmark(build.usage.read, USAGE) == (1024, 256, 512, 0, 128)


def test_usage_of_an_event(benchmark, build):
    """Find a usage object in its event and read it."""
    event = USAGE_CHUNK[6:-2]
    assert benchmark(build.usage.read_event, event) == (10, 20, 0, 0, 0)


def test_cost(benchmark, build):
    """Price what was used."""
    prices = (2_500_000, 10_000_000, 1_250_000, 2_500_000, 10_000_000, 0)
    assert benchmark(build.usage.cost, (1024, 256, 512, 0, 128), prices) == 4_480_000
