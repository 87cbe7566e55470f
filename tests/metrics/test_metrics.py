"""Every metric of the contract, exact over workers, bounded, and in a form that scrapers read."""

from __future__ import annotations

import asyncio
import os
import re
import timeit

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from fastgw import __version__
from fastgw._ext import BUILD, counters
from fastgw.domain import Usage
from fastgw.metrics import FAMILIES, MOST_VALUES, Exposition, Metrics

CONTRACT = [
    "fastgw_requests_total{endpoint,provider,model,status,code}",
    "fastgw_request_duration_seconds",
    "fastgw_upstream_duration_seconds",
    "fastgw_overhead_seconds",
    "fastgw_time_to_first_token_seconds",
    "fastgw_tokens_total{provider,model,kind}",
    "fastgw_cost_usd_total{provider,model}",
    "fastgw_in_flight",
    "fastgw_rate_limited_total{scope}",
    "fastgw_budget_exceeded_total{scope}",
    "fastgw_overrun_usd_total",
    "fastgw_upstream_errors_total{provider,kind}",
    "fastgw_retries_total",
    "fastgw_fallbacks_total",
    "fastgw_deployment_available",
    "fastgw_cache_events_total{result}",
    "fastgw_key_cache_events_total{result}",
    "fastgw_queue_depth{queue}",
    "fastgw_dropped_total{what}",
    "fastgw_lane_total{lane,reason}",
    "fastgw_build_info",
]


def render(board, accept=""):
    text, content_type = asyncio.run(Exposition(board).render(accept))
    return text.decode(), content_type


def samples(board):
    """Give every sample as (name, labels) -> value, through Prometheus' own parser."""
    text, _ = render(board)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def sample(board, name, **labels):
    return samples(board).get((name, tuple(sorted(labels.items()))))


@pytest.fixture
def board():
    return counters.Board(1 << 20, 4)


def exchange(metrics, **changes):
    fields = {
        "endpoint": "chat_completions",
        "provider": "openai",
        "model": "gpt-5",
        "status": 200,
        "code": "",
        "seconds": 1.5,
        "upstream_seconds": 1.4,
        "overhead_seconds": 0.00002,
        "ttft_seconds": 0.3,
        "usage": Usage(input_tokens=10, output_tokens=5, cached_tokens=4),
        "cost_nano": 1_250_000,
    }
    metrics.exchange(**{**fields, **changes})


def test_the_contract_is_declared():
    """Names and labels are those of the contract, no more, no fewer."""
    for entry in CONTRACT:
        name, _, labels = entry.rstrip("}").partition("{")
        if name == "fastgw_build_info":
            continue
        assert name in FAMILIES
        if labels:
            assert FAMILIES[name].labels == tuple(labels.split(","))
    assert len(FAMILIES) == len(CONTRACT) - 1


def test_every_family_is_shown_without_a_sample(board):
    """A fresh process shows each metric with its help and type."""
    text, content_type = render(board)
    for name, family in FAMILIES.items():
        assert f"# HELP {name} " in text
        assert f"# TYPE {name} {family.kind}" in text
    assert content_type.startswith("text/plain")
    build = {"version": __version__, "build": BUILD}
    found = [labels for name, labels in samples(board) if name == "fastgw_build_info"]
    assert build.items() <= dict(found[0]).items()


def test_an_exchange(board):
    """One exchange lands in every metric it belongs to, money exact to the nano-dollar."""
    metrics = Metrics(board.slot(0))
    exchange(metrics)
    exchange(metrics, cost_nano=1, overhead_seconds=None, ttft_seconds=None, upstream_seconds=None)
    chat = {"endpoint": "chat_completions", "provider": "openai", "model": "gpt-5"}
    gpt = {"provider": "openai", "model": "gpt-5"}
    assert sample(board, "fastgw_requests_total", **chat, status="200", code="") == 2
    assert sample(board, "fastgw_cost_usd_total", **gpt) == 0.001250001
    assert sample(board, "fastgw_tokens_total", **gpt, kind="input") == 20
    assert sample(board, "fastgw_tokens_total", **gpt, kind="cached") == 8
    assert sample(board, "fastgw_tokens_total", **gpt, kind="reasoning") == 0
    assert sample(board, "fastgw_request_duration_seconds_count", **chat) == 2
    assert sample(board, "fastgw_request_duration_seconds_sum", **chat) == 3.0
    assert sample(board, "fastgw_request_duration_seconds_bucket", **chat, le="1.0") == 0
    assert sample(board, "fastgw_request_duration_seconds_bucket", **chat, le="2.5") == 2
    assert sample(board, "fastgw_request_duration_seconds_bucket", **chat, le="+Inf") == 2
    assert sample(board, "fastgw_upstream_duration_seconds_count", **gpt) == 1
    assert sample(board, "fastgw_overhead_seconds_count", endpoint="chat_completions") == 1
    assert sample(board, "fastgw_time_to_first_token_seconds_count", **gpt) == 1


