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

from fastgw._ext import estimate, limits
from fastgw.catalog import families
from fastgw.catalog.cost import dearest_input, dearest_output, in_service
from fastgw.domain import Model, Price, Principal, usd
from fastgw.errors import BudgetReserved, GatewayError, InsufficientQuota, NotAllowed, RateLimited
from fastgw.flow.exchange import Exchange
from fastgw.flow.rules import MONEY, Rule, Rules, facts_of
from fastgw.flow.shared import adjust, make_meter
from fastgw.metrics import Metrics

Meter = limits.Window | limits.Bucket | limits.Slots | limits.Budget | limits.Shared

TOKENS = 1
"""The metric of meters that count tokens."""
_MOST_NUMBER = 2**62
_MOST_FAMILIES = 1_000
_MOST_TARIFFS = 1_000
_MOST_TIERS = 7
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


class Terms(msgspec.Struct, frozen=True):
    """How budgets are enforced."""

    unpriced: str = "refuse"
    """What a budget does about a model without a price: refuse, flat or allow."""
    flat_nano: int = 10_000_000
    """What a request to one counts under `flat`."""
    clamps: bool = False
    """Whether what does not fit in full gets a maximum that does."""
    tool_fees: Mapping[str, int] = {}
    """Type of a server tool -> nano-dollars a request costs that offers it."""


class Learnt:
    """What was learnt of one model's answers: how far counts are off, how long they are."""

    def __init__(self) -> None:
        self.answers = estimate.Family()
        self.lengths = limits.Lengths()


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
        self.terms = Terms()
        self.keeper: Keeper | None = None
        """Who keeps the meters; None: they are kept here. Set before any is made."""
        self._meters: dict[tuple[str, str], Meter] = {}
        self._values: Counter[str] = Counter()
        """How many meters rules about chosen values have."""
        self._unswept: list[tuple[str, str]] = []
        self._families: dict[str, estimate.Family] = {}
        self._learnt: dict[str, Learnt] = {}
        self._tariffs: dict[tuple[int, bool, str], tuple[Model, limits.Tariff]] = {}

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
        self,
        principal: Principal,
        model: str,
        providers: Iterable[str],
        tags: Mapping[str, str],
        payer: Principal | None = None,
    ) -> limits.Guard:
        """Give everything that applies to such a request; budgets are those of who pays."""
        if not self.rules:
            return limits.Guard(())
        facts = facts_of(principal, model, providers, tags)
        matching = list(self.rules.matching(facts))
        if payer is not None and payer is not principal:
            paying = self.rules.matching(facts_of(payer, model, providers, tags))
            matching = [pair for pair in matching if pair[0].metric != MONEY]
            matching += [pair for pair in paying if pair[0].metric == MONEY]
        guard = limits.Guard(tuple(self._meter(rule, value) for rule, value in matching))
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

    def tariff(self, model: Model, endpoint: str, service: str = "") -> limits.Tariff:
        """Give what a request to a model may use and cost at most, whichever deployment serves.

        A model that costs some keys something else is another one for each price.
        """
        key = (id(model), endpoint in _SILENT, service)
        found = self._tariffs.get(key)
        if found is not None:
            return found[1]
        if len(self._tariffs) >= _MOST_TARIFFS:
            self._tariffs.clear()
        tariff = _tariff(
            model,
            self.family(model),
            self._learnt_of(model.name),
            service,
            silent=key[1],
            flat_nano=self.flat_nano,
        )
        self._tariffs[key] = (model, tariff)  # which keeps its id taken
        return tariff

    def family(self, model: Model) -> estimate.Family:
        """Give what counts a model's prompts; it learns from what is reported of them."""
        name = model.name
        if name not in self._families and len(self._families) >= _MOST_FAMILIES:
            name = ""  # clients make up names under `provider/`; these share one
        found = self._families.get(name)
        if found is None:
            upstream = model.deployments[0].model if model.deployments else model.name
            facts = families.find(families.known(upstream, model.name))
            found = self._families[name] = estimate.Family(facts.overheads)
        return found

    @property
    def flat_nano(self) -> int | None:
        """What a request to a model without a price costs where a budget applies."""
        return self.terms.flat_nano if self.terms.unpriced == "flat" else None

    def configure(self, terms: Terms) -> None:
        """Set how budgets are enforced."""
        self.terms = terms
        self._tariffs.clear()

    def check_priced(self, model: Model) -> None:
        """Refuse a model without a price where a budget applies and the operator wants that."""
        if self.terms.unpriced == "refuse" and any(d.price is None for d in model.deployments):
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

    def _learnt_of(self, name: str) -> Learnt:
        if name not in self._learnt and len(self._learnt) >= _MOST_FAMILIES:
            name = ""  # clients make up names under `provider/`; these share one
        return self._learnt.setdefault(name, Learnt())


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


def _tariff(
    model: Model,
    family: estimate.Family,
    learnt: Learnt,
    service: str,
    *,
    silent: bool,
    flat_nano: int | None,
) -> limits.Tariff:
    """Take the dearest of each price line, and the longest answer, over all deployments."""
    flat = Price(per_request=(flat_nano or 0) * 1000)
    prices = [in_service(d.price, service) or flat for d in model.deployments]
    most = [
        0 if silent else -1 if d.max_output is None else d.max_output for d in model.deployments
    ]
    thresholds = sorted({above for price in prices for above, _ in price.tiers})
    tiers = [_dearest(prices, above) for above in thresholds]
    base = _dearest(prices, 0)
    if len(tiers) > _MOST_TIERS:  # nobody has so many: the dearest holds for all
        base = (0, max(t[1] for t in (base, *tiers)), max(t[2] for t in (base, *tiers)))
        tiers = []
    for place, tier in enumerate(tiers):  # the prompt may turn out to be shorter
        _, into, out = tiers[place - 1] if place else base
        tiers[place] = (tier[0], max(tier[1], into), max(tier[2], out))
    return limits.Tariff(
        family,
        base[1],
        base[2],
        max([0, *(p.per_request for p in prices)]),
        -1 if -1 in most else max(most, default=-1),
        learnt.answers,
        learnt.lengths,
        tuple(tiers),
    )


def _dearest(prices: Iterable[Price], above: int) -> tuple[int, int, int]:
    """Give what a token of input and of output costs at most once the prompt is above so many."""
    reached = [_reached(price, above) for price in prices]
    return (
        above,
        max([0, *map(dearest_input, reached)]),
        max([0, *map(dearest_output, reached)]),
    )


def _reached(price: Price, above: int) -> Price:
    return next((tier for at, tier in reversed(price.tiers) if at <= above), price)


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


def note_cut(exchange: Exchange, metrics: Metrics) -> None:
    """Count the limit or budget that had no room for more of a stream."""
    slices, now = exchange.slices, limits.now_us()
    assert slices is not None
    held, tariff = slices.held, slices.tariff
    tokens = tariff.lengths.slice * exchange.choices
    for meter in held.guard.meters:
        if isinstance(meter, limits.Budget):
            if meter.hard and meter.remaining(now) < tokens * tariff.output_pico // 1000:
                metrics.budget_exceeded[meter.rule.scope].add(1)
                return
        elif meter.metric == TOKENS and meter.remaining(now) < tokens:
            metrics.rate_limited[meter.rule.scope].add(1)
            return


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
