"""Reads request bodies of the admin API: JSON, small, in time, and fitting their model strictly."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from fastgw.errors import (
    BodyTooLarge,
    InvalidJSON,
    InvalidRequest,
    RequestTimeout,
    UnsupportedMediaType,
)
from fastgw.wire import json

_LARGEST = 1 << 20
_TIMEOUT_S = 10.0

_Body = TypeVar("_Body", bound=BaseModel)


class Strict(BaseModel):
    """Base of all bodies: unknown fields refused, nothing converted, values never repeated."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class InvalidBody(InvalidRequest):
    """A body does not fit its model; `detail` lists where and why."""

    status = 422

    def __init__(self, detail: list[dict[str, Any]]) -> None:
        super().__init__("the body does not fit: see detail")
        self.detail = detail


async def read_body(request: web.Request, model: type[_Body]) -> _Body:
    """Read a JSON body; what is wrong with it is a 422 that lists `{loc, msg}`."""
    if request.content_type != "application/json":
        raise UnsupportedMediaType("the body must be application/json")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaType("the body must not be compressed")
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            value = json.loads(await _read(request))
    except TimeoutError as exc:
        raise RequestTimeout("the body did not arrive in time") from exc
    except ValueError as exc:
        raise InvalidJSON("the body is not valid JSON") from exc
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        problems = [
            {"loc": ["body", *error["loc"]], "msg": error["msg"]}
            for error in exc.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise InvalidBody(problems) from exc


async def _read(request: web.Request) -> bytes:
    # Not `request.read()`: its limit is the data plane's.
    body = bytearray()
    async for data in request.content.iter_any():
        body += data
        if len(body) > _LARGEST:
            raise BodyTooLarge(f"the body is larger than {_LARGEST} bytes")
    return bytes(body)
