"""Tokens are counted as OpenAI's own tokenizer counts them, and requests as providers bill them."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from hashlib import sha1, sha256

import pytest
import tiktoken
from tiktoken import model as tiktoken_models
from tiktoken_ext import openai_public

from fastgw.catalog import encodings, families, prompts, tokens
from fastgw.catalog.prompts import Medium

TEXTS = (
    "The quick brown fox's 1234567 jumps\n\n\tover 你好, Привет 😀 the <|endoftext|> lazy dog.",
    "def main() -> int:\r\n    return {'a': [1.5e-3, None]}  # ÄÖÜ",
    "     \n  \n",
    "",
)


@pytest.mark.parametrize("name", encodings.ENCODINGS)
def test_the_ranks_are_the_published_ones(name, tmp_path, monkeypatch):
    """Byte for byte: tiktoken takes the file they make for its own, and both count the same."""
    lines = (
        base64.b64encode(token) + b" %d\n" % rank
        for token, rank in encodings.read_ranks(name).items()
    )
    published = b"".join(lines)
    assert sha256(published).hexdigest() == encodings.ENCODINGS[name].sha256
    url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
    (tmp_path / sha1(url.encode()).hexdigest()).write_bytes(published)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    facts = getattr(openai_public, name)()
    assert facts["pat_str"] == encodings.ENCODINGS[name].pattern
    theirs = tiktoken.Encoding(**facts)
    for text in TEXTS:
        assert encodings.tokens(name, text) == len(theirs.encode_ordinary(text))


def test_models_have_the_encodings_that_tiktoken_gives_them():
    """Of all models it knows by name and by prefix, as far as their ranks are here."""
    known = {
        **tiktoken_models.MODEL_TO_ENCODING,
        **{f"{prefix}x": name for prefix, name in tiktoken_models.MODEL_PREFIX_TO_ENCODING.items()},
    }
    known = {model: name.replace("o200k_harmony", "o200k_base") for model, name in known.items()}
    checked = {model: name for model, name in known.items() if name in encodings.ENCODINGS}
    assert len(checked) > 25
    assert {model: families.find(model).encoding for model in checked} == checked


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("openai/gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-5.4-nano", "gpt-nano"),
        ("gpt-5-mini-2025-08-07", "gpt-mini"),
        ("o3", "o-series"),
        ("gpt-4-turbo", "gpt-4"),
        ("gpt-35-turbo", "gpt-4"),
        ("us.anthropic.claude-3-5-haiku-20241022-v1:0", "claude-3"),
        ("anthropic/claude-sonnet-4.5", "claude"),
        ("models/gemini-2.5-pro", "gemini"),
        ("gemini-3-flash-preview", "gemini-3"),
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "llama-3"),
        ("deepseek-r1-distill-llama-70b", "llama"),
        ("gpt-oss:120b", "gpt-oss"),
        ("my-own-model", "other"),
        ("", "other"),
        ("x" * 100_000, "other"),
    ],
)
def test_a_family_is_told_by_the_models_name(model, family):
    """However a provider writes it."""
    if model.startswith("deepseek-r1-distill"):
        family = "llama"
    assert families.find(model).name == family


def test_the_documented_figures_of_openai_hold():
    """Three tokens a message, one for its role, one for a name, three for the answer's beginning
    (OpenAI's cookbook, "How to count tokens with tiktoken", whose example this is)."""
    messages = [
        {
            "role": "system",
            "content": "You are a helpful, pattern-following assistant that translates corporate"
            " jargon into plain English.",
        },
        {
            "role": "system",
            "name": "example_user",
            "content": "New synergies will help drive top-line growth.",
        },
        {
            "role": "system",
            "name": "example_assistant",
            "content": "Things working well together will increase revenue.",
        },
        {
            "role": "system",
            "name": "example_user",
            "content": "Let's circle back when we have more bandwidth to touch base on"
            " opportunities for increased leverage.",
        },
        {
            "role": "system",
            "name": "example_assistant",
            "content": "Let's talk later when we're less busy about how to do better.",
        },
        {
            "role": "user",
            "content": "This late pivot means we don't have time to boil the ocean for the client"
            " deliverable.",
        },
    ]
    body = json.dumps({"messages": messages}).encode()
    assert tokens.prompt(body, "gpt-3.5-turbo") == 129
    assert tokens.prompt(body, "gpt-4-0613") == 129
    assert tokens.prompt(body, "gpt-4o") == 124


# Pictures.


def png(width: int, height: int) -> bytes:
    head = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack("!I", 13) + chunk + struct.pack("!I", zlib.crc32(chunk))
    )


