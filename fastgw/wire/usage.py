"""A provider's usage in our words, whichever API it speaks."""

from __future__ import annotations

from fastgw._ext import usage
from fastgw.domain import Usage


def read(reported: bytes) -> Usage | None:
    """Read the JSON text of a usage object; None when it says nothing or makes no sense."""
    return _usage(usage.read(reported))


def read_event(payload: bytes, first: bytes | None = None) -> Usage | None:
    """Read the usage in an event's payload; what it leaves out stands in the event `first`."""
    return _usage(usage.read_event(payload, first))


def _usage(counts: usage.Counts | None) -> Usage | None:
    if counts is None:
        return None
    return Usage(
        input_tokens=counts[0],
        output_tokens=counts[1],
        cached_tokens=counts[2],
        cache_write_tokens=counts[3],
        reasoning_tokens=counts[4],
        cache_write_1h_tokens=counts[5],
        audio_input_tokens=counts[6],
        image_input_tokens=counts[7],
        audio_output_tokens=counts[8],
        image_output_tokens=counts[9],
    )
