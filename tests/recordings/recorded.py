"""What a recorded exchange asks and answers, read without any code of the gateway's.

Everything that fastgw is held to is told here a second time, by other means, from the recording.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fastgw.domain import Usage
from tests.corpora import recordings, shared
from tests.replay import recorded_body

_EVENT = re.compile(rb".+?(?:\r\n\r\n|\n\n|\r\r|\Z)", re.DOTALL)
_SAID = [{"role": "user", "content": "Say hello."}]
_MINIMAL: dict[str, dict[str, Any]] = {
    "chat_completions": {"messages": _SAID},
    "completions": {"prompt": "Say hello."},
    "embeddings": {"input": "Say hello."},
    "responses": {"input": "Say hello."},
    "messages": {"messages": _SAID, "max_tokens": 100},
}
"""What is asked where no request was recorded."""
_MEDIA = {"vision", "audio", "document", "video"}


@dataclass(frozen=True)
class Recorded:
    """One exchange of the corpus; `provider` is the file it stands in."""

    provider: str
    exchange: dict[str, Any]

    @property
    def id(self) -> str:
        """Its id, which the replay server takes for the upstream model's name."""
        return self.exchange["id"]

    @property
    def endpoint(self) -> str:
        """Which endpoint was asked, by the corpus's name for it, which is ours."""
        return self.exchange["endpoint"]

    @property
    def status(self) -> int:
        """What the provider answered."""
        return self.exchange["response"]["status"]

    @property
    def stream(self) -> bool:
        """Whether the answer is a stream."""
        return self.exchange["stream"]

    @property
    def features(self) -> set[str]:
        """What the corpus says is in it."""
        return set(self.exchange["features"])

    @cached_property
    def body(self) -> bytes:
        """The answer."""
        return recorded_body(self.exchange)

    @property
    def has_request(self) -> bool:
        """Whether the request is there, and whole: only then can its tokens be compared."""
        body = self.exchange["request"]["body"]
        return isinstance(body, dict) and "request_truncated" not in self.features

    @property
    def has_media(self) -> bool:
        """Whether the prompt is more than text."""
        return bool(self.features & _MEDIA)

    def unplayable(self) -> str | None:
        """Say why an HTTP client of OpenAI's API could never have seen this answer."""
        response = self.exchange["response"]
        if response["body_encoding"] != "utf8":
            return "binary frames"
        if response["framing"] != ("sse" if self.stream else "json"):
            return f"framing {response['framing']}"
        return None

    def request(self, model: str, *, ask_usage: bool = True) -> dict[str, Any]:
        """Give the body a client sends; `ask_usage=False` takes a wish for usage out of it."""
        body = self.exchange["request"]["body"]
        if not isinstance(body, dict):
            minimal = _MINIMAL[self.endpoint]
            body = {**minimal, "stream": True} if self.stream else minimal
        body = {**body, "model": model}
        if not ask_usage:
            body.pop("stream_options", None)
        return body

    def seen_by_client(self, asked: dict[str, Any]) -> bytes:
        """Give what the contract says the client receives of a 2xx or 4xx."""
        if not self.stream or asks_usage(asked):
            return self.body
        return b"".join(event for event in split_events(self.body) if not is_extra(event))

    def usage(self) -> dict[str, Any] | None:
        """Give the last usage object with whole, known counts."""
        found = None
        for holder in self._holders():
            usage = holder.get("usage")
            if isinstance(usage, dict) and all(
                isinstance(usage.get(name), int | float)
                and usage[name] >= 0
                and usage[name] == int(usage[name])
                for name in ("prompt_tokens", "completion_tokens")
            ):
                found = usage
        return found

    def _holders(self) -> Iterator[dict[str, Any]]:
        """Give each object that may have a `usage` member: Groq puts it into `x_groq` too."""
        for payload in map(payload_of, split_events(self.body)) if self.stream else (self.body,):
            if payload.lstrip().startswith(b"{"):  # OpenRouter waits in white space
                top = json.loads(payload)
                yield from (top, top.get("x_groq") or {})

    def without_usage(self) -> Recorded:
        """Give the same exchange with a provider that reports nothing."""
        if self.stream:
            kept = (event for event in split_events(self.body) if not is_extra(event))
            body = b"".join(map(_strip_event, kept))
        else:
            body = _strip(self.body)
        return self._with_body(body)

    def respelled(self) -> Recorded:
        """Give the same stream as another server would write it: as freely as SSE allows."""
        events = []
        for number, event in enumerate(split_events(self.body)):
            lines = [
                line.replace(b"data: ", b"data:", 1) if number % 2 else line
                for line in event.split(b"\n")
            ]
            events.append((b"\r\n", b"\r", b"\n")[number % 3].join([b"id: 7", *lines]))
        body = b": waiting\n\n".join([b"", *events])
        return self._with_body(body.rstrip(b"\r\n"))  # and the last blank line is left out

    def _with_body(self, body: bytes) -> Recorded:
        response = {**self.exchange["response"], "body": body.decode()}
        return replace(self, exchange={**self.exchange, "response": response})


def chat_exchanges() -> list[Recorded]:
    """Give every recorded exchange of OpenAI's chat completions, whoever answered it."""
    return exchanges_of("chat_completions")


def exchanges_of(endpoint: str) -> list[Recorded]:
    """Give every recorded exchange of an endpoint, whoever answered it."""
    files = sorted(path.stem for path in shared("recordings").glob("*.jsonl"))
    return [Recorded(file, exchange) for file in files for exchange in recordings(file, endpoint)]


def asks_usage(body: dict[str, Any]) -> bool:
    """Tell whether a request itself asks for the usage event."""
    return (body.get("stream_options") or {}).get("include_usage") is True


def expected_usage(reported: dict[str, Any]) -> Usage:
    """Say in the contract's words what a provider reported in its own."""
    prompt, output = reported["prompt_tokens"], reported["completion_tokens"]
    into = reported.get("prompt_tokens_details") or {}
    reasoning = (reported.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    if reasoning and reported.get("total_tokens") == prompt + output + reasoning:
        output += reasoning  # xAI counts reasoning beside the completion
    cached = (
        into.get("cached_tokens")
        or reported.get("prompt_cache_hit_tokens")
        or reported.get("num_cached_tokens")
        or reported.get("cached_tokens")
        or 0
    )
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        cached_tokens=min(cached, prompt),
        cache_write_tokens=into.get("cache_write_tokens") or 0,
        reasoning_tokens=reasoning,
    )


def split_events(stream: bytes) -> list[bytes]:
    """Cut a stream behind each blank line."""
    return _EVENT.findall(stream)


def payload_of(event: bytes) -> bytes:
    """Give the data of an event."""
    return b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def is_extra(event: bytes) -> bool:
    """Tell whether this is the event that `include_usage` asks for."""
    payload = payload_of(event)
    if not payload.startswith(b"{"):
        return False
    data = json.loads(payload)
    return data.get("choices") == [] and isinstance(data.get("usage"), dict)


def _strip_event(event: bytes) -> bytes:
    payload = payload_of(event)
    return event.replace(payload, _strip(payload)) if b'"usage"' in payload else event


def _strip(text: bytes) -> bytes:
    data = json.loads(text)
    for holder in (data, data.get("x_groq") or {}):
        holder.pop("usage", None)
    return json.dumps(data, ensure_ascii=False).encode()
