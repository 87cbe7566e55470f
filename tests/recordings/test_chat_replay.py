"""Every recorded chat exchange goes through fastgw unchanged, and is accounted as it was reported.

What would make this lie: exchanges left out, an answer cut so kindly that no event is ever split,
and an oracle that shares the gateway's own reading of usage. So everything recorded is played, cut
at random places, whole and byte by byte, and `recorded.py` reads usage by itself.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from fastgw.domain import Usage, UsageRecord
from tests.recordings import tables
from tests.recordings.play import CREDENTIAL, Played, play
from tests.recordings.recorded import (
    Recorded,
    asks_usage,
    chat_exchanges,
    expected_usage,
    is_extra,
    payload_of,
    split_events,
)

UNPLAYABLE = 0
"""Recorded chat exchanges that no HTTP client could have seen so; may only fall."""
BYTEWISE = 2_000
"""Bytes of the longest answer that is sent byte by byte."""
PROMPT_ERROR, COMPLETION_ERROR = 0.04, 0.13
"""Bounds of the median errors of plain text, in prompts to OpenAI's models and in all answers."""


@pytest.fixture(scope="module")
def exchanges() -> list[Recorded]:
    """All recorded chat exchanges that can be played."""
    return [one for one in chat_exchanges() if one.unplayable() is None]


def shortest(exchanges: list[Recorded], each: int) -> list[Recorded]:
    """Give the shortest answers of each kind and provider, in length's order."""
    chosen = []
    seen: Counter[tuple[str, bool, int]] = Counter()
    for one in sorted(exchanges, key=lambda one: len(one.body)):
        kind = (one.provider, one.stream, one.status)
        seen[kind] += 1
        if len(one.body) <= BYTEWISE and seen[kind] <= each:
            chosen.append(one)
    return chosen


def fails(one: Recorded) -> bool:
    """Tell whether the client gets an error of ours instead of the provider's."""
    return one.status >= 500 or one.status in {401, 403}


def has_fault(one: Recorded) -> bool:
    """Tell whether the stream holds an error event."""
    return one.stream and any(
        json.loads(payload).get("error")
        for payload in map(payload_of, split_events(one.body))
        if payload.startswith(b"{")
    )


def expected_headers(one: Recorded) -> dict[str, str]:
    """Give the header fields an answer must have: its label, and the provider's limits renamed."""
    recorded = {k.lower(): v for k, v in one.exchange["response"]["headers"].items()}
    expected = {
        f"x-fastgw-upstream-{name.removeprefix('x-')}": value
        for name, value in recorded.items()
        if name.startswith("x-ratelimit-") or name == "x-request-id"
    }
    label = "text/event-stream" if one.stream else "application/json"
    return {**expected, "content-type": recorded.get("content-type", label)}


def wrong_answer(one: Played) -> str | None:
    """Say what is wrong with what the client received."""
    recorded = one.recorded
    if one.broken:
        return one.broken
    if fails(recorded):
        error = json.loads(one.body)["error"]
        right = (one.status, error["code"]) == (502, "upstream_error")
        return None if right else f"{one.status} {error}"
    if one.status != recorded.status:
        return f"status {one.status}"
    if one.body != recorded.seen_by_client(one.asked):
        return "other bytes"
    missing = expected_headers(recorded).items() - one.headers.items()
    return f"headers: {missing}" if missing else None


def wrong_request(one: Played) -> str | None:
    """Say what is wrong with what the provider received."""
    assert one.received is not None
    if one.received.header("authorization") != f"Bearer {CREDENTIAL}":
        return "credential"
    recorded = one.recorded
    named = one.sent.replace(
        json.dumps(one.asked["model"]).encode(), json.dumps(recorded.id).encode(), 1
    )
    if not one.asked.get("stream") or asks_usage(one.asked):
        return None if one.received.body == named else "other bytes"
    options = {**(one.asked.get("stream_options") or {}), "include_usage": True}
    wanted = {**one.asked, "model": recorded.id, "stream_options": options}
    return None if json.loads(one.received.body) == wanted else "usage is not asked for"


def recorded_part(counted: UsageRecord | Usage) -> Usage:
    """Give the counts that a record has."""
    return Usage(**{name: getattr(counted, name) for name in Usage.__struct_fields__[:5]})


