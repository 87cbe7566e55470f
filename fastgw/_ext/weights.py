"""What the token estimator knows: kinds of characters, the cost of a run, what a prompt adds.

Plain data for both builds; amounts are hundredths of a token.

How it was fitted. Text: runs of 5,000 snippets of 900 characters (recorded prompts and answers,
source code, JSON, manual pages, translations into 32 languages) against o200k_base by non-negative
least squares on the relative error, tables smoothed by hand to be monotone; median error 2 % on
recorded text, 3 % on code, 5-20 % on other scripts (cl100k_base needs up to three times as many
tokens for some of those). Prompts: overheads against the reported `prompt_tokens` of the
recorded chat completions of OpenAI and Azure, the text weight held at 1; those of other families
against what their providers reported. `python -m bench.token_accuracy` prints what they reach.
"""

from __future__ import annotations

from typing import NamedTuple

LONG, STRIDE, WINDOW = 8192, 4096, 512
"""Of a string this long only a window at each stride is looked at."""

# Kinds of characters, told by the first byte of their UTF-8 form. NONE also marks bytes that begin
# no character. AFTER is a line end that follows punctuation: both are one token.
NONE, LOWER, UPPER, DIGIT, SPACE, NEWLINE, AFTER, PUNCT, LATIN = range(9)
GREEK, SEMITIC, INDIC, KANA, HAN, HANGUL, SYMBOL, EMOJI = range(9, 17)
KINDS = 17


def _kind_of(lead: int) -> int:
    char = chr(lead)
    if lead < 0x80:
        if char.isalpha():
            return LOWER if char.islower() else UPPER
        return {" ": SPACE, "\t": SPACE, "\n": NEWLINE, "\r": NEWLINE}.get(
            char, DIGIT if char.isdigit() else PUNCT
        )
    bounds = (
        (0xC2, NONE),
        (0xC3, SYMBOL),
        (0xCE, LATIN),
        (0xD4, GREEK),  # and Cyrillic
        (0xE0, SEMITIC),  # and Armenian
        (0xE1, INDIC),  # and Thai
        (0xE2, LATIN),  # Vietnamese
        (0xE3, SYMBOL),
        (0xE4, KANA),
        (0xEA, HAN),
        (0xEE, HANGUL),
        (0xF0, SYMBOL),
        (0xF5, EMOJI),
    )
    return next((kind for bound, kind in bounds if lead < bound), NONE)


KIND = bytes(_kind_of(lead) for lead in range(256))

CAP = 16
"""Runs shorter than this are looked up; every further character adds the kind's slope."""


def _table(known: list[int], slope: int) -> tuple[list[int], int]:
    more = [known[-1] + slope * count for count in range(1, CAP - len(known))]
    return [0, *known, *more][:CAP], slope


RUN: dict[int, tuple[list[int], int]] = {
    LOWER: _table([64, 64, 64, 73, 87, 90, 93, 95, 100, 103, 106, 115, 140, 170, 205], 35),
    UPPER: _table([86, 86, 86, 90, 100, 115, 130], 30),
    DIGIT: _table([110 * ((count + 2) // 3) for count in range(1, CAP)], 37),
    NEWLINE: _table([88], 4),
    AFTER: _table([0], 4),
    PUNCT: _table([86, 101, 127, 170, 198, 213, 221], 8),
    GREEK: _table([96], 19),
    SEMITIC: _table([40], 40),
    INDIC: _table([45], 45),
    KANA: _table([45], 57),
    HAN: _table([110], 70),
    HANGUL: _table([140], 30),
    SYMBOL: _table([96], 75),
    EMOJI: _table([130], 130),
}
LATIN_EXTRA = 80
"""A letter beyond ASCII counts as a letter of its word, and this."""

# A run of spaces costs by what follows: one space belongs to the word behind it, not to a number.
SPACE_BEFORE_WORD = (25, 125)
SPACE_BEFORE: dict[int, tuple[int, int]] = {
    DIGIT: (75, 170),
    NEWLINE: (0, 60),
    KANA: (100, 120),
    HAN: (100, 120),
    EMOJI: (100, 120),
}
"""(one space, more)."""

TALK, TOOLS, SCHEMA = 1, 2, 3
SECTIONS: dict[bytes, int] = {
    **dict.fromkeys(
        b"messages input prompt suffix instructions system contents content systemInstruction "
        b"system_instruction query documents texts".split(),
        TALK,
    ),
    b"tools": TOOLS,
    b"functions": TOOLS,
    **dict.fromkeys(
        b"response_format text format output_config output_format generationConfig".split(),
        SCHEMA,
    ),
}
"""Top-level request members that reach the model as text; all others do not count."""

UNCOUNTED: frozenset[bytes] = frozenset(
    b"type role id call_id tool_call_id tool_use_id status detail format media_type mime_type "
    b"mimeType data file_data file_id file_url fileUri url image_url".split()
)
"""Members of messages whose strings are marks, references or binary data, not text."""

OPAQUE: frozenset[bytes] = frozenset(
    b"signature thoughtSignature thought_signature encrypted_content".split()
)
"""Members of messages that hold sealed reasoning."""

MEDIA: frozenset[bytes] = frozenset(
    b"image_url source inlineData inline_data fileData file_data file_id file_url "
    b"input_audio".split()
)
"""Members of messages that bring a picture, a sound, a film or a document."""

CALL = b"arguments"
"""A message member that tells a tool call."""

PER_ANSWER_CALL = 600
"""What a tool call in an answer costs beside its name and arguments."""


class Overheads(NamedTuple):
    """What a model's own form of a request costs, by model family: `catalog/data/families.json`.

    `text`, `tool_text` and `schema_text` are per cent of what the text itself costs, `opaque`
    hundredths of a token for each character, the others hundredths of a token. The defaults are
    those of OpenAI's models.
    """

    text: int = 100
    prompt: int = 300
    message: int = 400
    call: int = 800
    toolset: int = 2400
    tool_text: int = 100
    tool_key: int = 80
    schema: int = 1600
    schema_text: int = 100
    schema_key: int = 165
    medium: int = 80_000
    """A picture, sound, film or document, whose size the estimator does not look at."""
    opaque: int = 0
    """Signed or encrypted reasoning that goes back to the model: it stands for tokens."""


PER_NUMBER = 100
"""An input may be an array of token ids."""
SCHEMA_DEPTH = 4
"""The schema itself lies this deep: {"response_format": {"json_schema": {"schema": {...}}}}."""
MESSAGE_DEPTH = 3
"""A message, a tool: {"messages": [{...}]}."""

# -- correction ---------------------------------------------------------------------------------

RATIO_WHOLE = 1024
RATIOS = tuple(int(RATIO_WHOLE * 2 ** (step / 16 - 2)) for step in range(1, 65))
"""Upper ends of the classes of actual / estimated, in 1/1024: a quarter to four, 16 an octave."""
RATIO_FIRST = 37
"""The class a family begins with, as if one prompt had been seen: 1.3 times the estimate."""
RATIO_EVEN = 31
"""The class whose upper end is 1."""
RATIO_PRIOR = 4
"""How many prompts at 1 a family's first ones have to outweigh before it expects anything else."""
RATIO_LEAST = 16
"""Estimates below say nothing of the ratio: a provider's few constant tokens outweigh them."""
RATIO_MOST = 4_096
"""Prompts counted; past that all counts are halved, so that old ones fade."""
RATIO_RANGE = 1 << 40
"""Tokens; a report above is not believed."""
