"""Streams that reserve as they go: extended whole or not at all, cut where nothing is left.

Its worst day: an extension that is taken from one meter and not from the next, tokens given back to
a cell they were not taken from, and a stream over midnight that spends from no period or from two.
"""

from __future__ import annotations

import random

import pytest

SECOND = 1_000_000
DAY = 86_400 * SECOND
START = 1_790_000_000 * SECOND
MIDNIGHT = START // DAY * DAY + DAY


def test_an_extension_takes_from_all_or_from_none(build):
    """Tokens and money are asked, requests and slots are not; a refusal changes nothing."""
    limits = build.limits
    requests, slots = limits.Window(1, 60 * SECOND), limits.Slots(1)
    tokens, money = limits.Window(100, 60 * SECOND, "tokens"), limits.Budget(1_000, "day")
    held = limits.Guard((requests, slots, tokens, money)).reserve(START, 10, 100)
    assert held.extend(START + 1, 20, 300)
    assert (held.tokens, held.nano) == (30, 400)
    assert (tokens.remaining(START + 1), money.remaining(START + 1)) == (70, 600)
    assert not held.extend(START + 2, 71, 0)
    assert not held.extend(START + 2, 0, 601)
    assert held.extend(START + 2, -5, -5)
    assert (tokens.remaining(START + 2), money.remaining(START + 2)) == (70, 600)
    assert (held.tokens, held.nano, slots.taken) == (30, 400, 1)
    held.settle(START + 3, 25, 123)
    assert (tokens.remaining(START + 3), money.spent, money.reserved) == (75, 123, 0)
    assert not held.extend(START + 4, 1, 1), "it is settled"


def test_a_bucket_gives_back_what_was_taken_last(build):
    """What has drained since does not come back, of each part by its own age."""
    limits = build.limits
    bucket = limits.Bucket(10, SECOND, 100, "tokens")
    held = limits.Guard((bucket,)).reserve(START, 50, 0)
    assert held.extend(START + 2 * SECOND, 40, 0)
    held.settle(START + 3 * SECOND, 50, 0)
    assert bucket.remaining(START + 3 * SECOND) == 100 - (50 - 20 + 40 - 10) + (40 - 10)


@pytest.mark.parametrize("way", ["settle", "release", "forgo", "drop"])
def test_extensions_go_the_way_of_their_reservation(build, way):
    """Given back, let go of one meter, or counted as used when nobody said anything."""
    limits = build.limits
    window, money = limits.Window(1_000, 60 * SECOND, "tokens"), limits.Budget(1_000, "total")
    held = limits.Guard((window, money)).reserve(START, 100, 10)
    for step in range(1, 4):
        assert held.extend(START + step * SECOND, 100, 10)
    if way == "settle":
        held.settle(START + 4 * SECOND, 150, 15)
    elif way == "release":
        held.release(START + 4 * SECOND)
    elif way == "forgo":
        held.forgo(0, START + 4 * SECOND)
        assert held.extend(START + 5 * SECOND, 5_000, 10), "the window is asked no more"
        held.settle(START + 5 * SECOND, 800, 50)
    del held
    left = {"settle": (850, 985), "release": (1_000, 1_000), "forgo": (1_000, 950),
            "drop": (600, 960)}[way]  # fmt: skip
    assert (window.remaining(START + 5 * SECOND), money.remaining(START + 5 * SECOND)) == left


def test_tokens_leave_the_window_when_they_were_taken(build):
    """An extension counts from its own time, so no rolling window ever holds more than allowed."""
    limits = build.limits
    window = limits.Window(100, 60 * SECOND, "tokens")
    guard = limits.Guard((window,))
    held = guard.reserve(START, 60, 0)
    assert held.extend(START + 30 * SECOND, 40, 0)
    held.settle(START + 31 * SECOND, 90, 0)
    assert window.remaining(START + 31 * SECOND) == 10
    assert window.remaining(START + 61 * SECOND) == 70, "the first part has left, not the second"
    assert window.remaining(START + 92 * SECOND) == 100


