"""Which limits and budgets apply to whom, as one immutable set."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import product

import msgspec

from fastgw.domain import Principal
from fastgw.flow.stamp import Stamp

WILDCARD = "*"
AND = " & "
SCOPES = frozenset({"key", "user", "team", "org", "model", "provider", "tag"})
CHOSEN = frozenset({"model", "tag"})
"""Scopes whose values clients may make up."""
MONEY = "money"

Fact = tuple[str, str, str]
"""(scope, value, another name of the value or "")."""


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
    also: tuple[tuple[str, str], ...] = ()
    """(scope, match) pairs that must match as well."""
    reset_at: int = 0
    """Epoch milliseconds: nothing counts that was before."""

    def covers(self, value: str, name: str = "") -> bool:
        """Tell whether it is about this value of its scope."""
        return is_match(self.match, value, name)

    @property
    def chosen(self) -> bool:
        """Whether clients may make up values it counts for."""
        return self.scope in CHOSEN or any(scope in CHOSEN for scope, _ in self.also)

    def concerns(self, value: str, providers: Collection[str]) -> bool:
        """Tell whether what it counts for a value counts when these providers were asked."""
        matches = [match for scope, match in self._all if scope == "provider"]
        if not matches:
            return True
        if not value:  # one counter for all that match
            return any(is_match(match, name) for match in matches for name in providers)
        # Provider names hold no space, and among several values theirs is the first or the last.
        first, _, _ = value.partition(" ")
        _, _, last = value.rpartition(" ")
        return (first if self.scope == "provider" else last) in providers

    @property
    def _all(self) -> tuple[tuple[str, str], ...]:
        return ((self.scope, self.match), *self.also)

    def counts_like(self, other: Rule) -> bool:
        """Tell whether counters made for the other go on counting for this one.

        The number may change under them.
        """
        return (
            msgspec.structs.replace(self, limit=other.limit, burst=other.burst, hard=other.hard)
            == other
        )


class Rules:
    """All rules in force. A change makes another set; who applies to whom is marked by `stamp`."""

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

    def match_like(self, others: Rules) -> bool:
        """Tell whether the same rules apply to everything, whatever their numbers."""
        return self.by_id.keys() == others.by_id.keys() and all(
            rule.counts_like(others.by_id[name]) for name, rule in self.by_id.items()
        )

    def matching(self, facts: Sequence[Fact]) -> Iterator[tuple[Rule, str]]:
        """Give the rules that apply, each with the value it counts for; in a fixed order."""
        for scope, value, name in facts:
            found = list(self._exact.get((scope, value), ()))
            if name and name != value:
                found += self._exact.get((scope, name), ())
            found += [rule for rule in self._wild.get(scope, ()) if rule.covers(value, name)]
            applying = [(rule, one) for rule in found for one in _counted(rule, value, facts)]
            ruled = {rule.metric for rule, _ in applying if not rule.default}
            for rule, counted in applying:
                if not (rule.default and rule.metric in ruled):
                    yield rule, "" if rule.shared else counted


def split_match(match: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Read `key_1 & model=gpt-*` as what the rule's own scope matches, and what else has to."""
    first, *others = match.split(AND)
    also = [tuple(other.split("=", 1)) for other in others]
    if not all(len(pair) == 2 and pair[0] in SCOPES and pair[1] for pair in also):
        return match, ()  # a value that happens to hold the sign
    return first, tuple((pair[0], pair[1]) for pair in also)


def is_match(match: str, value: str, name: str = "") -> bool:
    """Tell whether a value is the one that is named, or one of those a pattern means.

    It may be meant by another name it has.
    """
    if WILDCARD not in match:
        return match == value or bool(name and match == name)
    return fnmatchcase(value, match) or bool(name and fnmatchcase(name, match))


def _counted(rule: Rule, value: str, facts: Sequence[Fact]) -> Iterator[str]:
    """Give the values a rule counts for; none when something else it names does not match."""
    also = sorted(rule.also, key=lambda pair: pair[0] == "provider")
    others = [
        [v for of, v, name in facts if of == scope and is_match(match, v, name)]
        for scope, match in also
    ]
    return map(" ".join, product([value], *others))


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
