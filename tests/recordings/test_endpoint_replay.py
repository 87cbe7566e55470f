"""Recorded exchanges of the other endpoints go through unchanged and are accounted as reported.

What would make this lie is what would make the chat replay lie: exchanges left out, kind cuts, an
oracle that shares the gateway's own reading (`told.py` has its own).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from fastgw.domain import Usage, UsageRecord
from tests.recordings import told
from tests.recordings.play import CREDENTIAL, Played, play
from tests.recordings.recorded import Recorded, exchanges_of, is_extra, split_events

ENDPOINTS = ("messages", "responses", "completions", "embeddings")
FOREIGN = {"cohere", "gemini", "vertex"}
"""Whose embeddings are an API of their own."""
BYTEWISE = 6_000


REFUSED = {"openai-96839ea0c634-00"}
"""Asks for less than no tokens: a 400 from the provider, and before it from us."""


def chosen(endpoint: str) -> list[Recorded]:
    """Give what can be played of an endpoint."""
    return [
        one
        for one in exchanges_of(endpoint)
        if one.unplayable() is None
        and one.id not in REFUSED
        and not (endpoint == "embeddings" and one.provider in FOREIGN)
    ]


def wrong_answer(one: Played) -> str | None:
    """Say what is wrong with what the client received."""
    recorded = one.recorded
    if one.broken:
        return one.broken
    if recorded.status >= 500 or recorded.status in {401, 403}:
        shape = {"type", "error", "request_id"} if recorded.endpoint == "messages" else {"error"}
        right = one.status == 502 and set(json.loads(one.body)) == shape
        return None if right else f"{one.status} {one.body!r}"
    if one.status != recorded.status:
        return f"status {one.status}"
    seen = recorded.body
    if recorded.endpoint == "completions":
        seen = recorded.seen_by_client(one.asked)
    if one.body != seen:
        return "other bytes"
    labels = {one.headers[name] for name in ("x-request-id", "request-id") if name in one.headers}
    return None if len(labels) == 1 else f"labels: {labels}"


def wrong_request(one: Played) -> str | None:
    """Say what is wrong with what the provider received."""
    assert one.received is not None
    native = one.recorded.endpoint == "messages"
    given = one.received.header("x-api-key" if native else "authorization")
    if given != (CREDENTIAL if native else f"Bearer {CREDENTIAL}"):
        return "credential"
    if native and one.received.header("anthropic-version") != "2023-06-01":
        return "version"
    named = one.sent.replace(
        json.dumps(one.asked["model"]).encode(), json.dumps(one.recorded.id).encode(), 1
    )
    if one.recorded.endpoint == "completions" and one.asked.get("stream"):
        options = json.loads(one.received.body)["stream_options"]
        return None if options["include_usage"] is True else "usage is not asked for"
    return None if one.received.body == named else "other bytes"


def recorded_part(counted: UsageRecord | Usage) -> Usage:
    """Give the counts that a record has."""
    return Usage(**{name: getattr(counted, name) for name in Usage.__struct_fields__[:5]})


def wrong_record(one: Played) -> str | None:
    """Say what is wrong with the record."""
    record, recorded = one.record, one.recorded
    assert record is not None
    usage = recorded_part(record)
    seen = (record.status, record.usage_source, record.error_code is not None)
    said = told.usage(recorded) if recorded.status < 400 else None
    reported = said and recorded_part(said)
    if record.endpoint != recorded.endpoint:
        return f"endpoint {record.endpoint}"
    if recorded.status >= 400:
        right = seen == (one.status, "reported", True) and usage == Usage()
    elif told.has_fault(recorded):
        right = seen == (502, "partial" if reported is None else "reported", True)
    elif reported is None:
        right = seen == (200, "estimated", False)
    else:
        right = (*seen, usage) == (200, "reported", False, reported)
    return None if right else f"record: {seen} {usage}, reported was {reported}"


def wrongs(played: list[Played]) -> list[str]:
    """Give all that is wrong, one line each."""
    return [
        f"{one.recorded.id}: {wrong}"
        for one in played
        for check in (wrong_answer, wrong_request, wrong_record)
        if (wrong := check(one)) is not None
    ]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_exchange_comes_through_as_recorded(
    endpoint, tmp_path: Path, sqlite_url: str, record_property
) -> None:
    """Answer, request and record of each one, cut at random places."""
    exchanges = chosen(endpoint)
    played = play(exchanges, tmp_path, sqlite_url)
    assert wrongs(played) == []
    sources = Counter(one.record.usage_source for one in played if one.record)
    streams = sum(one.stream for one in exchanges)
    line = f"{endpoint} replay: {len(played)} exchanges, {streams} streams, {dict(sources)}"
    record_property("table", line)


@pytest.mark.parametrize("endpoint", ENDPOINTS[:3])
def test_streams_byte_by_byte(endpoint, tmp_path: Path, sqlite_url: str, record_property) -> None:
    """Short streams, one byte a segment: every event is cut everywhere."""
    exchanges = [one for one in chosen(endpoint) if one.stream and len(one.body) < BYTEWISE]
    played = play(exchanges, tmp_path, sqlite_url, segments=1)
    assert played
    assert wrongs(played) == []
    record_property("table", f"{endpoint} byte by byte: {len(played)} streams")


def test_nothing_is_left_out() -> None:
    """Only what no HTTP client could have seen is not played."""
    for endpoint in ENDPOINTS:
        left = [
            one
            for one in exchanges_of(endpoint)
            if one.unplayable() is not None and one.provider not in FOREIGN
        ]
        assert left == []


def test_the_extra_event_of_completions_goes(tmp_path: Path, sqlite_url: str) -> None:
    """A client that did not ask for usage does not get the event, and it is recorded."""
    exchanges = [one for one in chosen("completions") if any(map(is_extra, split_events(one.body)))]
    played = play(exchanges, tmp_path, sqlite_url, ask_usage=False)
    assert wrongs(played) == []
    assert all(len(one.body) < len(one.recorded.body) for one in played)
