"""What the mock answers: a text, a tool call or a vector, decided by seed and request alone. Pure.

The same question under the same seed has the same answer, ids included, whether it is streamed or
not: `stream` and `stream_options` say how to deliver, so they are not part of the question.

Tokens, so that the truth is exact:
- prompt: one for each whitespace-separated word in the messages' text, one for each message, one
  for each content part that is not text, one for each offered tool;
- completion: one for each word; a tool call is one for its name and one for each started group of
  four characters of its arguments. Several choices add up;
- embeddings: one for each word of a text (at least one), the length of a token array.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from fastgw.mock.behaviour import Behaviour

CREATED = 1_700_000_000
"""The `created` of every answer (epoch seconds): a clock would make answers differ."""
SENTENCE = 12
PIECE = 4

COMMON = """
a about after again all also always an and another any are around as at away back be because been
before being between both but by call can come could day did different do does down each early end
even every example fact far few find first for form found from full further get give go good great
group hand has have head help here high home how if in into is it its just keep kind know large
last later learn leave left less let life light like line little long look made make many may mean
might more most move much must name near need never new next night no not now number of off often
old on once one only open or order other our out over own page part people place plain plan point
quite rather reach read right room run same say see seem set several short should show side simple
since small so some soon sound still such take tell than that the their them then there these they
thing think this those thought through time to together too toward turn two under until up upon us
use very want was water way we well were what when where which while who why will with within
without word work world would write year yet you young
"""
WORDS = tuple(COMMON.split())
WORDS_NON_ASCII = (
    *("größer", "naïve", "façade", "voilà", "señal", "Ångström", "čaj", "żółw", "λόγος", "слово"),
    *("שלום", "سلام", "नमस्ते", "言葉", "東京", "안녕", "👋🏽", "👩‍👩‍👧", "🚀", "𝛼𝛽", "e\u0301tude"),
)
"""Two to four byte characters, a joined emoji, a combining accent: what a cut may fall into."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one offered function; `arguments` is the whole JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of n answers: `tokens` of text or of a tool call. `finish` is OpenAI's finish reason.

    The text is generated on demand, so that an answer of a gigabyte costs no memory.
    """

    index: int
    seed: int
    tokens: int
    finish: str
    words: tuple[str, ...]
    tool: ToolCall | None = None

    def pieces(self) -> Iterator[str]:
        """Give the content piece by piece, one token each (a call's name is a token too)."""
        return self._words() if self.tool is None else self._arguments(self.tool)

    def _words(self) -> Iterator[str]:
        bits = random.Random(self.seed).getrandbits  # noqa: S311 - repeatable, not secret
        words, last = self.words, self.tokens - 1
        for place in range(self.tokens):
            word = words[bits(32) % len(words)]
            if place % SENTENCE == 0:
                word = word.capitalize()
            if place % SENTENCE == SENTENCE - 1 or place == last:
                word += "."
            yield word if place == 0 else " " + word

    def _arguments(self, tool: ToolCall) -> Iterator[str]:
        for place in range(self.tokens - 1):
            yield tool.arguments[place * PIECE : (place + 1) * PIECE]


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything one chat request is answered with; `mark` is hexadecimal and makes up the ids."""

    mark: str
    prompt: int
    choices: tuple[Choice, ...]

    @property
    def completion(self) -> int:
        """Completion tokens of all choices."""
        return sum(choice.tokens for choice in self.choices)


def digest(seed: int, question: Mapping[str, Any]) -> bytes:
    """Give the hash that decides the answer; the order of members does not matter."""
    content = {
        name: value
        for name, value in question.items()
        if name not in {"stream", "stream_options", "encoding_format"}
    }
    text = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(b"%d:%b" % (seed, text)).digest()


def answer_chat(
    question: Mapping[str, Any],
    behaviour: Behaviour,
    *,
    seed: int,
    choices: int,
    maximum: int | None,
    tool: Mapping[str, Any] | None,
    prompt: int,
) -> Answer:
    """Decide the answer to a checked request; `prompt` is what it counts.

    `maximum` is in tokens a choice, `tool` the offered tool to call, if one is to be called.
    """
    key = digest(seed, question)
    if behaviour.ignore_max:
        maximum = None
    made = tuple(_choose(index, key, behaviour, maximum, tool) for index in range(choices))
    return Answer(key.hex()[:24], prompt, made)


def _choose(
    index: int,
    key: bytes,
    behaviour: Behaviour,
    maximum: int | None,
    tool: Mapping[str, Any] | None,
) -> Choice:
    seed = int.from_bytes(hashlib.sha256(b"%d:%b" % (index, key)).digest()[:8], "big")
    words = WORDS_NON_ASCII if behaviour.non_ascii else WORDS
    if behaviour.chunk_bytes:
        words = tuple(_stretch(word, behaviour.chunk_bytes) for word in words)
    call = None if tool is None else _call(tool, seed)
    wanted = behaviour.chunks if call is None else 1 + -(-len(call.arguments) // PIECE)
    tokens = wanted if maximum is None else min(wanted, maximum)
    finish = "stop" if call is None else "tool_calls"
    return Choice(index, seed, tokens, finish if tokens == wanted else "length", words, call)


def _stretch(word: str, size: int) -> str:
    return word * max(1, -(-size // len(word.encode())))


def _call(tool: Mapping[str, Any], seed: int) -> ToolCall:
    function = tool["function"]
    draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
    schema = function.get("parameters")
    arguments = _example(schema if isinstance(schema, Mapping) else {"type": "object"}, draw, 0)
    text = orjson.dumps(arguments).decode()
    return ToolCall(f"call_{draw.getrandbits(96):024x}", str(function["name"]), text)


def _example(schema: Mapping[str, Any], draw: random.Random, depth: int) -> Any:
    """Give a value a JSON schema allows; as much of JSON Schema as tool definitions use."""
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][draw.randrange(len(schema["enum"]))]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if depth > 8:
        return None
    if kind == "object" or "properties" in schema:
        members = schema.get("properties") or {}
        return {
            name: _example(member, draw, depth + 1) if isinstance(member, Mapping) else None
            for name, member in members.items()
        }
    if kind == "array":
        items = schema.get("items")
        return [_example(items, draw, depth + 1)] if isinstance(items, Mapping) else []
    simple = {
        "integer": draw.randrange(100),
        "number": draw.randrange(1000) / 10,
        "boolean": draw.random() < 0.5,
        "null": None,
    }
    return simple.get(str(kind), draw.choice(WORDS))


def prompt_tokens(question: Mapping[str, Any]) -> int:
    """Count a chat request by the rule above."""
    tools = question.get("tools")
    count = len(tools) if isinstance(tools, list) else 0
    for message in question["messages"]:
        count += 1
        content = message.get("content")
        if isinstance(content, str):
            count += len(content.split())
        elif isinstance(content, list):
            for part in content:  # a token is a part too
                text = part.get("text") if isinstance(part, Mapping) else None
                count += len(text.split()) if isinstance(text, str) else 1
    return count


def input_tokens(item: str | Sequence[int]) -> int:
    """Count one embedding input by the rule above."""
    return max(1, len(item.split())) if isinstance(item, str) else len(item)


def answer_vector(item: str | Sequence[int], model: str, seed: int, dimensions: int) -> bytes:
    """Give a unit vector as little-endian float32, the bytes `encoding_format: base64` sends."""
    key = digest(seed, {"model": model, "item": item})
    draw = random.Random(key)  # noqa: S311 - repeatable, not secret
    values = [draw.gauss(0.0, 1.0) for _ in range(dimensions)]
    norm = sum(value * value for value in values) ** 0.5 or 1.0
    return struct.pack(f"<{dimensions}f", *(value / norm for value in values))
