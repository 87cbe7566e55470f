"""OpenAI's wire format: error bodies, in-stream errors, model lists.

Shapes follow the public OpenAPI description of the API (`Error`, `Model`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fastgw.domain import Model
from fastgw.errors import ClientError, GatewayError
from fastgw.wire import json

_NUMBER = re.compile(rb'(?<!\\)"sequence_number" *: *([0-9]{1,15})')
"""In an event of Responses; in a text the quotes would be escaped."""
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def error_object(error: GatewayError) -> dict[str, Any]:
    """Give the `error` member for an error of ours."""
    kind = _TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if isinstance(error, ClientError) else "server_error"
    return {"message": error.message, "type": kind, "param": error.param, "code": error.code}


def error_body(error: GatewayError, _request_id: str) -> bytes:
    """Give the whole JSON body of an error answer."""
    return json.dumps({"error": error_object(error)})


def error_event(error: GatewayError, request_id: str, _last: bytes = b"") -> bytes:
    """Give the event that ends a stream of chat or completions; no `[DONE]` follows it."""
    return b"data: " + error_body(error, request_id) + b"\n\n"


def responses_error_event(error: GatewayError, _request_id: str, last: bytes = b"") -> bytes:
    """Give the event that ends a Responses stream which cannot go on; its number follows the last.

    Beside the documented members (`ResponseErrorEvent`) stands `error`, which OpenAI's server sends
    too and its clients raise on.
    """
    told = error_object(error)
    numbers = _NUMBER.findall(last)
    number = int(numbers[-1]) + 1 if numbers else 0
    event = {"type": "error", **{name: told[name] for name in ("code", "message", "param")}}
    event["sequence_number"] = number
    return b"event: error\ndata: " + json.dumps({**event, "error": told}) + b"\n\n"


def model_object(model: Model) -> dict[str, Any]:
    """Give one entry of `GET /v1/models`; `created` is in seconds."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_at // 1000,
        "owned_by": model.owned_by,
    }


def model_list(models: Iterable[Model]) -> bytes:
    """Give the body of `GET /v1/models`."""
    return json.dumps({"object": "list", "data": [model_object(model) for model in models]})
