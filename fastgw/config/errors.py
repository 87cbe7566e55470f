"""What is wrong with a configuration, said so that it can be found and put right.

A problem names where the value stands (file and line, or the variable), which key it is and what
would be right. Values are never repeated here: any of them may be a secret in the wrong place.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastgw.config.stamps import Stamp


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault.

    `place` is `fastgw.yaml:12` or a variable's name, `key` a path such as
    `models[0].deployments[1].provider`; either may be empty.
    """

    message: str
    place: str = ""
    key: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.key, self.message) if part)


class ConfigError(Exception):
    """The configuration cannot be used; one line for each problem found.

    `stamps` has the files that were looked at, as they were: any of them may hold the remedy.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        self.stamps: Mapping[Path, Stamp | None] = {}
        super().__init__("\n".join(map(str, self.problems)))

    @classmethod
    def single(cls, message: str, *, place: str = "", key: str = "") -> ConfigError:
        """Make the error for one problem."""
        return cls([Problem(message, place, key)])


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Give the known name that `name` was most likely meant to be."""
    by_fold = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[close[0]] if close else None


def suggest(name: str, known: Iterable[str]) -> str:
    """Say what `name` may have meant: "did you mean `port`?", else what there is."""
    names = sorted(known)
    close = nearest(name, names)
    if close:
        return f"did you mean `{close}`?"
    if not names:
        return "there is none"
    more = " ..." if len(names) > 30 else ""
    return f"known: {', '.join(names[:30])}{more}"
