"""What a new configuration changes in a running server, and what has to wait for a restart."""

from __future__ import annotations

from typing import NamedTuple

from fastgw.config.schema import Settings
from fastgw.config.shape import leaves
from fastgw.config.tree import dotted

RELOADABLE = frozenset(
    {
        *("providers", "models", "aliases", "limits", "budgets", "routing"),
        *("keys", "auth", "stream", "logs", "catalog", "usage"),
    }
)
"""Sections that take effect at once. All others shape sockets, processes, stores and labels, which
are made at the start."""


class Change(NamedTuple):
    """A reload's outcome: what to serve by from now on, and the names of what differs."""

    settings: Settings
    reloaded: tuple[str, ...]
    restart: tuple[str, ...]


def carry_over(old: Settings, new: Settings) -> Change:
    """Take from `new` what can change in a running server; the rest stays as in `old`."""
    before = {dotted(path): value for path, value in leaves(old)}
    after = {dotted(path): value for path, value in leaves(new)}
    differing = [key for key in {**before, **after} if before.get(key, ...) != after.get(key, ...)]
    names: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for key in differing:
        section, _, _ = key.replace("[", ".").partition(".")
        # Elements of lists move when one is added: name the list, not every element behind it.
        names[section in RELOADABLE][key.partition("[")[0]] = None
    kept = {name: getattr(old, name) for name in type(old).model_fields if name not in RELOADABLE}
    return Change(new.model_copy(update=kept), tuple(names[True]), tuple(names[False]))
