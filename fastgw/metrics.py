"""Every metric, declared once; the cells to count in, and how they are shown to Prometheus.

A series' text (`fastgw_requests_total{endpoint="..."}`) is made when it is first counted; from then
on counting is a look-up by the label values and one add. Every label is bounded: a value past the
first `MOST_VALUES` of its label counts as `other`, and so does a model nobody knows.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector as BaseCollector

from fastgw import __version__, _ext
from fastgw._ext.board import (
    Board,
    Counter,
    Gauge,
    Histogram,
    HistogramReading,
    Reading,
    Slot,
    summed,
)
from fastgw.domain import NANO, Usage

MOST_VALUES = 500
"""Values of one label in one worker."""
_LONGEST_VALUE = 128
OTHER = "other"
_MOST_BUNDLES = 5_000

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_SHORT = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1, 5)


class Family(NamedTuple):
    """A metric: `nano` ones are kept in billionths; `combine` says how workers make one value."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    nano: bool = False
    combine: Literal["sum", "min"] = "sum"
    owner: bool = False
    """Whether key and tag labels, where switched on, belong to it."""


_DEPLOYMENT = ("provider", "model")
FAMILIES = {
    family.name: family
    for family in (
        Family(
            "fastgw_requests_total",
            "counter",
            ("endpoint", "provider", "model", "status", "code"),
            "Requests that have ended.",
            owner=True,
        ),
        Family(
            "fastgw_request_duration_seconds",
            "histogram",
            ("endpoint", *_DEPLOYMENT),
            "From the request's head to the end of its answer.",
            _SECONDS,
        ),
        Family(
            "fastgw_upstream_duration_seconds",
            "histogram",
            _DEPLOYMENT,
            "From the upstream request to the end of its answer.",
            _SECONDS,
        ),
        Family(
            "fastgw_overhead_seconds",
            "histogram",
            ("endpoint",),
            "Time the gateway itself adds before the upstream request leaves.",
            _SHORT,
        ),
        Family(
            "fastgw_time_to_first_token_seconds",
            "histogram",
            _DEPLOYMENT,
            "From the upstream request to the first content of a stream.",
            _SECONDS,
        ),
        Family(
            "fastgw_tokens_total",
            "counter",
            (*_DEPLOYMENT, "kind"),
            "Tokens: input includes cached and cache_write, output includes reasoning.",
            owner=True,
        ),
        Family(
            "fastgw_cost_usd_total",
            "counter",
            _DEPLOYMENT,
            "Cost of all exchanges in US dollars.",
            nano=True,
            owner=True,
        ),
        Family("fastgw_in_flight", "gauge", (), "Exchanges accepted and not yet ended."),
        Family("fastgw_rate_limited_total", "counter", ("scope",), "Requests refused by a limit."),
        Family(
            "fastgw_budget_exceeded_total", "counter", ("scope",), "Requests refused by a budget."
        ),
        Family(
            "fastgw_overrun_usd_total",
            "counter",
            (),
            "Cost beyond what was reserved, in US dollars.",
            nano=True,
        ),
        Family("fastgw_upstream_errors_total", "counter", ("provider", "kind"), "Failed attempts."),
        Family("fastgw_retries_total", "counter", (), "Attempts repeated on the same deployment."),
        Family("fastgw_fallbacks_total", "counter", (), "Attempts moved to the next deployment."),
        Family(
            "fastgw_deployment_available",
            "gauge",
            _DEPLOYMENT,
            "0 while a worker's breaker keeps the deployment out of service, else 1.",
            combine="min",
        ),
        Family("fastgw_cache_events_total", "counter", ("result",), "Response cache look-ups."),
        Family("fastgw_key_cache_events_total", "counter", ("result",), "Key look-ups in memory."),
        Family("fastgw_queue_depth", "gauge", ("queue",), "Entries that wait in a queue."),
        Family("fastgw_dropped_total", "counter", ("what",), "What was given up for want of room."),
        Family("fastgw_lane_total", "counter", ("lane", "reason"), "Requests by lane."),
    )
}

Cell = TypeVar("Cell", Counter, Gauge, Histogram)
Values = str | int | tuple[str | int, ...]


class Series(dict[Values, Cell], Generic[Cell]):
    """The cells of one family by label values: `series["chat", "openai"].add(1)`.

    A single label's value may stand by itself. Values that were bounded are not remembered under
    what was asked for, so that made-up names cannot fill the memory.
    """

    __slots__ = ("_bound", "_make", "_names")

    def __init__(
        self,
        names: Sequence[str],
        bound: Callable[[str, str], str],
        make: Callable[[Sequence[str]], Any],
    ) -> None:
        super().__init__()
        self._names = names
        self._bound = bound
        self._make = make

    def __missing__(self, key: Values) -> Cell:
        given = tuple(map(str, key if isinstance(key, tuple) else (key,)))
        if len(given) != len(self._names):
            raise ValueError(f"a value is needed for each of the labels {self._names}")
        values = tuple(map(self._bound, self._names, given))
        if values != given:
            return self[values]
        cell: Cell = self._make(values)
        self[key] = cell
        return cell