def wrong_record(one: Played) -> str | None:
    """Say what is wrong with the record."""
    record, recorded = one.record, one.recorded
    assert record is not None
    usage = recorded_part(record)
    seen = (record.status, record.usage_source, record.error_code is not None)
    reported = recorded.usage()
    if recorded.status >= 400:
        right = seen == (one.status, "reported", True) and usage == Usage()
    elif has_fault(recorded):
        right = seen == (502, "partial", True)
    elif reported is None:
        right = seen == (200, "estimated", False)
    else:
        right = (*seen, usage) == (200, "reported", False, expected_usage(reported))
    return None if right else f"record: {seen} {usage}, reported was {reported}"


def wrongs(played: list[Played]) -> list[str]:
    """Give all that is wrong, one line each."""
    return [
        f"{one.recorded.id}: {wrong}"
        for one in played
        for check in (wrong_answer, wrong_request, wrong_record)
        if (wrong := check(one)) is not None
    ]


def test_nothing_is_left_out(record_property) -> None:
    """What cannot be played is known, by reason, and never more than it was."""
    reasons = Counter(one.unplayable() for one in chat_exchanges())
    played = reasons.pop(None)
    assert sum(reasons.values()) <= UNPLAYABLE, reasons
    assert played
    record_property(
        "table", f"chat exchanges: {played} played, left out: {dict(reasons) or 'none'}"
    )


@pytest.mark.parametrize("segments", ["random", "whole"])
def test_every_exchange_comes_through_as_recorded(
    exchanges, segments, tmp_path: Path, sqlite_url: str, record_property
) -> None:
    """Answer, request and record of each one, whatever the pieces it arrived in."""
    played = play(exchanges, tmp_path, sqlite_url, segments=segments)
    bad = {
        check.__name__: {one.recorded.id for one in played if check(one) is not None}
        for check in (wrong_answer, wrong_record)
    }
    record_property("table", tables.counts(f"chat replay, cut: {segments}", played, bad))
    assert wrongs(played) == []


def test_byte_by_byte(exchanges, tmp_path: Path, sqlite_url: str, record_property) -> None:
    """Short answers of every provider, one byte a segment."""
    chosen = shortest(exchanges, 2)
    played = play(chosen, tmp_path, sqlite_url, segments=1)
    size = sum(len(one.body) for one in chosen)
    record_property("table", f"byte by byte: {len(chosen)} exchanges, {size} bytes")
    assert wrongs(played) == []


def test_streams_spelled_otherwise(
    exchanges, tmp_path: Path, sqlite_url: str, record_property
) -> None:
    """CR LF or CR alone, no space, ids, comments, no blank line at the end: the same streams."""
    chosen = [one.respelled() for one in exchanges if one.stream]
    played = play(chosen, tmp_path, sqlite_url)
    record_property("table", f"spelled otherwise: {len(chosen)} streams")
    assert wrongs(played) == []


def test_usage_that_the_client_did_not_ask_for(
    exchanges, tmp_path: Path, sqlite_url: str, record_property
) -> None:
    """The extra event is recorded and taken out; everything else is as it was."""
    chosen = [one for one in exchanges if any(map(is_extra, split_events(one.body)))]
    played = play(chosen, tmp_path, sqlite_url, ask_usage=False)
    assert wrongs(played) == []
    assert all(len(one.body) < len(one.recorded.body) for one in played)
    record_property("table", f"usage asked for by the gateway alone: {len(chosen)} streams")


def test_estimates_beside_the_truth(
    exchanges, tmp_path: Path, sqlite_url: str, record_property
) -> None:
    """With a provider that reports nothing the record says estimated, and is not far off."""
    chosen = [one for one in exchanges if one.usage() is not None and not has_fault(one)]
    played = play([one.without_usage() for one in chosen], tmp_path, sqlite_url)
    assert [one.recorded.id for one in played if wrong_answer(one)] == []
    assert {one.record.usage_source for one in played if one.record} == {"estimated"}
    errors = tables.Errors()
    for truth, one in zip(chosen, played, strict=True):
        errors.add(truth, one.record)
    record_property("table", errors.render())
    for form in ("plain", "stream"):
        assert errors.median("prompt, text", "OpenAI", form) < PROMPT_ERROR
        assert errors.median("completion, text", "all", form) < COMPLETION_ERROR
