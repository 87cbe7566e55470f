"""The OpenAI wire format: requests read, bodies, events and errors written. Pure.

Shapes are those of the API reference (chat completions, embeddings, models); streams follow its
rules for usage: with `stream_options.include_usage` every event has `usage: null` but one more,
with empty `choices`, that carries it.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat, zip_longest
from typing import Any

import orjson

from fastgw.mock.answer import (
    CREATED,
    Answer,
    Choice,
    answer_vector,
    input_tokens,
)
from fastgw.mock.behaviour import Behaviour, Fault, UsageMode
from fastgw.mock.event import Event

DONE = b"data: [DONE]\n\n"
DIMENSIONS = 256
HUGE = 10**18


class Refusal(Exception):
    """A request that is answered with an error in the provider's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.error = {"message": message, "type": kind, "param": param, "code": code}

    @property
    def body(self) -> bytes:
        """The error body."""
        return orjson.dumps({"error": self.error})


REFUSALS = {
    400: ("Invalid value for 'messages'.", "invalid_request_error", "invalid_value"),
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    403: ("Country, region, or territory not supported.", "request_forbidden", "unsupported"),
    404: ("The model does not exist.", "invalid_request_error", "model_not_found"),
    429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error processing your request.", "server_error", None),
    503: ("The engine is currently overloaded.", "server_error", "service_unavailable"),
}


def refusal(status: int, retry_after: float | None = None) -> Refusal:
    """Give the error a provider answers with that status; `retry_after` is in seconds."""
    message, kind, code = REFUSALS.get(status, (f"Status {status}.", "server_error", None))
    return Refusal(status, message, kind=kind, code=code, retry_after=retry_after)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked chat request; `question` is its JSON."""

    question: Mapping[str, Any]
    model: str
    stream: bool
    include_usage: bool
    choices: int
    maximum: int | None


def read_object(body: bytes) -> dict[str, Any]:
    """Give the JSON object of a request body."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refusal(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(value, dict):
        raise Refusal(400, "The JSON body must be an object.")
    return value


def read_name(question: Mapping[str, Any]) -> str:
    """Give the model a request names."""
    model = question.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "You must provide a model parameter.", param="model")
    return model


def read_chat(question: Mapping[str, Any]) -> ChatRequest:
    """Check what the mock reads of a chat request; the rest is accepted and ignored."""
    messages = question.get("messages")
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(message, dict) for message in messages)
    ):
        raise Refusal(400, "'messages' must be a list of messages.", param="messages")
    stream = question.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise Refusal(400, "'stream' must be a boolean.", param="stream")
    extras = question.get("stream_options")
    if extras is not None and not stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refusal(400, message, param="stream_options")
    if extras is not None and not isinstance(extras, dict):
        raise Refusal(400, "'stream_options' must be an object.", param="stream_options")
    maximum = _whole(question, "max_completion_tokens")
    return ChatRequest(
        question=question,
        model=read_name(question),
        stream=bool(stream),
        include_usage=bool((extras or {}).get("include_usage")),
        choices=_whole(question, "n") or 1,
        maximum=_whole(question, "max_tokens") if maximum is None else maximum,
    )


def _whole(question: Mapping[str, Any], name: str) -> int | None:
    value = question.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Refusal(400, f"'{name}' must be a whole number of at least 1.", param=name)
    if name == "n" and value > 128:
        raise Refusal(400, "'n' must be at most 128.", param="n")
    return value


def read_tool(question: Mapping[str, Any], *, eager: bool) -> Mapping[str, Any] | None:
    """Give the offered tool that is to be called, or None to answer with text.

    Called when `tool_choice` asks for it; an `eager` model calls the first one on its own, but
    answers with text once a tool's result stands last.
    """
    tools = question.get("tools")
    choice = question.get("tool_choice")
    functions = {} if tools is None else _read_functions(tools)
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or name not in functions:
            raise Refusal(400, f"Tool choice {name!r} not found in 'tools'.", param="tool_choice")
        return functions[name]
    if choice is not None and choice not in ("none", "auto", "required"):
        raise Refusal(400, "'tool_choice' is none, auto, required or a tool.", param="tool_choice")
    if not functions:
        if choice == "required":
            raise Refusal(400, "'tool_choice' needs 'tools'.", param="tool_choice")
        return None
    last = question["messages"][-1].get("role")
    wanted = choice == "required" or (eager and choice != "none" and last != "tool")
    return next(iter(functions.values())) if wanted else None


def _read_functions(tools: Any) -> dict[str, Mapping[str, Any]]:
    if not isinstance(tools, list) or not tools:
        raise Refusal(400, "'tools' must be a list of tools.", param="tools")
    functions: dict[str, Mapping[str, Any]] = {}
    for place, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name:
            raise Refusal(400, "A tool needs 'function.name'.", param=f"tools[{place}]")
        functions.setdefault(name, tool)
    return functions


