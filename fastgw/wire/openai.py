"""OpenAI's wire format: error bodies, in-stream errors, model lists.

Shapes follow the public OpenAPI description of the API (`Error`, `Model`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastgw.domain import Model
from fastgw.errors import ClientError, GatewayError
from fastgw.wire import json

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


def error_body(error: GatewayError) -> bytes:
    """Give the whole JSON body of an error answer."""
    return json.dumps({"error": error_object(error)})


def error_event(error: GatewayError) -> bytes:
    """Give the event that ends a chat stream which cannot go on; no `[DONE]` follows it."""
    return b"data: " + error_body(error) + b"\n\n"


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
