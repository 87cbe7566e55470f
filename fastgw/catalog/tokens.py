"""Count tokens with a tokenizer: of a request's prompt and of an answer's text.

Exact for the text of OpenAI's models. Of other families the nearest tokenizer counts, corrected by
the family's rate; what a request costs beside its text goes by the family's figures everywhere.
Slow (3 ms for 100 KB) and large (80 MB): never in a worker.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from fastgw._ext import weights
from fastgw.catalog import encodings, families, prompts
from fastgw.catalog.families import Family, Pictures
from fastgw.catalog.prompts import Medium


def prompt(body: bytes, model: str) -> int:
    """Count the prompt of a JSON request body; ValueError when it is none."""
    try:
        asked = msgspec.json.decode(body)
    except msgspec.DecodeError as exc:
        raise ValueError("the body is not valid JSON") from exc
    if not isinstance(asked, dict):
        raise ValueError("the body is not a JSON object")  # noqa: TRY004 - what is in it is wrong
    family = families.find(model)
    found = prompts.read(asked)
    add = family.overheads
    units = _units(family, found.texts) * add.text
    units += 100 * (add.prompt * any(name in asked for name in _TALK))
    units += 100 * (add.message * found.messages + family.bearer * found.names)
    units += 100 * (add.call * found.calls + add.opaque * found.opaque)
    units += 100 * weights.PER_NUMBER * found.numbers
    units += _units(family, found.tool_texts) * add.tool_text
    units += 100 * (add.toolset * bool(found.tools) + add.tool_key * found.tool_keys)
    units += _units(family, found.schema_texts) * add.schema_text
    units += 100 * (add.schema * bool(found.schemas) + add.schema_key * found.schema_keys)
    return -(-units // 10_000) + sum(_medium(family, medium) for medium in found.media)


def text(of: str, model: str) -> int:
    """Count plain text."""
    family = families.find(model)
    return round(encodings.tokens(family.encoding, of) * family.answer / 100)


def answer(of: str, calls: int, model: str) -> int:
    """Count the text of an answer that holds so many tool calls."""
    family = families.find(model)
    beside = family.answer_end * bool(of) + family.answer_call * calls
    return text(of, model) + -(-beside // 100)


_TALK = frozenset(
    name.decode() for name, section in weights.SECTIONS.items() if section == weights.TALK
)


def _units(family: Family, texts: Iterable[str]) -> int:
    """Give hundredths of tokens."""
    return 100 * sum(encodings.tokens(family.encoding, each) for each in texts)


def _medium(family: Family, medium: Medium) -> int:
    if medium.kind == "image":
        return picture(family.pictures, medium)
    return family.sound if medium.kind == "audio" else family.document


def picture(rules: Pictures, medium: Medium) -> int:
    """Give what a picture costs by a provider's published rules."""
    if medium.detail == "low" and rules.low:
        return rules.low
    size = prompts.pixels(medium.head)
    if size is None or 0 in size:
        return rules.unseen
    width, height = size
    if rules.most and max(width, height) > rules.most:
        width, height = _scaled(width, height, rules.most / max(width, height))
    if rules.area:
        return min(rules.ceiling, math.ceil(width * height / rules.area))
    if rules.patch:
        patches = math.ceil(width / rules.side) * math.ceil(height / rules.side)
        return math.ceil(min(patches, rules.patches) * rules.patch)
    if rules.shortest and min(width, height) > rules.shortest:
        width, height = _scaled(width, height, rules.shortest / min(width, height))
    tiles = math.ceil(width / rules.side) * math.ceil(height / rules.side)
    return (rules.base + rules.tile * tiles) or rules.unseen


def _scaled(width: int, height: int, by: float) -> tuple[int, int]:
    return max(1, int(width * by)), max(1, int(height * by))
