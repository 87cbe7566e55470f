"""Limits and budgets of one worker: which meters a request must pass, and why one refused it.

A meter belongs to a rule and to the value it matched. It outlives the request and, as long as no
more than the rule's number changes, the rule too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeGuard

import msgspec

from fastgw import catalog
from fastgw._ext import estimate, limits
from fastgw.catalog import families
from fastgw.domain import Deployment, Model, Price, Principal, usd
from fastgw.errors import BudgetReserved, GatewayError, InsufficientQuota, NotAllowed, RateLimited
from fastgw.flow.rules import MONEY, Rule, Rules, facts_of
from fastgw.flow.shared import adjust, make_meter
from fastgw.metrics import Metrics
from fastgw.providers import registry

Meter = limits.Window | limits.Bucket | limits.Slots | limits.Budget | limits.Shared

FLAT_NANO = 10_000_000
"""What a request to a model without a price counts under `budgets.unpriced: flat`: a cent."""
_MOST_NUMBER = 2**62
_MOST_FAMILIES = 1_000
_MOST_TARIFFS = 1_000
_SILENT = frozenset({"embeddings", "moderations", "rerank"})
"""Endpoints whose answers hold no tokens."""
_MOST_VALUES = 10_000
"""Counters of one rule about values that clients make up; the rest share one, or such names would
fill the memory."""
_IDLE_US = 600_000_000
_SWEPT = 1_000
"""Meters looked at in one go, so that nobody waits for a sweep."""
_UNSHARED = 2
"""References to a meter that only the table holds: the table's own and the one that asks."""


class Stands(msgspec.Struct, frozen=True):
    """A meter that refused, for so long: microseconds, -1 for ever."""

    meter: limits.Shared
    wait: int


class Keeper(Protocol):
    """Who keeps meters for many workers."""

    def give_back(self, meter: limits.Meter, /) -> None:
        """Let go of what is put aside of a meter nobody needs."""


class Limiter:
    """The meters of all rules, made as they are needed."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.unpriced = "refuse"
        """What a budget does about a model without a price: refuse, flat or allow."""
        self.keeper: Keeper | None = None
        """Who keeps the meters; None: they are kept here. Set before any is made."""
        self._meters: dict[tuple[str, str], Meter] = {}
        self._values: Counter[str] = Counter()
        """How many meters rules about chosen values have."""
        self._unswept: list[tuple[str, str]] = []
        self._families: dict[str, estimate.Family] = {}
        self._tariffs: dict[tuple[str, bool], tuple[Model, limits.Tariff]] = {}

    def __len__(self) -> int:
        return len(self._meters)

    def replace(self, rules: Rules) -> None:
        """Go by other rules from now on. Counters stay where only the number is another.

        Where no more than numbers changed, guards made before are as good as new ones.
        """
        kept = {}
        for key, meter in self._meters.items():
            rule = rules.by_id.get(key[0])
            if rule is not None and rule.counts_like(meter.rule):
                kept[key] = _adjust(meter, rule)
        self._meters = kept
        self._values = Counter(meter.rule.id for meter in kept.values() if meter.rule.chosen)
        before, self.rules = self.rules, rules
        if rules.match_like(before):
            rules.stamp = before.stamp
        else:
            before.stamp.kill()

    def guard(
        self, principal: Principal, model: str, providers: Iterable[str], tags: Mapping[str, str]
    ) -> limits.Guard:
        """Give everything that applies to such a request."""
        if not self.rules:
            return limits.Guard(())
        facts = facts_of(principal, model, providers, tags)
        guard = limits.Guard(
            tuple(self._meter(rule, value) for rule, value in self.rules.matching(facts))
        )
        guard.keeper = self.keeper
        return guard

    def budgets(self) -> Iterator[limits.Budget | limits.Shared]:
        """Give the budgets that somebody has met so far."""
        return (m for m in list(self._meters.values()) if is_budget(m))

    def sweep(self, now: int) -> None:
        """Let go of some meters that nobody asked for a while and that hold nothing."""
        if not self._unswept:
            self._unswept = list(self._meters)
        batch, self._unswept = self._unswept[-_SWEPT:], self._unswept[:-_SWEPT]
        for key in batch:
            meter = self._meters.get(key)
            if meter is None or now - meter.latest < _IDLE_US:
                continue
            if not meter.idle(now):
                if self.keeper is not None:
                    self.keeper.give_back(meter)
                continue
            chosen = meter.rule.chosen
            del meter
            # A guard that somebody keeps would count beside a new meter of the same rule.
            if sys.getrefcount(self._meters[key]) == _UNSHARED:
                del self._meters[key]
                self._values[key[0]] -= chosen

    def tariff(self, model: Model, endpoint: str) -> limits.Tariff:
        """Give what a request to a model may use and cost at most, whichever deployment serves."""
        key = (model.name, endpoint in _SILENT)
        found = self._tariffs.get(key)
        if found is not None and found[0] is model:
            return found[1]
        if len(self._tariffs) >= _MOST_TARIFFS:
            self._tariffs.clear()
        tariff = _tariff(model, self.family(model), silent=key[1], unpriced=self.unpriced)
        self._tariffs[key] = (model, tariff)
        return tariff

    def family(self, model: Model) -> estimate.Family:
        """Give what counts a model's prompts; it learns from what is reported of them."""
        name = model.name
        if name not in self._families and len(self._families) >= _MOST_FAMILIES:
            name = ""  # clients make up names under `provider/`; these share one
        found = self._families.get(name)
        if found is None:
            upstream = model.deployments[0].model if model.deployments else model.name
            facts = families.find(upstream)
            found = self._families[name] = estimate.Family(facts.overheads)
        return found

    @property
    def flat_nano(self) -> int | None:
        """What a request to a model without a price costs where a budget applies."""
        return FLAT_NANO if self.unpriced == "flat" else None

    def configure(self, unpriced: str) -> None:
        """Set what a budget does about a model without a price."""
        self.unpriced = unpriced
        self._tariffs.clear()

    def check_priced(self, model: Model) -> None:
        """Refuse a model without a price where a budget applies and the operator wants that."""
        if self.unpriced == "refuse" and any(d.price is None for d in model.deployments):
            raise NotAllowed(f"a budget applies, and the model {model.name!r} has no price")

    def _meter(self, rule: Rule, value: str) -> Meter:
        meter = self._meters.get((rule.id, value))
        if meter is None and rule.chosen and self._values[rule.id] >= _MOST_VALUES:
            value = ""
            meter = self._meters.get((rule.id, value))
        if meter is None:
            self._values[rule.id] += rule.chosen
            if self.keeper is not None:
                meter = make_meter(rule, value)
            else:
                meter = _make(rule)
                meter.rule = rule
                meter.value = value
            self._meters[rule.id, value] = meter
        return meter