def test_workers_are_summed_and_gauges_follow_the_living(board):
    """Forked workers count into one number; the successor of a dead one starts its gauges anew."""

    def work(number):
        metrics = Metrics(board.slot(number))
        metrics.in_flight.add(number + 1)
        metrics.deployment_available["openai", "gpt-5"].set(number != 1)
        for _ in range(100):
            exchange(metrics)

    for number in range(3):
        pid = os.fork()
        if pid == 0:
            work(number)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    gpt = {"provider": "openai", "model": "gpt-5"}
    requests = {"endpoint": "chat_completions", **gpt, "status": "200", "code": ""}
    assert sample(board, "fastgw_requests_total", **requests) == 300
    assert sample(board, "fastgw_in_flight") == 6
    assert sample(board, "fastgw_deployment_available", **gpt) == 0
    Metrics(board.slot(1))
    assert sample(board, "fastgw_in_flight") == 4
    assert sample(board, "fastgw_deployment_available", **gpt) == 1
    assert sample(board, "fastgw_requests_total", **requests) == 300


def test_unknown_models_count_as_other(board):
    """A model nobody knows is no label, and made-up names leave nothing behind in memory."""
    metrics = Metrics(board.slot(0), known_model={"gpt-5"}.__contains__)
    for number in range(2000):
        exchange(metrics, model=f"made-up-{number}")
    exchange(metrics)
    labels = {"endpoint": "chat_completions", "provider": "openai", "status": "200", "code": ""}
    assert sample(board, "fastgw_requests_total", **labels, model="other") == 2000
    assert sample(board, "fastgw_requests_total", **labels, model="gpt-5") == 1
    assert len(metrics.requests) == 2
    assert len(board.read()) < 50


def test_labels_are_bounded_without_knowledge(board):
    """Past the first values of a label all others are one."""
    metrics = Metrics(board.slot(0))
    for number in range(MOST_VALUES + 100):
        metrics.upstream_errors[f"provider-{number}", "x"].add(1)
    found = samples(board)
    providers = {dict(labels)["provider"] for name, labels in found if "upstream_errors" in name}
    assert len(providers) <= MOST_VALUES + 1
    assert sample(board, "fastgw_upstream_errors_total", provider="other", kind="x") >= 100
    assert sum(value for (name, _), value in found.items() if "upstream_errors" in name) == (
        MOST_VALUES + 100
    )


def test_full_board_says_so(board):
    """Series for which there is no room are counted as dropped."""
    small = counters.Board(8192, 1)
    metrics = Metrics(small.slot(0))
    for number in range(300):
        metrics.lane["standard", f"reason-{number}"].add(1)
    dropped = sample(small, "fastgw_dropped_total", what="series")
    shown = sum(value for (name, _), value in samples(small).items() if name == "fastgw_lane_total")
    assert dropped > 0
    assert shown + dropped == 300


def test_owner_labels(board):
    """Key and tag labels exist only when asked for, and are bounded like any other."""
    plain = Metrics(board.slot(0))
    assert plain.owner_values("k1", {"team": "a"}) == ()
    metrics = Metrics(board.slot(1), key_label=True, tag_labels=("team", "job"))
    exchange(metrics, owner=metrics.owner_values("k1", {"team": "a"}))
    exchange(metrics)
    labels = {"provider": "openai", "model": "gpt-5"}
    owner = {"key_id": "k1", "tag_team": "a", "tag_job": ""}
    assert sample(board, "fastgw_cost_usd_total", **labels, **owner) == 0.00125
    nobody = dict.fromkeys(owner, "")
    assert sample(board, "fastgw_tokens_total", **labels, kind="input", **nobody) == 10


