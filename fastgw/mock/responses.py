"""OpenAI's Responses: requests read, bodies and events written. Pure.

Shapes are those of the API reference; a stream has numbered events, ends with `response.completed`
or `response.incomplete`, and always reports usage there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from fastgw.mock.answer import CREATED, Answer, Choice
from fastgw.mock.behaviour import Behaviour, UsageMode
from fastgw.mock.event import Event
from fastgw.mock.openai import ChatRequest, Refusal, read_chat, told

ERROR = b"event: error\ndata: " + orjson.dumps(
    {
        "type": "error",
        "code": "server_error",
        "message": "The server had an error.",
        "param": None,
        "sequence_number": 0,
    }
) + b"\n\n"  # fmt: skip


def read(question: Mapping[str, Any]) -> ChatRequest:
    """Check what the mock reads of a request."""
    plain = {name: question.get(name) for name in ("model", "stream")}
    maximum = question.get("max_output_tokens")
    return read_chat({**plain, "max_tokens": maximum, "messages": as_chat(question)["messages"]})


def as_chat(question: Mapping[str, Any]) -> dict[str, Any]:
    """Give the question as a chat request."""
    said = question.get("input")
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "'input' must be text or a list of items.", param="input")
    if messages[-1].get("type") == "function_call_output":
        messages = [*messages[:-1], {**messages[-1], "role": "tool"}]
    if isinstance(question.get("instructions"), str):
        messages = [{"role": "system", "content": question["instructions"]}, *messages]
    chat: dict[str, Any] = {"messages": messages}
    if question.get("tools"):
        chat["tools"] = [{"function": tool} for tool in question["tools"]]
    choice = question.get("tool_choice")
    if choice is not None:
        chat["tool_choice"] = {"function": choice} if isinstance(choice, dict) else choice
    return chat


def usage_object(answer: Answer, behaviour: Behaviour) -> Any:
    """Give what is reported for the true counts."""
    mode = behaviour.usage
    if mode is UsageMode.NULL:
        return None
    given, made = told(answer.prompt, mode), told(answer.completion, mode)
    usage: dict[str, Any] = {
        "input_tokens": given,
        "output_tokens": made,
        "total_tokens": given + made,
    }
    if mode is UsageMode.STRING:
        return {name: str(value) for name, value in usage.items()}
    usage["input_tokens_details"] = {"cached_tokens": min(behaviour.cached, answer.prompt)}
    usage["output_tokens_details"] = {"reasoning_tokens": 0}
    return usage


def body(request: ChatRequest, answer: Answer, behaviour: Behaviour) -> Event:
    """Give a plain answer as one event."""
    whole = _whole(request, answer, behaviour)
    return Event(orjson.dumps(whole), tokens=answer.completion, usage=whole.get("usage"))


def events(request: ChatRequest, answer: Answer, behaviour: Behaviour) -> Iterator[Event]:
    """Give a streamed answer event by event."""
    numbered = _Numbered()
    choice = answer.choices[0]
    begun = _response(request, answer, "in_progress", [])
    yield Event(numbered.event("response.created", response=begun))
    yield Event(numbered.event("response.in_progress", response=begun))
    empty = _item(answer, choice, "", "in_progress")
    named = 0 if choice.tool is None else min(1, choice.tokens)
    data = numbered.event("response.output_item.added", output_index=0, item=empty)
    yield Event(data, named, bool(named))
    place = {"item_id": empty["id"], "output_index": 0}
    if choice.tool is None:
        place["content_index"] = 0
        part = {"type": "output_text", "text": "", "annotations": []}
        yield Event(numbered.event("response.content_part.added", **place, part=part))
    kind = "output_text" if choice.tool is None else "function_call_arguments"
    text = ""
    for piece in choice.pieces():
        text += piece
        yield Event(numbered.event(f"response.{kind}.delta", **place, delta=piece), 1, paced=True)
    member = "text" if choice.tool is None else "arguments"
    yield Event(numbered.event(f"response.{kind}.done", **place, **{member: text}))
    item = _item(answer, choice, text, "completed")
    if choice.tool is None:
        yield Event(numbered.event("response.content_part.done", **place, part=item["content"][0]))
    yield Event(numbered.event("response.output_item.done", output_index=0, item=item))
    whole = _whole(request, answer, behaviour)
    data = numbered.event(f"response.{whole['status']}", response=whole)
    yield Event(data, usage=whole.get("usage"))


class _Numbered:
    """Events as they are counted."""

    def __init__(self) -> None:
        self._number = -1

    def event(self, kind: str, **members: Any) -> bytes:
        self._number += 1
        data = {"type": kind, "sequence_number": self._number, **members}
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(data))


def _whole(request: ChatRequest, answer: Answer, behaviour: Behaviour) -> dict[str, Any]:
    choice = answer.choices[0]
    status = "incomplete" if choice.finish == "length" else "completed"
    item = _item(answer, choice, "".join(choice.pieces()), status)
    whole = _response(request, answer, status, [item])
    if status == "incomplete":
        whole["incomplete_details"] = {"reason": "max_output_tokens"}
    if behaviour.usage is UsageMode.NONE:
        del whole["usage"]
    else:
        whole["usage"] = usage_object(answer, behaviour)
    return whole


def _response(
    request: ChatRequest, answer: Answer, status: str, output: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "id": f"resp_{answer.mark}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": request.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }


def _item(answer: Answer, choice: Choice, text: str, status: str) -> dict[str, Any]:
    if choice.tool is not None:
        return {
            "type": "function_call",
            "id": f"fc_{answer.mark}",
            "call_id": choice.tool.id,
            "name": choice.tool.name,
            "arguments": text,
            "status": status,
        }
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "type": "message",
        "id": f"msg_{answer.mark}",
        "role": "assistant",
        "status": status,
        "content": [part] if text or status != "in_progress" else [],
    }