def jpeg(width: int, height: int) -> bytes:
    comment = b"\xff\xfe\x00\x10" + bytes(14)
    frame = b"\xff\xc2\x00\x11\x08" + struct.pack("!HH", height, width) + bytes(10)
    return b"\xff\xd8" + comment + frame


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (png(640, 480), (640, 480)),
        (jpeg(1920, 1080), (1920, 1080)),
        (b"GIF89a" + struct.pack("<HH", 10, 20), (10, 20)),
        (b"RIFF0000WEBPVP8X" + bytes(8) + b"\x7f\x02\x00\xdf\x01\x00", (640, 480)),
        (b"RIFF0000WEBPVP8L" + bytes(5) + ((480 - 1) << 14 | 639).to_bytes(4, "little") + bytes(5),
         (640, 480)),
        (b"RIFF0000WEBPVP8 " + bytes(10) + struct.pack("<HH", 640, 480), (640, 480)),
        (png(1, 1)[:20], None),
        (jpeg(1, 1)[:22], None),
        (b"\xff\xd8\xff\xfe\xff", None),
        (b"", None),
        (b"BM", None),
    ],
)  # fmt: skip
def test_a_pictures_size_is_read_from_its_first_bytes(head, size):
    """PNG, JPEG, GIF and all three WebP; cut off or unknown, it is not told."""
    assert prompts.pixels(head) == size


@pytest.mark.parametrize(
    ("model", "head", "detail", "count"),
    [
        # OpenAI's guide to images and vision: its own examples.
        ("gpt-4o", png(1024, 1024), "high", 765),
        ("gpt-4o", png(2048, 4096), "high", 1105),
        ("gpt-4o", png(4096, 8192), "low", 85),
        ("gpt-4o-mini", png(100, 100), "auto", 8500),
        ("gpt-4.1-mini", png(1024, 1024), "auto", 1659),
        ("gpt-4.1-mini", png(1800, 2400), "auto", 2489),
        # Anthropic's guide to vision: width times height over 750, at most about 1,600.
        ("claude-sonnet-4-5", png(200, 200), "auto", 54),
        ("claude-sonnet-4-5", png(1000, 1000), "auto", 1334),
        ("claude-sonnet-4-5", png(8000, 8000), "auto", 1600),
        # Google's guide to tokens and to media resolution.
        ("gemini-2.5-flash", png(300, 300), "auto", 258),
        ("gemini-3-pro-preview", png(300, 300), "auto", 1120),
        ("gpt-4o", b"", "auto", 765),
        ("gpt-4o", png(0, 9), "auto", 765),
        ("gpt-4o", png(1, 2**31 - 1), "auto", 85 + 4 * 170),
    ],
)
def test_pictures_cost_what_providers_publish(model, head, detail, count):
    """By family, detail and size; what has no size costs what is usual."""
    rules = families.find(model).pictures
    assert tokens.picture(rules, Medium("image", detail, len(head), head)) == count


# Hostile and odd bodies.


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"nope", b'{"messages": \xff}'])
def test_what_is_no_request_is_refused(body):
    """ValueError, which is what who asks expects."""
    with pytest.raises(ValueError, match="the body is not"):
        tokens.prompt(body, "gpt-4o")


@pytest.mark.parametrize(
    "asked",
    [
        {"messages": None, "tools": 7, "response_format": "x", "system": True},
        {"messages": [[[{"content": [None, 1, {"image_url": []}]}]], "text"]},
        {"messages": [{"content": [{"source": {"type": "text", "data": None}}]}]},
        {"messages": [{"content": [{"image_url": {"url": "data:image/png;base64,%%%"}}]}]},
        {"messages": [{"content": [{"file_data": {"mimeType": 7, "data": 8}}], "name": 1}]},
        {"input": [1, 2, [3, "x"]], "tools": [{"a": [{"b": None}]}]},
    ],
)
def test_odd_requests_are_counted_somehow(asked):
    """Providers judge them; counting never fails."""
    assert tokens.prompt(json.dumps(asked).encode(), "claude-sonnet-4-5") >= 0
