"""What the routes that generate text have in common, and where they differ. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from fastgw.mock import anthropic, completions, openai, responses
from fastgw.mock.answer import Answer
from fastgw.mock.behaviour import Behaviour
from fastgw.mock.event import Event
from fastgw.mock.openai import ChatRequest, Refusal


@dataclass(frozen=True, slots=True)
class Wire:
    """One wire format.

    `as_chat` gives a question in the form of a chat request, which decides prompt and tool;
    `error` is the event that ends a stream, `failure` the body of a 200 that is an error.
    """

    path: str
    prefix: str
    read: Callable[[Mapping[str, Any]], ChatRequest]
    as_chat: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    body: Callable[[ChatRequest, Answer, Behaviour], Event]
    events: Callable[[ChatRequest, Answer, Behaviour], Iterator[Event]]
    error: bytes
    failure: bytes


_FAILURE = orjson.dumps({"error": openai.STREAM_ERROR})

WIRES = (
    Wire(
        "/v1/chat/completions",
        "chatcmpl-",
        openai.read_chat,
        lambda question: question,
        openai.chat_body,
        openai.chat_events,
        b"data: %b\n\n" % _FAILURE,
        _FAILURE,
    ),
    Wire(
        "/v1/completions",
        "cmpl-",
        completions.read,
        completions.as_chat,
        completions.body,
        completions.events,
        b"data: %b\n\n" % _FAILURE,
        _FAILURE,
    ),
    Wire(
        "/v1/responses",
        "resp_",
        responses.read,
        responses.as_chat,
        responses.body,
        responses.events,
        responses.ERROR,
        _FAILURE,
    ),
    Wire(
        "/v1/messages",
        "msg_",
        anthropic.read,
        anthropic.as_chat,
        anthropic.body,
        anthropic.events,
        b"event: error\ndata: %b\n\n" % anthropic.FAILURE,
        anthropic.FAILURE,
    ),
)


def refusal_body(path: str, refused: Refusal) -> bytes:
    """Give the error body for a path, in the shape of its API."""
    return anthropic.error_body(refused) if anthropic.owns(path) else refused.body
