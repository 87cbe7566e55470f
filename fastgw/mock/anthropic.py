"""The Anthropic wire format: requests read, bodies, events and errors written. Pure.

Shapes are those of the API reference (Messages, Streaming, Errors): a stream tells the input when
the message starts and the output before it stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from fastgw.mock.answer import Answer, Choice
from fastgw.mock.behaviour import Behaviour, UsageMode
from fastgw.mock.event import Event
from fastgw.mock.openai import ChatRequest, Refusal, read_chat, told

FAILURE = orjson.dumps(
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
)
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def owns(path: str) -> bool:
    """Tell whether a path belongs to this API."""
    return path.startswith("/v1/messages")


def error_body(refused: Refusal) -> bytes:
    """Give the body of a refusal."""
    kind = _KINDS.get(refused.status, "api_error")
    if refused.status < 500 and refused.status not in _KINDS:
        kind = "invalid_request_error"
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": str(refused)}})


def read(question: Mapping[str, Any]) -> ChatRequest:
    """Check what the mock reads of a request."""
    if "max_tokens" not in question:
        raise Refusal(400, "max_tokens: Field required")
    return read_chat({name: question[name] for name in question if name != "n"})


def as_chat(question: Mapping[str, Any]) -> dict[str, Any]:
    """Give the question as a chat request."""
    messages = list(question["messages"])
    if question.get("system"):
        messages.insert(0, {"role": "system", "content": question["system"]})
    last = messages[-1].get("content")
    if isinstance(last, list) and any(part.get("type") == "tool_result" for part in last):
        messages[-1] = {**messages[-1], "role": "tool"}
    chat: dict[str, Any] = {"messages": messages}
    if "tools" in question:
        chat["tools"] = [
            {"function": {"name": tool.get("name"), "parameters": tool.get("input_schema")}}
            for tool in question["tools"]
        ]
    choice = question.get("tool_choice")
    if choice is not None:
        named = {"function": {"name": choice.get("name")}}
        chat["tool_choice"] = _CHOICES.get(choice.get("type"), named)
    return chat


def usage_object(answer: Answer, output: int, behaviour: Behaviour) -> Any:
    """Give what is reported; what was cached is no part of the input here."""
    mode = behaviour.usage
    if mode is UsageMode.NULL:
        return None
    cached = min(behaviour.cached, answer.prompt)
    usage: dict[str, Any] = {
        "input_tokens": told(answer.prompt - cached, mode),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": told(output, mode),
    }
    if mode is UsageMode.STRING:
        return {name: str(value) for name, value in usage.items()}
    return usage


def count_body(tokens: int) -> Event:
    """Give the answer to who asks how many tokens a question has."""
    return Event(orjson.dumps({"input_tokens": tokens}))


def body(request: ChatRequest, answer: Answer, behaviour: Behaviour) -> Event:
    """Give a plain answer as one event."""
    choice = answer.choices[0]
    text = "".join(choice.pieces())
    block: dict[str, Any] = {"type": "text", "text": text}
    if choice.tool is not None:
        block = _tool_block(choice, orjson.loads(text) if choice.finish == "tool_calls" else {})
    message = _message(request, answer, [block], _STOPS[choice.finish])
    usage = None
    if behaviour.usage is not UsageMode.NONE:
        message["usage"] = usage = usage_object(answer, answer.completion, behaviour)
    return Event(orjson.dumps(message), tokens=answer.completion, usage=usage)


def events(request: ChatRequest, answer: Answer, behaviour: Behaviour) -> Iterator[Event]:
    """Give a streamed answer event by event."""
    choice = answer.choices[0]
    silent = behaviour.usage is UsageMode.NONE
    message = _message(request, answer, [], None)
    if not silent:
        message["usage"] = usage_object(answer, min(1, answer.completion), behaviour)
    yield Event(_event("message_start", message=message))
    block: dict[str, Any] = {"type": "text", "text": ""}
    named = 0
    if choice.tool is not None:
        block, named = _tool_block(choice, {}), min(1, choice.tokens)
    yield Event(_event("content_block_start", index=0, content_block=block), named, bool(named))
    yield Event(_event("ping"))
    kind, member = ("text_delta", "text")
    if choice.tool is not None:
        kind, member = ("input_json_delta", "partial_json")
    for piece in choice.pieces():
        delta = {"type": kind, member: piece}
        yield Event(_event("content_block_delta", index=0, delta=delta), 1, paced=True)
    yield Event(_event("content_block_stop", index=0))
    ending: dict[str, Any] = {
        "delta": {"stop_reason": _STOPS[choice.finish], "stop_sequence": None}
    }
    usage = usage_object(answer, answer.completion, behaviour)
    if not silent:
        ending["usage"] = None if usage is None else {"output_tokens": usage["output_tokens"]}
    yield Event(_event("message_delta", **ending), usage=None if silent else usage)
    yield Event(_event("message_stop"))


def _event(kind: str, **members: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **members}))


def _message(
    request: ChatRequest, answer: Answer, content: list[dict[str, Any]], stop: str | None
) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.mark}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
    }


def _tool_block(choice: Choice, arguments: Any) -> dict[str, Any]:
    assert choice.tool is not None
    name, mark = choice.tool.name, choice.tool.id.removeprefix("call_")
    return {"type": "tool_use", "id": f"toolu_{mark}", "name": name, "input": arguments}
