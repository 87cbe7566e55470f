"""Read the tokens a provider reported, and price them. Twin of _usage.pyx.

Counts are (input, output, cached, cache_write, reasoning, cache_write_1h, audio_in, image_in,
audio_out, image_out): input includes cache reads and writes, audio and pictures, cache_write what
is kept for an hour, output reasoning, audio and pictures, whoever reported. Prices are pico-dollars
a unit, one tuple a tier: (above, input, output, cached, cache_write, reasoning, cache_write_1h,
audio_in, image_in, audio_out, image_out, per_request). A tier holds for requests whose input is
above so many tokens, all of it; the first for all others.
"""

from __future__ import annotations

from typing import Any

import orjson

Counts = tuple[int, int, int, int, int, int, int, int, int, int]
Tier = tuple[int, int, int, int, int, int, int, int, int, int, int, int]
Prices = tuple[Tier, ...]

MOST = 1 << 40
"""No exchange has a trillion tokens; more is nonsense and would overflow money."""
MOST_NANO = 2**63 - 1
"""Nano-dollars a database column holds; an absurd report saturates rather than lose a record."""

_PICO_IN_NANO = 1000
_BESIDE = ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens")
"""Cache reads outside the details: DeepSeek, Mistral, Together."""
_HOLDERS = ("x_groq", "response", "message")
"""Where an event keeps its usage if not at the top: Groq (its API reference), Responses, the first
event of Anthropic's."""


def read(payload: bytes) -> Counts | None:
    """Read a usage object of chat completions, completions, embeddings, Responses or Messages.

    Gives None when there is none, when it is not known yet (null, as in Databricks' events before
    the last), or when it makes no sense (a negative, fractional or textual count): a provider's
    nonsense is never money.
    """
    return _counts(_loads(payload))


def read_event(payload: bytes, first: bytes | None = None) -> Counts | None:
    """Read the usage object in an event's payload.

    What it leaves out or leaves null stands in the event `first`, if one is given: Anthropic tells
    the input when a message starts and the output when it ends.
    """
    reported = _held(_loads(payload))
    before = _held(_loads(first)) if first is not None else None
    if isinstance(reported, dict) and isinstance(before, dict):
        known = {name: value for name, value in reported.items() if value is not None}
        reported = {**before, **known}
    return _counts(reported)


def cost(counts: Counts, prices: Prices) -> int:
    """Give the cost in nano-dollars, never negative, rounded half up once a price line.

    Parts are clamped to their whole in a fixed order (cached, cache writes, audio, pictures of the
    input; reasoning, audio, pictures of the output), so that a report that contradicts itself never
    credits anybody.
    """
    into, outof = max(counts[0], 0), max(counts[1], 0)
    lines = next((tier for tier in reversed(prices) if into > tier[0]), prices[0])[1:]
    cached, into = _part(counts[2], into)
    written, into = _part(counts[3], into)
    hour, written = _part(counts[5], written)
    audio_in, into = _part(counts[6], into)
    image_in, into = _part(counts[7], into)
    reasoning, outof = _part(counts[4], outof)
    audio_out, outof = _part(counts[8], outof)
    image_out, outof = _part(counts[9], outof)
    units = (
        into, outof, cached, written, reasoning, hour, audio_in, image_in, audio_out, image_out, 1,
    )  # fmt: skip
    return min(sum(map(_line, units, lines)), MOST_NANO)


def _part(count: int, whole: int) -> tuple[int, int]:
    """Give a part, no more than its whole, and what is left."""
    part = min(max(count, 0), whole)
    return part, whole - part


def _line(units: int, price: int) -> int:
    return (units * max(price, 0) + _PICO_IN_NANO // 2) // _PICO_IN_NANO


def _loads(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None


def _held(event: Any) -> Any:
    """Give the first usage in an event that is not null."""
    if not isinstance(event, dict):
        return None
    for holder in (event, *map(event.get, _HOLDERS)):
        if isinstance(holder, dict) and holder.get("usage") is not None:
            return holder["usage"]
    return None


def _counts(reported: Any) -> Counts | None:
    if not isinstance(reported, dict):
        return None
    prompt = _count(reported, "prompt_tokens", "input_tokens")
    output = _count(reported, "completion_tokens", "output_tokens")
    if prompt is None or output is None:
        return None
    into = _details(reported, "prompt_tokens_details", "input_tokens_details")
    outof = _details(reported, "completion_tokens_details", "output_tokens_details")
    cached = _count(into, "cached_tokens") or _count(reported, *_BESIDE) or 0
    written = _count(into, "cache_write_tokens") or 0
    reasoning = _count(outof, "reasoning_tokens", "thinking_tokens") or 0
    if reported.get("total_tokens") == prompt + output + reasoning:
        # xAI counts reasoning beside the completion, which its total shows.
        output += reasoning
    if "prompt_tokens" not in reported and (
        "cache_read_input_tokens" in reported or "cache_creation_input_tokens" in reported
    ):
        # Anthropic's input leaves out what went through the cache (its guide to prompt caching).
        cached = _count(reported, "cache_read_input_tokens") or 0
        written = _count(reported, "cache_creation_input_tokens") or 0
        prompt += cached + written
    cached, into_left = _part(cached, prompt)
    written, into_left = _part(written, into_left)
    creation = reported.get("cache_creation")
    hour = 0
    if isinstance(creation, dict):
        hour = min(_count(creation, "ephemeral_1h_input_tokens") or 0, written)
    audio_in, into_left = _part(_count(into, "audio_tokens") or 0, into_left)
    image_in, _ = _part(_count(into, "image_tokens") or 0, into_left)
    reasoning, outof_left = _part(reasoning, output)
    audio_out, outof_left = _part(_count(outof, "audio_tokens") or 0, outof_left)
    image_out, _ = _part(_count(outof, "image_tokens") or 0, outof_left)
    return (
        prompt, output, cached, written, reasoning, hour, audio_in, image_in, audio_out, image_out,
    )  # fmt: skip


def _details(reported: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = reported.get(name)
        if isinstance(value, dict):
            return value
    return {}


def _count(reported: dict[str, Any], *names: str) -> int | None:
    """Read a count under the first name present; absent is 0, null and nonsense are None."""
    for name in names:
        if name not in reported:
            continue
        value = reported[name]
        if type(value) is int and 0 <= value <= MOST:
            return value
        if type(value) is float and value.is_integer() and 0 <= value <= MOST:
            return int(value)
        return None
    return 0
