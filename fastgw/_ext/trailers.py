"""Which trailer lines of a chunked body are taken; for both builds. Knows bytes only."""

from __future__ import annotations

import re

MAX_TRAILERS = 8192
"""Bytes of all trailer lines of a body."""

_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t\x20-\x7e\x80-\xff]*\r\n")
_FORBIDDEN = frozenset(
    b"authorization api-key cache-control connection content-encoding content-length content-range "
    b"content-type cookie expect host idempotency-key keep-alive max-forwards pragma "
    b"proxy-authenticate proxy-authorization proxy-connection range set-cookie te trailer "
    b"transfer-encoding upgrade x-api-key x-goog-api-key www-authenticate".split()
)
"""Framing, routing, credentials, request modifiers and what says how to read the content: too late
for us, and not for a reader that merges trailers into the head (RFC 9110 section 6.5.1)."""


def accepts(line: bytes) -> bool:
    """Tell whether a whole line is a field that may come after the body."""
    match = _LINE.fullmatch(line)
    return match is not None and match[1].lower() not in _FORBIDDEN
