"""Judge one event's payload by decoding it: the cold path of the SSE tap, for both builds.

Reached only when the tap saw a member that looks like usage or an error; decides, so that text
which merely contains such words changes nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson


class Verdict(NamedTuple):
    """What a payload holds."""

    whole: bool = False
    """It is JSON."""
    usage: bool = False
    """A member "usage" that is an object, at any depth."""
    extra: bool = False
    """The usage event that answers stream_options.include_usage: "choices" is empty."""
    error: bool = False
    """A top-level "error" that is an object or a text, or a type that says so."""
    end: bool = False
    """Its type says that the stream is complete."""


ENDS = frozenset({"response.completed", "response.incomplete", "message_stop"})
"""Types of the last event of a whole stream: OpenAI Responses, Anthropic Messages."""
ERRORS = frozenset({"response.failed", "error"})
"""Types of an event that ends a stream with an error, there."""


def _holds_usage(value: Any) -> bool:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("usage"), dict):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


def judge(payload: bytes) -> Verdict:
    """Decode a payload and tell what it holds; what is no JSON holds nothing."""
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return Verdict()
    if not isinstance(value, dict):
        return Verdict(whole=True, usage=_holds_usage(value))
    error = value.get("error")
    kind = value.get("type")
    told = kind if isinstance(kind, str) else ""
    return Verdict(
        whole=True,
        usage=_holds_usage(value),
        extra=value.get("choices") == [] and isinstance(value.get("usage"), dict),
        error=isinstance(error, dict) or (isinstance(error, str) and error != "") or told in ERRORS,
        end=told in ENDS,
    )
