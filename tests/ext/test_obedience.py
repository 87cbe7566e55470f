"""What the rate-limit headers promise, on a virtual clock: who obeys is not refused."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

SECOND = 1_000_000
START = 1_790_000_000 * SECOND
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
METRICS = ("requests", "tokens")

meter = st.one_of(
    st.tuples(
        st.just("Window"),
        st.sampled_from(METRICS),
        st.integers(1, 40),
        st.sampled_from((1, 7, 10, 60)),
    ),
    st.tuples(
        st.just("Bucket"),
        st.sampled_from(METRICS),
        st.integers(1, 40),
        st.sampled_from((1, 7, 10, 60)),
        st.integers(1, 50),
    ),
)
step = st.tuples(
    st.integers(0, 50),  # tokens it needs
    st.integers(0, 20 * SECOND),  # idles so long before
    st.sampled_from((0.0, 0.5, 1.0)),  # used of what was reserved
    st.integers(0, SECOND),  # takes so long
)


def make(limits, kind, metric, limit, window_s, burst=0):
    """Make a meter; tokens come in larger numbers."""
    scale = 1 if metric == "requests" else 5
    if kind == "Window":
        return limits.Window(limit * scale, window_s * SECOND, metric)
    return limits.Bucket(limit * scale, window_s * SECOND, burst * scale, metric)


def microseconds(text):
    """Read a duration as OpenAI writes it."""
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", text)
    return round(sum(float(number) * UNITS[unit] for number, unit in parts) * SECOND)


def told(guard, now):
    """Give the header fields by name, numbers as numbers and times in microseconds."""
    fields = {}
    for line in guard.fields(now).decode().splitlines():
        name, _, value = line.removeprefix("x-ratelimit-").partition(": ")
        fields[name] = microseconds(value) if name.startswith("reset") else int(value)
    return fields


def wait_of(fields, tokens):
    """Give how long somebody waits who obeys: 0 where there is enough left."""
    needs = {"requests": 1, "tokens": tokens}
    return max(
        [0]
        + [
            fields[f"reset-{metric}"]
            for metric in METRICS
            if f"limit-{metric}" in fields and fields[f"remaining-{metric}"] < needs[metric]
        ]
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(meter, min_size=1, max_size=4), st.lists(step, max_size=30))
def test_who_obeys_is_never_refused(build, meters, steps):
    """Whatever meters stack up: enough is left or one waits for `reset`, and goes through."""
    limits = build.limits
    guard = limits.Guard(tuple(make(limits, *each) for each in meters))
    now, fields = START, told(guard, START)
    for wanted, idle, share, takes in steps:
        tokens = min(wanted, fields.get("limit-tokens", wanted))
        now += idle + wait_of(fields, tokens)
        held = guard.reserve(now, tokens, 0)
        assert held is not None, (fields, guard.refusal(now, tokens, 0))
        now += takes
        held.settle(now, int(tokens * share), 0)
        fields = told(guard, now)


@settings(max_examples=300, deadline=None)
@given(st.lists(meter, min_size=1, max_size=4), st.lists(step, min_size=1, max_size=30))
def test_who_waits_for_retry_after_is_let_in(build, meters, steps):
    """Somebody who never looks at what is left, but does wait when refused."""
    limits = build.limits
    guard = limits.Guard(tuple(make(limits, *each) for each in meters))
    now = START
    for wanted, _, share, takes in steps:
        tokens = min(wanted, told(guard, now).get("limit-tokens", wanted))
        held = guard.reserve(now, tokens, 0)
        if held is None:
            _, wait = guard.refusal(now, tokens, 0)
            assert wait > 0
            now += -(-wait // SECOND) * SECOND  # the header has whole seconds
            held = guard.reserve(now, tokens, 0)
        assert held is not None
        now += takes
        held.settle(now, int(tokens * share), 0)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(meter, min_size=1, max_size=4),
    st.lists(st.integers(0, 12), min_size=1, max_size=20),
    st.lists(st.integers(0, 5 * SECOND), min_size=1, max_size=10),
)
def test_the_values_are_monotone(build, meters, amounts, pauses):
    """Requests only take away, time only gives back, and no moment that was told moves away."""
    limits = build.limits
    guard = limits.Guard(tuple(make(limits, *each) for each in meters))
    held, before = [], told(guard, START)
    for amount in amounts:
        held.append(guard.reserve(START, amount, 0))
        after = told(guard, START)
        for metric in (m for m in METRICS if f"limit-{m}" in before):
            assert after[f"limit-{metric}"] == before[f"limit-{metric}"]
            assert after[f"remaining-{metric}"] <= before[f"remaining-{metric}"]
            assert after[f"reset-{metric}"] >= before[f"reset-{metric}"]
            assert 0 <= after[f"remaining-{metric}"] <= after[f"limit-{metric}"]
        before = after
    now = START
    _, wait = guard.refusal(now, 12, 0)
    for pause in pauses:
        now += pause
        after = told(guard, now)
        for metric in (m for m in METRICS if f"limit-{m}" in before):
            assert after[f"remaining-{metric}"] >= before[f"remaining-{metric}"]
            assert after[f"reset-{metric}"] <= before[f"reset-{metric}"]
        _, less = guard.refusal(now, 12, 0)
        assert less <= max(wait, 0) if wait != -1 else less == -1
        wait, before = less, after


def test_what_never_comes_has_no_reset(build):
    """A limit of nothing: no waiting helps, and none is promised."""
    limits = build.limits
    guard = limits.Guard((limits.Window(0, SECOND), limits.Window(5, SECOND)))
    assert told(guard, START) == {"limit-requests": 0, "remaining-requests": 0}