# -- usage --------------------------------------------------------------------------------------


def usage_object(prompt: int, completion: int | None, behaviour: Behaviour) -> Any:
    """Give what is reported for the true counts; `completion` None for embeddings."""
    mode = behaviour.usage
    if mode is UsageMode.NULL:
        return None
    told_prompt = told(prompt, mode)
    counts = {"prompt_tokens": told_prompt}
    if completion is not None:
        counts["completion_tokens"] = told(completion, mode)
    total = sum(counts.values())
    usage: dict[str, Any] = {**counts, "total_tokens": total}
    if mode is UsageMode.STRING:
        return {name: str(value) for name, value in usage.items()}
    if completion is not None:
        cached = min(behaviour.cached, prompt)
        usage["prompt_tokens_details"] = {"cached_tokens": cached, "audio_tokens": 0}
        usage["completion_tokens_details"] = {"reasoning_tokens": 0, "audio_tokens": 0}
    return usage


def told(count: int, mode: UsageMode) -> int:
    """Give what is said of a true count."""
    if mode is UsageMode.MORE:
        return 2 * count + 1
    if mode is UsageMode.LESS:
        return count // 2
    if mode is UsageMode.HUGE:
        return HUGE
    return -count if mode is UsageMode.NEGATIVE else count


# -- chat ---------------------------------------------------------------------------------------


def chat_body(request: ChatRequest, answer: Answer, behaviour: Behaviour) -> Event:
    """Give a plain answer as one event."""
    body: dict[str, Any] = {
        "id": f"chatcmpl-{answer.mark}",
        "object": "chat.completion",
        "created": CREATED,
        "model": request.model,
        "choices": [_whole_choice(choice) for choice in answer.choices],
        "system_fingerprint": "fp_mock",
    }
    usage = None
    if behaviour.usage is not UsageMode.NONE:
        body["usage"] = usage = usage_object(answer.prompt, answer.completion, behaviour)
    return Event(orjson.dumps(body), tokens=answer.completion, usage=usage)


def _whole_choice(choice: Choice) -> dict[str, Any]:
    text = "".join(choice.pieces())
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if choice.tool is not None:
        function = {"name": choice.tool.name, "arguments": text}
        message["content"] = None
        message["tool_calls"] = [{"id": choice.tool.id, "type": "function", "function": function}]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": None,
        "finish_reason": choice.finish,
    }


def chat_events(request: ChatRequest, answer: Answer, behaviour: Behaviour) -> Iterator[Event]:
    """Give a streamed answer event by event."""
    mode = behaviour.usage
    null = mode is UsageMode.NULL or (request.include_usage and mode is not UsageMode.NONE)
    frame = _Frame(request.model, answer.mark, ',"usage":null' if null else "")
    for choice in answer.choices:
        text = "" if choice.tool is None else None
        yield Event(frame.render(choice.index, {"role": "assistant", "content": text}))
    for sent, (data, first) in enumerate(_content(answer, frame), start=1):
        if mode is UsageMode.RUNNING:
            usage = usage_object(answer.prompt, sent, behaviour)
            yield Event(frame.with_usage(data, usage), tokens=1, paced=first, usage=usage)
        else:
            yield Event(data, 1, first)
    usage = usage_object(answer.prompt, answer.completion, behaviour)
    for choice in answer.choices:
        data = frame.render(choice.index, {}, choice.finish)
        if mode is UsageMode.IN_CONTENT and choice is answer.choices[-1]:
            yield Event(frame.with_usage(data, usage), usage=usage)
        else:
            yield Event(data)
    silent = mode in {UsageMode.NONE, UsageMode.IN_CONTENT}
    if mode is UsageMode.ALWAYS or (request.include_usage and not silent):
        yield Event(frame.final(usage), usage=usage)
    yield Event(DONE)


def _content(answer: Answer, frame: _Frame) -> Iterator[tuple[bytes, bool]]:
    """Interleave the choices: one piece of each in turn, the first of a round paced."""
    runs = [_choice_content(choice, frame) for choice in answer.choices]
    if len(runs) == 1:
        yield from zip(runs[0], repeat(True))
        return
    for turn in zip_longest(*runs):
        first = True
        for data in turn:
            if data is not None:
                yield data, first
                first = False


