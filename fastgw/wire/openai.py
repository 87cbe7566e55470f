"""OpenAI's wire format: error bodies, in-stream errors, model lists, usage objects.

Shapes follow the public OpenAPI description of the API (`Error`, `Model`, `CompletionUsage`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastgw.domain import Model, Usage
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


def usage(reported: Any) -> Usage | None:
    """Read a usage object of chat completions, completions, embeddings or Responses.

    Gives None when there is none, when it is not known yet (null, as in Databricks' events before
    the last), or when it makes no sense (a negative, fractional or textual count): a provider's
    nonsense is never money.
    """
    if not isinstance(reported, dict):
        return None
    prompt = _count(reported, "prompt_tokens", "input_tokens")
    output = _count(reported, "completion_tokens", "output_tokens")
    if prompt is None or output is None:
        return None
    into = _details(reported, "prompt_tokens_details", "input_tokens_details")
    outof = _details(reported, "completion_tokens_details", "output_tokens_details")
    cached = _count(into, "cached_tokens") or _count(reported, *_CACHED_BESIDE) or 0
    written = _count(into, "cache_write_tokens") or 0
    reasoning = _count(outof, "reasoning_tokens") or 0
    if reported.get("total_tokens") == prompt + output + reasoning:
        # xAI counts reasoning beside the completion, which its total shows.
        output += reasoning
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        cached_tokens=min(cached, prompt),
        cache_write_tokens=min(written, prompt - min(cached, prompt)),
        reasoning_tokens=min(reasoning, output),
    )


_CACHED_BESIDE = ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens")
"""Cache reads outside the details: DeepSeek, Mistral, Together."""


def _details(reported: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = reported.get(name)
        if isinstance(value, dict):
            return value
    return {}


_MOST = 1 << 40
"""No exchange has a trillion tokens; more is nonsense and would overflow money."""


def _count(reported: dict[str, Any], *names: str) -> int | None:
    """Read a count under the first name present; absent is 0, null and nonsense are None."""
    for name in names:
        if name not in reported:
            continue
        value = reported[name]
        if type(value) is int and 0 <= value <= _MOST:
            return value
        if type(value) is float and value.is_integer() and 0 <= value <= _MOST:
            return int(value)
        return None
    return 0
