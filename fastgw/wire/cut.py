"""How a stream ends that may not go on, in the client API's own words: it met its maximum.

OpenAI: a chunk with `finish_reason: length`, then `[DONE]`; Responses: `response.incomplete` with
the reason `max_output_tokens`; Anthropic: the open block is closed, `message_delta` with
`stop_reason: max_tokens`, `message_stop`. Shapes follow the three API references.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fastgw.domain import Usage
from fastgw.wire import json


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """What went to the client so far: the first and the last whole events, and what they count."""

    first: bytes
    last: bytes
    usage: Usage
    choices: int = 1
    wants_usage: bool = False
    """Whether the client asked for the event with the usage."""


def chat_events(passed: Passed) -> bytes:
    """End a stream of chat completions."""
    choices: list[dict[str, Any]] = [
        {"index": index, "delta": {}, "logprobs": None, "finish_reason": "length"}
        for index in range(passed.choices)
    ]
    return _completion_events(passed, "chat.completion.chunk", choices)


def text_events(passed: Passed) -> bytes:
    """End a stream of (legacy) completions."""
    choices = [
        {"index": index, "text": "", "logprobs": None, "finish_reason": "length"}
        for index in range(passed.choices)
    ]
    return _completion_events(passed, "text_completion", choices)


def responses_events(passed: Passed) -> bytes:
    """End a stream of Responses; `output` stays as it was told when the response began."""
    first, last = _payloads(passed.first), _payloads(passed.last)
    held = (event["response"] for event in first if isinstance(event.get("response"), dict))
    response = {
        **next(held, {"object": "response"}),
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "usage": _openai_usage(passed.usage, "input_tokens", "output_tokens"),
    }
    numbers = (event.get("sequence_number") for event in reversed(last))
    number = next((number for number in numbers if type(number) is int), -1)
    event = {"type": "response.incomplete", "response": response, "sequence_number": number + 1}
    return b"event: response.incomplete\ndata: %b\n\n" % json.dumps(event)


def anthropic_events(passed: Passed) -> bytes:
    """End a stream of messages."""
    blocks: list[Any] = []
    for event in _payloads(passed.last):
        if event.get("type") in {"content_block_start", "content_block_delta"}:
            blocks = [event.get("index", 0)]
        elif event.get("type") == "content_block_stop":
            blocks = []
    events: list[dict[str, Any]] = [
        {"type": "content_block_stop", "index": block} for block in blocks
    ]
    events += [
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {"output_tokens": passed.usage.output_tokens},
        },
        {"type": "message_stop"},
    ]
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event)) for event in events
    )


def _completion_events(passed: Passed, kind: str, choices: list[dict[str, Any]]) -> bytes:
    told: dict[str, Any] = {"object": kind}
    for event in reversed(_payloads(passed.last)):
        if "choices" in event:
            names = ("id", "object", "created", "model", "system_fingerprint")
            told = {name: event[name] for name in names if name in event}
            break
    events = [{**told, "choices": choices}]
    if passed.wants_usage:
        events[0]["usage"] = None
        usage = _openai_usage(passed.usage, "prompt_tokens", "completion_tokens")
        events.append({**told, "choices": [], "usage": usage})
    return b"".join(b"data: %b\n\n" % json.dumps(event) for event in events) + b"data: [DONE]\n\n"


def _openai_usage(usage: Usage, into: str, out: str) -> dict[str, int]:
    total = usage.input_tokens + usage.output_tokens
    return {into: usage.input_tokens, out: usage.output_tokens, "total_tokens": total}


def _payloads(events: bytes) -> list[dict[str, Any]]:
    """Give the JSON objects that are the data of whole events, a line each."""
    found = []
    for line in events.splitlines():
        if not line.startswith(b"data:"):
            continue
        try:
            payload = json.loads(line[5:])
        except ValueError:
            continue
        if isinstance(payload, dict):
            found.append(payload)
    return found
