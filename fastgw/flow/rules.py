"""Which limits and budgets apply to whom, as one immutable set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec

from fastgw.domain import Principal

WILDCARD = "*"
MONEY = "money"

Fact = tuple[str, str, str]
"""(scope, value, another name of the value or "")."""


class Stamp:
    """Marks a fact that others were made from; whoever changes the fact kills the stamp."""

    __slots__ = ("live",)

    def __init__(self) -> None:
        self.live = True

    def kill(self) -> None:
        """Say that the fact is no longer true."""
        self.live = False


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A limit or a budget.

    `metric` is requests, tokens, concurrent or money; `limit` of money is nano-dollars a `period`
    (day, week, month, total). `match` is an id or a name, `k=v` for the scope tag; `*` in it is a
    wildcard. A `default` applies where no other rule of its scope and metric does.
    """

    id: str
    scope: str
    match: str = WILDCARD
    metric: str
    limit: int
    window_s: float = 60
    algorithm: str = "sliding_window"
    burst: int | None = None
    period: str = ""
    hard: bool = True
    shared: bool = False
    default: bool = False
    reset_at: int = 0
    """Epoch milliseconds: nothing counts that was before."""

    def covers(self, value: str, name: str = "") -> bool:
        """Tell whether it is about this value of its scope."""
        if WILDCARD in self.match:
            return fnmatchcase(value, self.match) or bool(name and fnmatchcase(name, self.match))
        return self.match == value or bool(name and self.match == name)

    def counts_like(self, other: Rule) -> bool:
        """Tell whether counters made for the other go on counting for this one.

        The number may change under them.
        """
        return (
            msgspec.structs.replace(self, limit=other.limit, burst=other.burst, hard=other.hard)
            == other
        )


class Rules:
    """All rules in force; a change makes another set and kills the stamp of this one."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.stamp = Stamp()
        self.by_id = {rule.id: rule for rule in rules}
        self._exact: dict[tuple[str, str], list[Rule]] = {}
        self._wild: dict[str, list[Rule]] = {}
        for rule in self.by_id.values():
            if rule.scope == "global":
                self._exact.setdefault(("global", ""), []).append(rule)
            elif WILDCARD in rule.match:
                self._wild.setdefault(rule.scope, []).append(rule)
            else:
                self._exact.setdefault((rule.scope, rule.match), []).append(rule)

    def __len__(self) -> int:
        return len(self.by_id)

    def matching(self, facts: Sequence[Fact]) -> Iterator[tuple[Rule, str]]:
        """Give the rules that apply, each with the value it counts for; in a fixed order."""
        for scope, value, name in facts:
            found = list(self._exact.get((scope, value), ()))
            if name and name != value:
                found += self._exact.get((scope, name), ())
            found += [rule for rule in self._wild.get(scope, ()) if rule.covers(value, name)]
            ruled = {rule.metric for rule in found if not rule.default}
            for rule in found:
                if not (rule.default and rule.metric in ruled):
                    yield rule, "" if rule.shared else value


def facts_of(
    principal: Principal, model: str, providers: Iterable[str], tags: Mapping[str, str]
) -> list[Fact]:
    """Give what rules can be about in one request."""
    facts = [("global", "", ""), ("key", principal.key_id, principal.name)]
    if principal.user_id is not None:
        facts.append(("user", principal.user_id, ""))
    if principal.team_id is not None:
        facts.append(("team", principal.team_id, ""))
    if principal.org_id is not None:
        facts.append(("org", principal.org_id, ""))
    facts.append(("model", model, ""))
    facts += [("provider", name, "") for name in providers]
    facts += [("tag", f"{name}={value}", "") for name, value in tags.items()]
    return facts