class Cells(NamedTuple):
    """What exchanges with the same labels count in, found by one look-up."""

    requests: Counter
    duration: Histogram
    upstream: Histogram
    overhead: Histogram
    first_token: Histogram
    input: Counter
    output: Counter
    cached: Counter
    cache_write: Counter
    reasoning: Counter
    cost_nano: Counter


class Metrics:
    """One worker's cells. `known_model` tells which models may be labels by their name.

    With `key_label` or `tag_labels`, the families of `owner` take these values after their own, as
    `owner_values` gives them.
    """

    def __init__(
        self,
        slot: Slot,
        *,
        known_model: Callable[[str], bool] | None = None,
        key_label: bool = False,
        tag_labels: Sequence[str] = (),
    ) -> None:
        self._slot = slot
        self._known_model = known_model
        self._seen: dict[str, set[str]] = {}
        self._key_label = key_label
        self._tag_labels = tuple(tag_labels)
        self._owner = (("key_id",) if key_label else ()) + tuple(
            f"tag_{name}" for name in tag_labels
        )
        self._bundles: dict[tuple[str | int | tuple[str, ...] | None, ...], Cells] = {}
        self.requests: Series[Counter] = self._series("fastgw_requests_total")
        self.request_duration: Series[Histogram] = self._series("fastgw_request_duration_seconds")
        self.upstream_duration: Series[Histogram] = self._series("fastgw_upstream_duration_seconds")
        self.overhead: Series[Histogram] = self._series("fastgw_overhead_seconds")
        self.first_token: Series[Histogram] = self._series("fastgw_time_to_first_token_seconds")
        self.tokens: Series[Counter] = self._series("fastgw_tokens_total")
        self.cost_nano: Series[Counter] = self._series("fastgw_cost_usd_total")
        self.in_flight: Gauge = self._series("fastgw_in_flight")[()]
        self.in_flight.set(0)
        self.rate_limited: Series[Counter] = self._series("fastgw_rate_limited_total")
        self.budget_exceeded: Series[Counter] = self._series("fastgw_budget_exceeded_total")
        self.overrun_nano: Counter = self._series("fastgw_overrun_usd_total")[()]
        self.upstream_errors: Series[Counter] = self._series("fastgw_upstream_errors_total")
        self.retries: Counter = self._series("fastgw_retries_total")[()]
        self.fallbacks: Counter = self._series("fastgw_fallbacks_total")[()]
        self.deployment_available: Series[Gauge] = self._series("fastgw_deployment_available")
        self.cache_events: Series[Counter] = self._series("fastgw_cache_events_total")
        self.key_cache_events: Series[Counter] = self._series("fastgw_key_cache_events_total")
        self.queue_depth: Series[Gauge] = self._series("fastgw_queue_depth")
        self.dropped: Series[Counter] = self._series("fastgw_dropped_total")
        self.lane: Series[Counter] = self._series("fastgw_lane_total")

    def owner_values(self, key_id: str | None, tags: Mapping[str, str]) -> tuple[str, ...]:
        """Give the values of the key and tag labels that are switched on; none by default."""
        if not self._owner:
            return ()
        key = (key_id or "",) if self._key_label else ()
        return key + tuple(tags.get(name, "") for name in self._tag_labels)

    def exchange(
        self,
        *,
        endpoint: str,
        provider: str,
        model: str,
        status: int,
        code: str,
        seconds: float,
        upstream_seconds: float | None,
        overhead_seconds: float | None,
        ttft_seconds: float | None,
        usage: Usage,
        cost_nano: int,
        owner: tuple[str, ...] | None = None,
    ) -> None:
        """Count one exchange that has ended. Without an `owner` its labels are empty."""
        cells = self.cells(endpoint, provider, model, status, code, owner)
        cells.requests.add(1)
        cells.duration.observe(seconds)
        if upstream_seconds is not None:
            cells.upstream.observe(upstream_seconds)
        if overhead_seconds is not None:
            cells.overhead.observe(overhead_seconds)
        if ttft_seconds is not None:
            cells.first_token.observe(ttft_seconds)
        if usage.input_tokens:
            cells.input.add(usage.input_tokens)
        if usage.output_tokens:
            cells.output.add(usage.output_tokens)
        if usage.cached_tokens:
            cells.cached.add(usage.cached_tokens)
        if usage.cache_write_tokens:
            cells.cache_write.add(usage.cache_write_tokens)
        if usage.reasoning_tokens:
            cells.reasoning.add(usage.reasoning_tokens)
        if cost_nano:
            cells.cost_nano.add(cost_nano)

    def cells(
        self,
        endpoint: str,
        provider: str,
        model: str,
        status: int,
        code: str,
        owner: tuple[str, ...] | None = None,
    ) -> Cells:
        """Give all cells that exchanges with these labels count in; the same ones each time."""
        key = (endpoint, provider, model, status, code, owner)
        cells = self._bundles.get(key)
        if cells is None:
            cells = self._bundle(*key)
            if len(self._bundles) < _MOST_BUNDLES:
                self._bundles[key] = cells
        return cells

    def _bundle(
        self,
        endpoint: str,
        provider: str,
        model: str,
        status: int,
        code: str,
        given: tuple[str, ...] | None,
    ) -> Cells:
        owner = given if given is not None else ("",) * len(self._owner)

        def tokens(kind: str) -> Counter:
            return self.tokens[(provider, model, kind, *owner)]

        return Cells(
            self.requests[(endpoint, provider, model, status, code, *owner)],
            self.request_duration[endpoint, provider, model],
            self.upstream_duration[provider, model],
            self.overhead[endpoint],
            self.first_token[provider, model],
            tokens("input"),
            tokens("output"),
            tokens("cached"),
            tokens("cache_write"),
            tokens("reasoning"),
            self.cost_nano[(provider, model, *owner)],
        )

    def upstream_error(self, provider: str, kind: str) -> None:
        """Count a failed attempt."""
        self.upstream_errors[provider, kind].add(1)

    def _series(self, name: str) -> Series[Any]:
        family = FAMILIES[name]
        names = family.labels + (self._owner if family.owner else ())

        def make(values: Sequence[str]) -> Counter | Gauge | Histogram:
            text = series_text(name, names, values)
            if family.kind == "counter":
                return self._slot.counter(text)
            if family.kind == "gauge":
                return self._slot.gauge(text)
            return self._slot.histogram(text, tuple(map(float, family.buckets)))

        return Series(names, self._bound, make)

    def _bound(self, label: str, value: str) -> str:
        """Give the value itself, as long as its label has not too many, else `other`."""
        seen = self._seen.setdefault(label, {"", OTHER})
        if value in seen:
            return value
        if label == "model" and self._known_model is not None and not self._known_model(value):
            return OTHER
        value = value[:_LONGEST_VALUE].encode(errors="replace").decode()
        if value not in seen:
            if len(seen) >= MOST_VALUES:
                return OTHER
            seen.add(value)
        return value


