"""OpenAI's older completions: a text goes on. Requests read, bodies and events written. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from fastgw.mock.answer import CREATED, Answer, Choice
from fastgw.mock.behaviour import Behaviour, UsageMode
from fastgw.mock.event import Event
from fastgw.mock.openai import DONE, ChatRequest, Refusal, is_tokens, read_chat, usage_object

_SILENT = {UsageMode.NONE, UsageMode.IN_CONTENT}


def read(question: Mapping[str, Any]) -> ChatRequest:
    """Check what the mock reads of a request."""
    return read_chat({**question, **as_chat(question)})


def as_chat(question: Mapping[str, Any]) -> dict[str, Any]:
    """Give the question as a chat request: one message a prompt."""
    prompt = question.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) or is_tokens(prompt) else prompt
    if not isinstance(prompts, list) or not prompts:
        raise Refusal(400, "'prompt' must be text or tokens, or a list of them.", param="prompt")
    return {"messages": [{"role": "user", "content": prompt} for prompt in prompts]}


def body(request: ChatRequest, answer: Answer, behaviour: Behaviour) -> Event:
    """Give a plain answer as one event."""
    choices = [
        _choice(choice, "".join(choice.pieces()), choice.finish) for choice in answer.choices
    ]
    whole = _frame(request, answer, choices)
    usage = None
    if behaviour.usage is not UsageMode.NONE:
        whole["usage"] = usage = usage_object(answer.prompt, answer.completion, behaviour)
    return Event(orjson.dumps(whole), tokens=answer.completion, usage=usage)


def events(request: ChatRequest, answer: Answer, behaviour: Behaviour) -> Iterator[Event]:
    """Give a streamed answer event by event, choice after choice."""
    mode, sent = behaviour.usage, 0
    for choice in answer.choices:
        for piece in choice.pieces():
            sent += 1
            usage = usage_object(answer.prompt, sent, behaviour)
            running = {"usage": usage} if mode is UsageMode.RUNNING else {}
            data = _event(request, answer, [_choice(choice, piece, None)], running)
            yield Event(data, 1, paced=True, usage=usage if running else None)
    usage = usage_object(answer.prompt, answer.completion, behaviour)
    for choice in answer.choices:
        last = mode is UsageMode.IN_CONTENT and choice is answer.choices[-1]
        told = {"usage": usage} if last else {}
        data = _event(request, answer, [_choice(choice, "", choice.finish)], told)
        yield Event(data, usage=usage if last else None)
    if mode is UsageMode.ALWAYS or (request.include_usage and mode not in _SILENT):
        yield Event(_event(request, answer, [], {"usage": usage}), usage=usage)
    yield Event(DONE)


def _event(
    request: ChatRequest,
    answer: Answer,
    choices: list[dict[str, Any]],
    more: Mapping[str, Any],
) -> bytes:
    return b"data: %b\n\n" % orjson.dumps({**_frame(request, answer, choices), **more})


def _frame(request: ChatRequest, answer: Answer, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"cmpl-{answer.mark}",
        "object": "text_completion",
        "created": CREATED,
        "model": request.model,
        "choices": choices,
    }


def _choice(choice: Choice, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": choice.index, "text": text, "logprobs": None, "finish_reason": finish}