def test_a_stream_over_midnight_counts_in_the_day_it_began(build):
    """Its extensions are asked of that day's room, and neither day sees the other's money."""
    limits = build.limits
    day = limits.Budget(1_000, "day")
    guard = limits.Guard((day,))
    held, other = guard.reserve(MIDNIGHT - 2, 0, 400), guard.reserve(MIDNIGHT - 1, 0, 100)
    new = guard.reserve(MIDNIGHT, 0, 900)
    assert day.reserved == 900
    assert not held.extend(MIDNIGHT + 1, 0, 501)
    assert held.extend(MIDNIGHT + 1, 0, 500)
    assert not other.extend(MIDNIGHT + 2, 0, 1)
    assert (day.reserved, day.spent) == (900, 0)
    held.settle(MIDNIGHT + 3, 0, 800)
    other.settle(MIDNIGHT + 3, 0, 50)
    new.settle(MIDNIGHT + 3, 0, 70)
    assert (day.spent_before, day.spent, day.reserved) == (850, 70, 0)
    late = guard.reserve(MIDNIGHT + 4, 0, 1)
    guard.reserve(MIDNIGHT + DAY, 0, 0).release(MIDNIGHT + DAY)
    guard.reserve(MIDNIGHT + 2 * DAY, 0, 0).release(MIDNIGHT + 2 * DAY)
    assert not late.extend(MIDNIGHT + 2 * DAY, 0, 1), "nobody knows that day's room any more"
    late.settle(MIDNIGHT + 2 * DAY, 0, 1)
    assert (day.spent_before, day.spent) == (0, 0)


def test_a_soft_budget_never_ends_a_stream(build):
    """It counts."""
    budget = build.limits.Budget(10, "day", False)
    held = build.limits.Guard((budget,)).reserve(START, 0, 5)
    assert held.extend(START, 0, 100)
    assert budget.reserved == 105


# -- slices -------------------------------------------------------------------------------------


def slices(build, limit_nano, *, most=-1, choices=1, ceiling=128_000, learnt=None):
    """Give a stream's slices, at a nano-dollar a token and with exact counts."""
    family = build.estimate.Family()
    for _ in range(5_000):
        family.observe(1_000, 1_000)
    tariff = build.limits.Tariff(family, 1_000, 1_000, 0, ceiling, family, learnt)
    budget = build.limits.Budget(limit_nano, "day")
    tokens, nano = tariff.amounts(0, 0, 0, most, choices, True)
    held = build.limits.Guard((budget,)).reserve(START, tokens, nano)
    assert held is not None
    return build.limits.Slices(held, tariff, most, choices), budget


def test_a_stream_reserves_a_slice_at_a_time(build):
    """The next one before the last is used up, until the longest answer is covered."""
    stream, budget = slices(build, 10**9, ceiling=5_000)
    assert budget.reserved == 2_048 == stream.covered
    assert stream.go_on(START, 1_800)
    assert stream.covered == 2_048
    assert stream.go_on(START, 2_000)
    assert stream.covered == budget.reserved == 2 * 2_048
    assert stream.go_on(START, 4_050)
    assert stream.covered == budget.reserved == 5_000
    assert stream.go_on(START, 10**6), "the provider was told, or cannot"
    assert budget.reserved == 5_000
    assert not stream.cut


def test_a_short_maximum_is_reserved_at_once(build):
    """A client that says how much it wants gets no more reserved."""
    stream, budget = slices(build, 10**9, most=500)
    assert budget.reserved == 500
    assert stream.go_on(START, 10**6)
    assert budget.reserved == 500
    stream, budget = slices(build, 10**9, most=3_000, choices=2)
    assert budget.reserved == 4_096
    assert stream.go_on(START, 4_000)
    assert budget.reserved == 6_000


