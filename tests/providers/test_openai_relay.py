"""What the OpenAI relay knows of an answer whose provider reported nothing."""

from __future__ import annotations

import json

from fastgw.providers import registry
from fastgw.providers.record import Asked

TEXT = 'A "quoted" sentence\nover two lines, with größe and 漢字, as a model might write it.'


def relay(*, stream: bool):
    body = b'{"model":"m"}'
    asked = Asked(body, {b"model": (9, 12)}, "m", "m", stream, "chat_completions")
    return registry["openai"].translators["openai"](asked)


def streamed(text: str) -> int:
    translator = relay(stream=True)
    event = {"choices": [{"index": 0, "delta": {"content": text}}]}
    translator.data(b"data: " + json.dumps(event).encode() + b"\n\n")
    return translator.delivered().tokens


def test_a_plain_answer_is_counted_like_a_streamed_one():
    """However it is spelled: with line ends between its tokens, or escaped."""
    expected = streamed(TEXT)
    assert expected > 10
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}}]}
    for body in (
        json.dumps(answer).encode(),
        json.dumps(answer, indent=2).encode(),
        json.dumps(answer, indent=2, ensure_ascii=False).replace("\n", "\r\n").encode(),
    ):
        translator = relay(stream=False)
        assert translator.whole(body) is body
        assert translator.usage() is None
        assert translator.delivered().tokens == expected


def test_an_answer_larger_than_any_event_is_counted():
    """The tap's bound is for streams."""
    translator = relay(stream=False)
    message = {"role": "assistant", "content": "word " * 400_000}
    translator.whole(json.dumps({"choices": [{"message": message}]}).encode())
    assert translator.delivered().tokens > 100_000