def _choice_content(choice: Choice, frame: _Frame) -> Iterator[bytes]:
    tool = choice.tool
    if tool is None:
        head, tail = frame.around(choice.index, '{"content":', "}")
    else:
        function = {"name": tool.name, "arguments": ""}
        call = {"index": 0, "id": tool.id, "type": "function", "function": function}
        yield frame.render(choice.index, {"tool_calls": [call]})
        opening = '{"tool_calls":[{"index":0,"function":{"arguments":'
        head, tail = frame.around(choice.index, opening, "}}]}")
    dumps = orjson.dumps
    for piece in choice.pieces():
        yield b"%b%b%b" % (head, dumps(piece), tail)


class _Frame:
    """The constant text around an event's delta, encoded once an answer."""

    def __init__(self, model: str, mark: str, usage: str) -> None:
        self._members = (
            f'"id":"chatcmpl-{mark}","object":"chat.completion.chunk","created":{CREATED},'
            f'"model":{orjson.dumps(model).decode()},"system_fingerprint":"fp_mock"'
        )
        self._usage = usage

    def around(self, index: int, opening: str, closing: str) -> tuple[bytes, bytes]:
        """Give what stands before and after a content string."""
        head = f'data: {{{self._members},"choices":[{{"index":{index},"delta":{opening}'
        tail = f'{closing},"logprobs":null,"finish_reason":null}}]{self._usage}}}\n\n'
        return head.encode(), tail.encode()

    def render(self, index: int, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        """Give one event."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        choices = orjson.dumps([choice]).decode()
        return f'data: {{{self._members},"choices":{choices}{self._usage}}}\n\n'.encode()

    def with_usage(self, data: bytes, usage: Any) -> bytes:
        """Give an event of this frame with `usage` in it."""
        bare = data.removesuffix(b"}\n\n").removesuffix(self._usage.encode())
        return b'%b,"usage":%b}\n\n' % (bare, orjson.dumps(usage))

    def final(self, usage: Any) -> bytes:
        """Give the event that has no choices."""
        text = orjson.dumps(usage).decode()
        return f'data: {{{self._members},"choices":[],"usage":{text}}}\n\n'.encode()


# -- answers that are no answers ----------------------------------------------------------------


HTML = b"<!doctype html>\n<html><head><title>Welcome</title></head><body>It works</body></html>\n"
NOT_JSON = b'{"id": "chatcmpl-", "choices": [{"index": 0, "message": {"role": "assis'
STREAM_ERROR = {"message": "The server had an error.", "type": "server_error", "code": None}


def garbage(*, stream: bool, behaviour: Behaviour) -> Event:
    """Give a body that is not what was asked for."""
    if behaviour.fault is Fault.GARBAGE_HTML:
        return Event(HTML)
    return Event(b"data: %b\n\n" % NOT_JSON if stream else NOT_JSON)


# -- embeddings and models ----------------------------------------------------------------------


def read_inputs(question: Mapping[str, Any]) -> list[str | list[int]]:
    """Give the inputs of an embeddings request: a text, texts, tokens, or lists of tokens."""
    value = question.get("input")
    items = [value] if isinstance(value, str) or is_tokens(value) else value
    if (
        not isinstance(items, list)
        or not items
        or not all(isinstance(item, str) or is_tokens(item) for item in items)
        or "" in items
    ):
        raise Refusal(400, "'input' must be text or tokens, or a list of them.", param="input")
    return items


def is_tokens(value: Any) -> bool:
    """Tell an array of token ids."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    )


def embeddings_body(
    question: Mapping[str, Any], items: Sequence[str | list[int]], behaviour: Behaviour, seed: int
) -> Event:
    """Give an embeddings answer."""
    model = read_name(question)
    dimensions = _whole(question, "dimensions") or DIMENSIONS
    if dimensions > 4096:
        raise Refusal(400, "'dimensions' must be at most 4096.", param="dimensions")
    encoding = question.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise Refusal(400, "'encoding_format' is float or base64.", param="encoding_format")
    data = []
    for index, item in enumerate(items):
        vector = answer_vector(item, model, seed, dimensions)
        shown: Any = base64.b64encode(vector).decode()
        if encoding == "float":
            shown = struct.unpack(f"<{dimensions}f", vector)
        data.append({"object": "embedding", "index": index, "embedding": shown})
    body: dict[str, Any] = {"object": "list", "data": data, "model": model}
    usage = None
    if behaviour.usage is not UsageMode.NONE:
        usage = usage_object(sum(map(input_tokens, items)), None, behaviour)
        body["usage"] = usage
    return Event(orjson.dumps(body), usage=usage)


def model_object(name: str) -> dict[str, Any]:
    """Give one model as the models API shows it."""
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "mock"}


def models_body(names: Sequence[str]) -> bytes:
    """Give the list of models."""
    return orjson.dumps({"object": "list", "data": [model_object(name) for name in names]})