def test_a_stream_without_room_goes_to_the_end_of_what_it_has(build):
    """It is asked again on the way, since others settle; at the end it is cut, within what it
    has reserved."""
    stream, budget = slices(build, 3_000)
    delivered = 0
    while stream.go_on(START, delivered):
        delivered += 1
    assert stream.cut
    assert 2_048 - 64 < delivered <= 2_048
    stream, budget = slices(build, 4_000)
    other = build.limits.Guard((budget,)).reserve(START, 0, 1_000)
    assert stream.go_on(START, 2_010)
    assert stream.covered == 2_048
    other.release(START)
    assert not stream.go_on(START, 2_047), "a slice is 2,048, and 1,952 are left"


def test_a_big_piece_reserves_as_many_slices_as_it_takes(build):
    """Providers may send a long text in one event."""
    stream, budget = slices(build, 10**9)
    assert stream.go_on(START, 20_000)
    assert stream.covered == budget.reserved >= 20_000


def test_counts_that_are_known_to_be_short_ask_earlier(build):
    """Where providers report half as much again as was counted, the line comes that much sooner."""
    stream, _ = slices(build, 10**9)
    exact = stream.line
    for _ in range(100):
        stream.tariff.answers.observe(1_000, 1_500)
    assert stream.go_on(START, exact)
    assert stream.line < 2 * 2_048 / 1.4


def test_the_slice_is_the_99th_percentile_of_answers(build):
    """2,048 until enough were seen; then what 99 of 100 do not exceed, within bounds."""
    lengths = build.limits.Lengths()
    for _ in range(255):
        lengths.observe(700)
    assert lengths.slice == 2_048
    lengths.observe(700)
    assert 700 <= lengths.slice <= 850
    for _ in range(10):
        lengths.observe(5_000)
    assert 5_000 <= lengths.slice <= 6_000
    for _ in range(10_000):
        lengths.observe(20)
    assert lengths.slice == 256
    for _ in range(10_000):
        lengths.observe(10**9)
    assert lengths.slice == 16_384
    lengths.observe(0)
    lengths.observe(-1)


def test_reasoning_that_was_not_shown_is_no_fault_of_the_count(build):
    """What passed is compared with what was shown: the answer, with its reasoning or without."""
    tariff = build.limits.Tariff(build.estimate.Family())
    for _ in range(3_000):
        tariff.learn_answer(1_000, 9_000, 8_000, 1)
        tariff.learn_answer(1_000, 1_000, 500, 1)
    assert tariff.answers.correct(1_000) < 1_050
    assert tariff.lengths.slice >= 9_000


def test_both_builds_slice_alike(twins):
    """Whatever lengths and counts they meet."""
    random_ = random.Random(5)
    for _ in range(200):
        learnt = [build.limits.Lengths() for build in twins]
        for _ in range(random_.choice((0, 300))):
            tokens = int(2 ** random_.uniform(0, 18))
            for each in learnt:
                each.observe(tokens)
        most, choices = random_.choice((-1, 10, 5_000)), random_.choice((1, 1, 3))
        limit = random_.choice((60_000, 10**6))
        pairs = [
            slices(build, limit, most=most, choices=choices, learnt=each)
            for build, each in zip(twins, learnt, strict=True)
        ]
        delivered = 0
        for _ in range(60):
            delivered += random_.randrange(2_000)
            answers = {stream.go_on(START, delivered) for stream, _ in pairs}
            assert len(answers) == 1
            assert len({(s.line, s.covered, s.cut, b.reserved) for s, b in pairs}) == 1


# -- pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b'{"messages":[{"content":"an \\"image\\" of image_url"}]}', 0),
        (b'{"a":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AA"}}]}', 1),
        (b'{"a":[{"type": "input_image", "image_url" : "https://x/y.png"}]}', 1),
        (b'{"a":[{"type":"image","source":{"media_type":"image/png"}},{"type" : "image" }]}', 2),
        (b'{"image":"x","image_url', 0),
        (b"", 0),
    ],
)
def test_pictures_are_counted(build, body, count):
    """By the parts that hold them in all three APIs, not by what the text says."""
    assert build.estimate.pictures(body) == 5_000 * count