@pytest.mark.parametrize(
    "value",
    [
        '"',
        "\\",
        "\n",
        '\\"\n',
        "a,b={}",
        '",x="',
        "模型🙂",
        "\x00\x07",
        "\u2028",
        " ",
        "x" * 500,
        "\udcff",
    ],
)
def test_any_text_as_a_label(board, value):
    """Label values are escaped: no text breaks the exposition or makes a second series."""
    metrics = Metrics(board.slot(0))
    metrics.rate_limited[value].add(1)
    metrics.rate_limited[value].add(1)
    found = [
        (dict(labels), number)
        for (name, labels), number in samples(board).items()
        if name == "fastgw_rate_limited_total"
    ]
    expected = value[:128].encode(errors="replace").decode()
    assert found == [({"scope": expected}, 2)]


def test_wrong_number_of_labels(board):
    """A value too many or too few is an error, not another series."""
    metrics = Metrics(board.slot(0))
    for wrong in (("a",), ("a", "b", "c"), ()):
        with pytest.raises(ValueError, match="label"):
            metrics.lane[wrong]


def test_openmetrics(board):
    """A scraper that asks for OpenMetrics gets valid OpenMetrics."""
    exchange(Metrics(board.slot(0)))
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    text, content_type = render(board, accept)
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name: family for family in open_families(text)}
    assert families["fastgw_requests"].type == "counter"
    assert families["fastgw_overhead_seconds"].type == "histogram"
    assert families["fastgw_build"].type == "info"
    assert text.endswith("# EOF\n")


def test_buckets_are_cumulative_and_sorted(board):
    """Each histogram's buckets rise to its count, as Prometheus requires."""
    metrics = Metrics(board.slot(0))
    for seconds in (0.001, 0.3, 3, 30, 3000):
        exchange(metrics, seconds=seconds)
    text, _ = render(board)
    edges = re.findall(r'fastgw_request_duration_seconds_bucket\{.*le="([^"]+)".*\} (\S+)', text)
    bounds = [float(edge) for edge, _ in edges]
    assert bounds == sorted(bounds)
    assert bounds[-1] == float("inf")
    counts = [float(count) for _, count in edges]
    assert counts == sorted(counts)
    assert counts[-1] == 5


def test_a_second_scrape_sees_what_is_new(board):
    """New series, new workers and new numbers appear, and nothing is shown twice."""
    exposition = Exposition(board)
    first = Metrics(board.slot(0))
    first.lane["standard", "a"].add(1)
    asyncio.run(exposition.render(""))
    first.lane["standard", "a"].add(1)
    first.lane["standard", "b"].add(1)
    Metrics(board.slot(2)).lane["standard", "a"].add(5)
    text = asyncio.run(exposition.render(""))[0].decode()
    assert [line for line in text.splitlines() if line.startswith("fastgw_lane_total")] == [
        'fastgw_lane_total{lane="standard",reason="a"} 7',
        'fastgw_lane_total{lane="standard",reason="b"} 1',
    ]
    assert text == render(board)[0]


async def test_a_scrape_lets_others_have_their_turn():
    """Streams go on while thousands of series are shown, and may add series meanwhile."""
    board = counters.Board(1 << 22, 2)
    metrics = [Metrics(board.slot(number)) for number in range(2)]
    for number in range(1000):
        for each in metrics:
            each.lane["standard", f"reason-{number // 2}"].add(1)
            each.overhead[f"endpoint-{number % 400}"].observe(0.01)
    now = 0.0

    def clock():
        nonlocal now
        now += 0.0001  # a series took 0.1 ms
        return now

    turns = 0

    async def stream():
        nonlocal turns
        while True:
            turns += 1
            metrics[turns % 2].upstream_errors[f"provider-{turns}", "x"].add(1)
            await asyncio.sleep(0)

    streaming = asyncio.ensure_future(stream())
    exposition = Exposition(board, clock)
    both = await asyncio.gather(exposition.render(""), exposition.render(""))
    streaming.cancel()
    assert turns > 100
    for text, _ in both:
        names = [line.rpartition(" ")[0] for line in text.decode().splitlines()]
        assert len(names) == len(set(names))
        assert b'fastgw_lane_total{lane="standard",reason="reason-7"} 4' in text


def test_counting_remembers_its_series(board):
    """The second time a series is one look-up: no text is made."""
    metrics = Metrics(board.slot(0))
    key = ("chat_completions", "openai", "gpt-5", 200, "")
    assert metrics.requests[key] is metrics.requests[key]
    assert timeit.timeit(lambda: metrics.requests[key].add(1), number=1000) > 0