# -- text of a series ---------------------------------------------------------------------------

_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n"}
_SPECIAL = re.compile(r'[\\"\n]')
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def series_text(name: str, labels: Sequence[str], values: Sequence[str]) -> str:
    """Write a series as the Prometheus text format does."""
    if not labels:
        return name
    escaped = (_SPECIAL.sub(lambda match: _ESCAPES[match[0]], value) for value in values)
    pairs = (f'{label}="{value}"' for label, value in zip(labels, escaped, strict=True))
    return f"{name}{{{','.join(pairs)}}}"


def parse_series(text: str) -> tuple[str, dict[str, str]]:
    """Read what `series_text` wrote: the family's name and the labels."""
    name, _, rest = text.partition("{")
    unescape = {escape: char for char, escape in _ESCAPES.items()}
    return name, {
        match[1]: re.sub(r"\\.", lambda each: unescape[each[0]], match[2])
        for match in _PAIR.finditer(rest)
    }


# -- for Prometheus -----------------------------------------------------------------------------


class Collector(BaseCollector):
    """Gives the numbers of all workers to `prometheus_client`: register it, then render."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._parsed: dict[str, tuple[str, dict[str, str]]] = {}

    def collect(self) -> Iterator[Metric]:
        """Give every family, those without a series too."""
        found: dict[str, dict[str, Reading]] = {name: {} for name in FAMILIES}
        for number in range(self._board.slots):
            for text, value in self._board.read_slot(number).items():
                if text not in self._parsed:
                    self._parsed[text] = parse_series(text)
                name, _ = self._parsed[text]
                series = found[name]
                series[text] = (
                    _combine(FAMILIES[name], series[text], value) if text in series else value
                )
        for name, family in FAMILIES.items():
            metric = Metric(name.removesuffix("_total"), family.help, family.kind)
            for text, value in found[name].items():
                _add_samples(metric, family, self._parsed[text][1], value)
            yield metric
        yield InfoMetricFamily(
            "fastgw_build",
            "What is running.",
            {
                "version": __version__,
                "build": _ext.BUILD,
                "python": platform.python_version(),
            },
        )


def _combine(family: Family, one: Reading, other: Reading) -> Reading:
    if family.combine == "min":
        return min(one, other)
    return summed(one, other)


def _add_samples(metric: Metric, family: Family, labels: dict[str, str], value: Reading) -> None:
    name = family.name
    if not isinstance(value, HistogramReading):
        metric.add_sample(name, labels, value / NANO if family.nano else value)
        return
    below = 0
    for bound, count in zip((*value.bounds, None), value.counts, strict=True):
        below += count
        edge = "+Inf" if bound is None else repr(float(bound))
        metric.add_sample(f"{name}_bucket", {**labels, "le": edge}, below)
    metric.add_sample(f"{name}_count", labels, below)
    metric.add_sample(f"{name}_sum", labels, value.sum)
