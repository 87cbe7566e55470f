"""Anthropic's wire format: error bodies, in-stream errors, model lists.

Shapes follow the API reference (Errors, List Models); an error's type is told by its status there.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from fastgw.domain import Model
from fastgw.errors import ClientError, GatewayError
from fastgw.wire import json

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(error: GatewayError, request_id: str) -> bytes:
    """Give the whole JSON body of an error answer."""
    kind = _TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if isinstance(error, ClientError) else "api_error"
    return json.dumps(
        {
            "type": "error",
            "error": {"type": kind, "message": error.message},
            "request_id": request_id,
        }
    )


def error_event(error: GatewayError, request_id: str, _last: bytes = b"") -> bytes:
    """Give the event that ends a stream which cannot go on; no `message_stop` follows it."""
    return b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"


def model_object(model: Model) -> dict[str, Any]:
    """Give one entry of `GET /v1/models`."""
    created = datetime.fromtimestamp(model.created_at // 1000, UTC)
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def model_list(models: Iterable[Model]) -> bytes:
    """Give the body of `GET /v1/models`: one page holds all."""
    data = [model_object(model) for model in models]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return json.dumps({"data": data, "has_more": False, "first_id": first, "last_id": last})
