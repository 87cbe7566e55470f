"""What of a JSON request reaches the model: its texts, messages, tools, schemas and media.

Reads the bodies of every client API alike, by the same rules as the estimator in `_ext`, whose
lists it shares; but gives the texts themselves, for a tokenizer. Pure.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from fastgw._ext import weights

SECTIONS = {name.decode(): section for name, section in weights.SECTIONS.items()}
UNCOUNTED = frozenset(name.decode() for name in weights.UNCOUNTED)
MEDIA = frozenset(name.decode() for name in weights.MEDIA)
OPAQUE = frozenset(name.decode() for name in weights.OPAQUE)
CALL = weights.CALL.decode()
_SCHEMAS = frozenset({"schema", "responseSchema", "responseJsonSchema", "response_schema"})
_HEAD = 4096 * 4
"""Base64 characters of a picture that are looked at for its size."""


class Medium(msgspec.Struct, frozen=True):
    """A picture, sound, film or document in a prompt; `head` is how its bytes begin."""

    kind: str
    detail: str = "auto"
    size: int = 0
    """Bytes; 0 when it is only referred to."""
    head: bytes = b""


class Prompt(msgspec.Struct):
    """What a request body holds for the model."""

    texts: list[str] = []
    messages: int = 0
    names: int = 0
    """Messages that bear a name."""
    calls: int = 0
    numbers: int = 0
    """Token ids that stand in place of text."""
    tools: list[Any] = []
    """The tools as the client wrote them."""
    tool_texts: list[str] = []
    tool_keys: int = 0
    schemas: list[Any] = []
    schema_texts: list[str] = []
    schema_keys: int = 0
    media: list[Medium] = []
    opaque: int = 0
    """Characters of sealed reasoning."""


def read(body: Mapping[str, Any]) -> Prompt:
    """Read a parsed request body; what it does not know it takes for text."""
    prompt = Prompt()
    for name, value in body.items():
        section = SECTIONS.get(name)
        if section == weights.TALK:
            _talk(prompt, name, value)
        elif section == weights.TOOLS and value:
            prompt.tools += value if isinstance(value, list) else [value]
            prompt.tool_keys += _gather(value, prompt.tool_texts)
        elif section == weights.SCHEMA:
            _schemas(prompt, value)
    return prompt


def _talk(prompt: Prompt, name: str, value: Any) -> None:
    if isinstance(value, str):
        prompt.messages += 1
    elif isinstance(value, list):
        messages = [item for item in value if isinstance(item, dict)]
        prompt.messages += len(messages)
        prompt.names += sum("name" in message for message in messages)
    _walk(prompt, name, value)


def _walk(prompt: Prompt, name: str, value: Any, *, inside: bool = False) -> None:
    """Take what stands under a member's name; `inside` a medium the same names tell more of it."""
    if isinstance(value, dict):
        for inner, each in value.items():
            if inner == CALL:
                prompt.calls += 1
            if inner in MEDIA and each and not inside:
                if isinstance(each, dict) and each.get("type") == "text":
                    prompt.texts.append(str(each.get("data", "")))
                else:
                    prompt.media.append(_medium(value, each))
                _walk(prompt, inner, each, inside=True)
            elif inner in OPAQUE and isinstance(each, str):
                prompt.opaque += len(each)
            else:
                _walk(prompt, inner, each, inside=inside)
    elif isinstance(value, list):
        for each in value:
            _walk(prompt, name, each, inside=inside)
        prompt.numbers += sum(type(each) is int for each in value)
    elif isinstance(value, str) and name not in UNCOUNTED and not _is_data_url(value):
        prompt.texts.append(value)


def _gather(value: Any, texts: list[str]) -> int:
    """Add the strings of a tree; give how many members its objects have."""
    if isinstance(value, dict):
        return len(value) + sum(_gather(each, texts) for each in value.values())
    if isinstance(value, list):
        return sum(_gather(each, texts) for each in value)
    if isinstance(value, str):
        texts.append(value)
    return 0


def _schemas(prompt: Prompt, value: Any) -> None:
    if not isinstance(value, dict):
        return
    for name, each in value.items():
        if name in _SCHEMAS and isinstance(each, dict):
            prompt.schemas.append(each)
            prompt.schema_keys += _gather(each, prompt.schema_texts)
        else:
            _schemas(prompt, each)


def _is_data_url(text: str) -> bool:
    if not text.startswith("data:"):
        return False
    before, comma, _ = text[:128].partition(",")
    return bool(comma) and " " not in before


# -- media --------------------------------------------------------------------------------------


def _medium(around: Mapping[str, Any], value: Any) -> Medium:
    """Tell what a member that brings a medium brings; `around` is the object it stands in."""
    inner = value if isinstance(value, dict) else {"url": value}
    told = str(around.get("type", ""))
    mime = ""
    for name in ("mimeType", "mime_type", "media_type", "format"):
        mime = mime or str(inner.get(name) or "")
    data = next(
        (
            text
            for name in ("url", "data", "file_data", "fileUri", "file_uri", "bytes")
            if isinstance(text := inner.get(name), str)
        ),
        "",
    )
    if _is_data_url(data):
        before, _, data = data.partition(",")
        mime = before[5:]
    elif "://" in data[:16]:
        data = ""
    detail = inner.get("detail") or around.get("detail")
    return Medium(
        _kind(f"{mime} {told}"),
        detail if isinstance(detail, str) else "auto",
        len(data) * 3 // 4,
        _decoded(data[:_HEAD]),
    )


def _kind(told: str) -> str:
    for kind in ("image", "audio", "video"):
        if kind in told:
            return kind
    return "document" if any(word in told for word in ("pdf", "doc", "text", "file")) else "image"


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data[: len(data) // 4 * 4])
    except (binascii.Error, ValueError):
        return b""


def pixels(head: bytes) -> tuple[int, int] | None:
    """Give width and height of a picture by how its bytes begin; None when they do not tell.

    PNG (RFC 2083 §11.2.2), GIF, WebP (RFC 9649) and JPEG (ITU T.81, annex B).
    """
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
        return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    if head[:4] == b"GIF8" and len(head) >= 10:
        return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) >= 30:
        return _webp(head)
    if head[:2] == b"\xff\xd8":
        return _jpeg(head)
    return None


def _webp(head: bytes) -> tuple[int, int] | None:
    form = head[12:16]
    if form == b"VP8X":
        return (
            int.from_bytes(head[24:27], "little") + 1,
            int.from_bytes(head[27:30], "little") + 1,
        )
    if form == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if form == b"VP8 ":
        width, height = head[26:28], head[28:30]
        return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF
    return None


def _jpeg(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:  # a frame header
            return int.from_bytes(head[at + 7 : at + 9]), int.from_bytes(head[at + 5 : at + 7])
        at += 2 + int.from_bytes(head[at + 2 : at + 4])
    return None
