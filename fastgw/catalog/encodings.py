"""The tokenizers that need no network: ranks that come with the package, read by tiktoken.

Only who counts with them pays for them: tiktoken is loaded, and an encoding's ranks are read, on
first need (80 MB and half a second each).
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import tiktoken


class EncodingFacts(msgspec.Struct, frozen=True):
    """How an encoding cuts text before it merges bytes: a regular expression.

    `sha256` is that of the published file of its ranks (`scripts/make_ranks.py`).
    """

    pattern: str
    sha256: str


# The patterns are those of tiktoken's `openai_public.py` (MIT, Copyright (c) 2022 OpenAI).
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
ENCODINGS = {
    "o200k_base": EncodingFacts(
        "|".join(
            (
                rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_SUFFIX}",
                rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_SUFFIX}",
                r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                r"\s*[\r\n]+",
                r"\s+(?!\S)",
                r"\s+",
            )
        ),
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    "cl100k_base": EncodingFacts(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
}


def unpack(packed: bytes) -> dict[bytes, int]:
    """Give tokens -> ranks: each token is its length in one byte, and its bytes."""
    ranks: dict[bytes, int] = {}
    at = 0
    while at < len(packed):
        end = at + 1 + packed[at]
        ranks[packed[at + 1 : end]] = len(ranks)
        at = end
    return ranks


def read_ranks(name: str) -> dict[bytes, int]:
    """Give the bundled ranks of an encoding."""
    file = resources.files("fastgw.catalog").joinpath(f"data/{name}.ranks.gz")
    return unpack(gzip.decompress(file.read_bytes()))


@cache
def load(name: str) -> tiktoken.Encoding:
    """Give an encoding. Special tokens are text like any other: nobody may put them into one."""
    import tiktoken  # noqa: PLC0415 - only the tokenizer process and the command line need it

    return tiktoken.Encoding(
        name, pat_str=ENCODINGS[name].pattern, mergeable_ranks=read_ranks(name), special_tokens={}
    )


def tokens(name: str, text: str) -> int:
    """Count the tokens of a text."""
    return len(load(name).encode_ordinary(text))
