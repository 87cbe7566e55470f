"""What a provider's status means, for answers that cannot be relayed as they are.

A table, read by status alone: texts of providers change, statuses do not.
"""

from __future__ import annotations

from fastgw.errors import GatewayError, InvalidRequest, UpstreamFault, UpstreamTimeout
from fastgw.wire import json

_REASONS = {
    401: "refused our credential",
    403: "refused our credential",
    404: "does not know this path or model",
    429: "is out of quota or limits us",
    529: "is overloaded",
}
_TIMEOUTS = frozenset({408, 504, 524})
_LONGEST = 300


def explain(provider: str, status: int, body: bytes) -> GatewayError:
    """Give the error for an answer of `provider` that is not 2xx.

    401 and 403 are about our credential, not the client's key, so they are faults of the gateway's
    side; 5xx keep their status and message in the text.
    """
    said = "" if status in {401, 403} else safe_message(body)
    reason = _REASONS.get(status, f"answered {status}")
    text = f"provider {provider} {reason}" + (f" ({status})" if status in _REASONS else "")
    message = f"{text}: {said}" if said else text
    if status in _TIMEOUTS:
        return UpstreamTimeout(message)
    if 400 <= status < 500 and status not in {401, 403, 429}:
        error: GatewayError = InvalidRequest(message)
        error.status = status
        return error
    return UpstreamFault(message)


def safe_message(body: bytes) -> str:
    """Give the message of a JSON error body, one line, bounded; "" when there is none to show."""
    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    if isinstance(answer, list) and answer:  # Google's errors
        answer = answer[0]
    error = answer.get("error", answer) if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    if not isinstance(message, str):
        return ""
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
