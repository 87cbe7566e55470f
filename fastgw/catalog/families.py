"""Model families: which tokenizer comes closest, and what a request costs beside its text.

The figures are data, `data/families.json`, in the order they are tried; each says by what model
names it is known, and how it was found. Amounts are hundredths of a token, rates per cent.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib import resources

import msgspec

from fastgw._ext.weights import PER_ANSWER_CALL, Overheads

LONGEST_NAME = 300
_OVERHEADS = frozenset(Overheads._fields)


class Pictures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a picture costs, in whole tokens.

    `tile` is added for each tile of `side` pixels, of a picture scaled to fit `most` and then to
    a shortest side of `shortest`. With `patch` tokens go by patches of `side` pixels, at most
    `patches`, times `patch`; with `area` by pixels over it. `unseen` is for one whose size is not
    known.
    """

    base: int = 0
    tile: int = 0
    side: int = 512
    most: int = 0
    shortest: int = 0
    low: int = 0
    """What `detail: low` costs; 0: there is no such thing."""
    patch: float = 0
    patches: int = 1536
    area: int = 0
    ceiling: int = 0
    unseen: int = 800


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Facts about one family; `note` says where they come from."""

    name: str
    match: str
    """A regular expression that is looked for in the model's name, lower case."""
    note: str
    encoding: str = "o200k_base"
    add: dict[str, int] = {}
    """What of `Overheads` is not as with OpenAI's models."""
    bearer: int = 100
    """A message that bears a name."""
    answer: int = 100
    """Per cent: tokens of an answer's text by the encoding's."""
    answer_end: int = 0
    """What an answer with text costs beside it."""
    answer_call: int = PER_ANSWER_CALL
    """What a tool call in an answer costs beside its name and arguments."""
    pictures: Pictures = Pictures()
    document: int = 1500
    sound: int = 300

    @property
    def overheads(self) -> Overheads:
        """What a request costs beside its text."""
        return Overheads(**{"medium": 100 * self.pictures.unseen, **self.add})


@cache
def load() -> tuple[Family, ...]:
    """Give all families, the most particular first; the last one matches every name."""
    text = resources.files("fastgw.catalog").joinpath("data/families.json").read_bytes()
    found = msgspec.json.decode(text, type=tuple[Family, ...])
    for family in found:
        if not family.add.keys() <= _OVERHEADS:
            raise ValueError(f"{family.name}: {family.add.keys() - _OVERHEADS} is no overhead")
    return found


@lru_cache(maxsize=1000)
def find(model: str) -> Family:
    """Give the family of an upstream model by its name."""
    name = model[:LONGEST_NAME].lower()
    return next(family for family in load() if re.search(family.match, name))