def _make(rule: Rule) -> Meter:
    number, window_us = min(rule.limit, _MOST_NUMBER), int(rule.window_s * 1_000_000)
    if rule.metric == MONEY:
        return limits.Budget(number, rule.period, rule.hard)
    if rule.metric == "concurrent":
        return limits.Slots(number)
    if rule.algorithm == "token_bucket":
        return limits.Bucket(number, window_us, _burst(rule), rule.metric)
    return limits.Window(number, window_us, rule.metric)


def is_budget(meter: limits.Meter) -> TypeGuard[limits.Budget | limits.Shared]:
    """Tell whether it counts money."""
    return bool(meter.rule.metric == MONEY)


def _adjust(meter: Meter, rule: Rule) -> Meter:
    if isinstance(meter, limits.Shared):
        adjust(meter, rule)
        return meter
    meter.rule = rule
    meter.limit = min(rule.limit, _MOST_NUMBER)
    if isinstance(meter, limits.Bucket):
        meter.burst = _burst(rule)
    elif isinstance(meter, limits.Budget):
        meter.hard = rule.hard
    return meter


def _burst(rule: Rule) -> int:
    return min(rule.limit if rule.burst is None else rule.burst, _MOST_NUMBER)


# -- amounts ------------------------------------------------------------------------------------


def _tariff(model: Model, family: estimate.Family, *, silent: bool, unpriced: str) -> limits.Tariff:
    """Take the dearest of each price line, and the longest answer, over all deployments."""
    flat = Price(per_request=FLAT_NANO * 1000 if unpriced == "flat" else 0)
    prices = [flat if d.price is None else d.price for d in model.deployments]
    most = [0 if silent else _max_output(deployment) for deployment in model.deployments]
    return limits.Tariff(
        family,
        max([0, *(max(p.input, p.cached or 0, p.cache_write or 0) for p in prices)]),
        max([0, *(max(p.output, p.reasoning or 0) for p in prices)]),
        max([0, *(p.per_request for p in prices)]),
        -1 if -1 in most else max(most, default=-1),
    )


def _max_output(deployment: Deployment) -> int:
    """Give the longest answer of the upstream model, -1 when it is not known."""
    catalogue = registry[deployment.provider.type].catalogue
    facts = catalog.load().find(catalogue, deployment.model) if catalogue else None
    return -1 if facts is None or facts.max_output_tokens is None else facts.max_output_tokens


# -- refusing -----------------------------------------------------------------------------------


def refusal(
    guard: limits.Guard, now: int, tokens: int, nano: int, metrics: Metrics | None
) -> GatewayError | None:
    """Give the error for a guard that would not let this much through, and count it in `metrics`.

    None: it would after all.
    """
    meter, wait = guard.refusal(now, tokens, nano)
    return None if meter is None else refusal_by(meter, wait, tokens, nano, metrics)


def refusal_by(
    meter: limits.Meter, wait: int, tokens: int, nano: int, metrics: Metrics | None
) -> GatewayError:
    """Give the error for a meter that stands in the way for so long (-1: for ever); count it."""
    rule: Rule = meter.rule
    after = None if wait < 0 else wait / 1e6
    whom = f"{rule.scope} {meter.value or rule.match}" if rule.scope != "global" else "everybody"
    if not is_budget(meter):
        if metrics is not None:
            metrics.rate_limited[rule.scope].add(1)
        return _rate_limited(rule, whom, after, tokens)
    if metrics is not None:
        metrics.budget_exceeded[rule.scope].add(1)
    period = "in all" if rule.period == "total" else f"a {rule.period}"
    budget = f"the budget of {usd(meter.limit)} USD {period} for {whom}"
    if nano <= meter.limit - meter.spent:
        return BudgetReserved(
            f"{budget} is held by requests under way; try again", retry_after=after
        )
    if nano > meter.limit:
        return InsufficientQuota(f"{budget} is less than this request may cost: {usd(nano)} USD")
    return InsufficientQuota(f"{budget} is used up", retry_after=after)


def _rate_limited(rule: Rule, whom: str, after: float | None, tokens: int) -> RateLimited:
    if rule.metric == "concurrent":
        what = f"{rule.limit} requests at the same time"
    else:
        what = f"{rule.limit} {rule.metric} in {rule.window_s:g} s"
    if after is not None:
        return RateLimited(f"the limit of {what} for {whom} is reached", retry_after=after)
    needs = f"; this request may need {tokens}" if rule.metric == "tokens" else ""
    error = RateLimited(f"the limit for {whom} is {what}{needs}")
    error.retryable = False
    return error
