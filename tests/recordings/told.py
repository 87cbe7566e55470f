"""What a recorded answer of the other endpoints reports, read without any code of the gateway's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fastgw.domain import Usage
from tests.recordings.recorded import Recorded, expected_usage, payload_of, split_events

_ENDS = {"response.completed", "response.incomplete", "response.failed"}


def events(recorded: Recorded) -> Iterator[dict[str, Any]]:
    """Give the events of a stream that are JSON objects."""
    for payload in map(payload_of, split_events(recorded.body)):
        if payload.startswith(b"{"):
            yield json.loads(payload)


def has_fault(recorded: Recorded) -> bool:
    """Tell whether the stream holds an error."""
    return recorded.stream and any(
        event.get("type") in {"error", "response.failed"} or event.get("error")
        for event in events(recorded)
    )


def usage(recorded: Recorded) -> Usage | None:
    """Give what was reported, in the contract's words."""
    if recorded.endpoint == "messages":
        return _messages(recorded)
    told = _last(recorded)
    if told is None:
        return None
    if recorded.endpoint == "responses":
        told = {
            name.replace("input_", "prompt_").replace("output_", "completion_"): value
            for name, value in told.items()
        }
    return expected_usage({"prompt_tokens": 0, "completion_tokens": 0, **told})


def _last(recorded: Recorded) -> dict[str, Any] | None:
    if not recorded.stream:
        return json.loads(recorded.body).get("usage")
    found = None
    for event in events(recorded):
        holder = event["response"] if event.get("type") in _ENDS else event
        found = holder.get("usage") or found
    return found


def _messages(recorded: Recorded) -> Usage | None:
    told: dict[str, Any] = {}
    if recorded.stream:
        complete = False
        for event in events(recorded):
            told |= event.get("message", event).get("usage") or {}
            complete = complete or "usage" in event
        if not complete:
            return None
    else:
        told = json.loads(recorded.body).get("usage") or {}
    if not told:
        return None
    read = told.get("cache_read_input_tokens") or 0
    written = told.get("cache_creation_input_tokens") or 0
    return Usage(
        input_tokens=told["input_tokens"] + read + written,
        output_tokens=told["output_tokens"],
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=(told.get("output_tokens_details") or {}).get("thinking_tokens", 0),
    )
