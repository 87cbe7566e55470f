"""Which limits and budgets apply, and what happens to their counters when rules change."""

from __future__ import annotations

import gc

import pytest

from fastgw._ext import limits
from fastgw.domain import Deployment, Model, Price, Principal, Provider
from fastgw.errors import NotAllowed
from fastgw.flow.limits import FLAT_NANO, Limiter
from fastgw.flow.rules import Rule, Rules, split_match

ANNA = Principal(key_id="key_1", name="anna", user_id="user_1", team_id="team_1")
BERT = Principal(key_id="key_2", name="bert", team_id="team_1", org_id="org_1")
MINUTE = 60_000_000


def rule(scope="key", match="*", metric="requests", number=5, **fields):
    name = fields.pop("id", f"{scope} {match} {metric}")
    return Rule(id=name, scope=scope, match=match, metric=metric, limit=number, **fields)


def budget(scope="key", match="*", number=100, period="month", **fields):
    return rule(scope, match, "money", number, period=period, **fields)


def guard(limiter, principal=ANNA, model="m", providers=("p",), tags=None):
    return limiter.guard(principal, model, providers, tags or {})


def names(guarded):
    return [(meter.rule.id, meter.value) for meter in guarded.meters]


@pytest.mark.parametrize(
    ("one", "applies"),
    [
        (rule("key", "key_1"), True),
        (rule("key", "anna"), True),
        (rule("key", "key_2"), False),
        (rule("key", "*"), True),
        (rule("key", "an*"), True),
        (rule("user", "user_1"), True),
        (rule("user", "user_2"), False),
        (rule("team", "team_1"), True),
        (rule("org", "*"), False),
        (rule("model", "m"), True),
        (rule("model", "gpt-*"), False),
        (rule("provider", "p"), True),
        (rule("provider", "q"), False),
        (rule("global", "*"), True),
        (rule("tag", "job=a"), True),
        (rule("tag", "job=b"), False),
        (rule("tag", "job=*"), True),
        (rule("tag", "jo=*"), False),
        (rule("tag", "*"), True),
    ],
)
def test_a_rule_applies_to_what_it_names(one, applies):
    """By id, name, pattern or tag; a scope the request has no value of never matches."""
    found = guard(Limiter(Rules([one])), tags={"job": "a"})
    assert bool(found.meters) == applies


def test_each_match_has_its_own_counter_unless_shared():
    """`*` counts every key by itself; shared, all keys together."""
    limiter = Limiter(Rules([rule("key"), rule("team", shared=True), rule("model", shared=True)]))
    anna, bert = guard(limiter), guard(limiter, BERT)
    assert anna.meters[0] is not bert.meters[0]
    assert anna.meters[1] is bert.meters[1]
    assert guard(limiter, model="other").meters[2] is anna.meters[2]
    assert guard(limiter).meters == anna.meters
    assert names(anna) == [
        ("key * requests", "key_1"),
        ("team * requests", ""),
        ("model * requests", ""),
    ]


def test_a_rule_of_several_scopes_needs_them_all():
    """This key on that model; one counter for each pair, and the limit names both."""
    limiter = Limiter(Rules([rule("key", "*", also=(("model", "gpt-*"),))]))
    assert guard(limiter).meters == ()
    first, second = guard(limiter, model="gpt-a"), guard(limiter, model="gpt-b")
    assert names(first) == [("key * requests", "key_1 gpt-a")]
    assert first.meters != second.meters
    assert guard(limiter, model="gpt-a").meters == first.meters
    limiter.replace(Rules([rule("key", "anna", also=(("team", "team_1"), ("tag", "job=a")))]))
    assert guard(limiter).meters == ()
    assert len(guard(limiter, tags={"job": "a"}).meters) == 1
    assert guard(limiter, BERT, tags={"job": "a"}).meters == ()


@pytest.mark.parametrize(
    ("match", "read"),
    [
        ("key_1", ("key_1", ())),
        ("* & model=gpt-*", ("*", (("model", "gpt-*"),))),
        ("a & team=t & tag=job=x", ("a", (("team", "t"), ("tag", "job=x")))),
        ("job=salt & pepper", ("job=salt & pepper", ())),
        ("* & model=", ("* & model=", ())),
        ("* & global=*", ("* & global=*", ())),
    ],
)
def test_several_scopes_are_written_with_an_and(match, read):
    """What does not read as one is a value that happens to hold the sign."""
    assert split_match(match) == read


def test_a_default_stays_where_a_rule_does_not_quite_match():
    """A rule about this key on another model is none for this request."""
    narrow = rule(match="key_1", id="narrow", also=(("model", "other"),))
    limiter = Limiter(Rules([rule(id="default", default=True), narrow]))
    assert [name for name, _ in names(guard(limiter))] == ["default"]
    assert [name for name, _ in names(guard(limiter, model="other"))] == ["narrow"]


def test_a_default_yields_to_a_rule_of_its_kind():
    """Same scope and metric: the rule. Another metric, another key: the default still."""
    limiter = Limiter(
        Rules(
            [
                rule(id="default", default=True),
                rule(id="default tokens", metric="tokens", default=True),
                rule(match="key_1", id="own"),
            ]
        )
    )
    assert [name for name, _ in names(guard(limiter))] == ["own", "default tokens"]
    assert [name for name, _ in names(guard(limiter, BERT))] == ["default", "default tokens"]


def test_counters_outlive_a_changed_number():
    """A limit that is raised or lowered goes on from what was used."""
    limiter = Limiter(Rules([rule(), budget(), rule("team", algorithm="token_bucket", id="b")]))
    before = guard(limiter)
    held = before.reserve(MINUTE, 0, 60)
    held.settle(MINUTE, 0, 60)
    stamp = limiter.rules.stamp
    limiter.replace(
        Rules(
            [rule(number=3), budget(number=70), rule("team", number=9, algorithm="token_bucket",
                                                     burst=2, id="b")]
        )
    )  # fmt: skip
    after = guard(limiter)
    assert limiter.rules.stamp is stamp
    assert stamp.live, "the guards made before go by the new numbers"
    assert after.meters == before.meters
    assert after.meters[0].remaining(MINUTE) == 2
    assert (after.meters[1].spent, after.meters[1].remaining(MINUTE)) == (60, 10)
    assert (after.meters[2].limit, after.meters[2].burst) == (9, 2)


@pytest.mark.parametrize(
    "other",
    [
        rule(id="x", window_s=30),
        rule(id="x", metric="tokens"),
        rule(id="x", algorithm="token_bucket"),
        rule(id="x", shared=True),
        rule(id="x", reset_at=1),
    ],
)
def test_counters_of_another_kind_begin_anew(other):
    """What was counted otherwise says nothing about the new rule; a reset neither."""
    limiter = Limiter(Rules([rule(id="x")]))
    before, stamp = guard(limiter), limiter.rules.stamp
    limiter.replace(Rules([other]))
    assert guard(limiter).meters != before.meters
    assert not stamp.live
    assert limiter.rules.stamp.live
    limiter.replace(Rules())
    assert len(limiter) == 0
    assert guard(limiter).meters == ()


def test_only_what_nobody_keeps_and_nobody_used_is_swept():
    """A meter that a plan holds, or that counts something, stays one and the same."""
    limiter = Limiter(Rules([rule(), rule("team", metric="concurrent")]))
    kept, used = guard(limiter), guard(limiter, BERT)
    now = limits.now_us()
    held = used.reserve(now, 0, 0)
    guard(limiter, Principal(key_id="key_3", name="c"))
    assert len(limiter) == 4
    del used
    gc.collect()
    later = now + 60 * MINUTE
    limiter.sweep(now)
    assert len(limiter) == 4 - 1, "one that was never asked holds nothing"
    limiter.sweep(later)
    limiter.sweep(later)
    assert len(limiter) == 3
    held.settle(now, 0, 0)
    del held
    limiter.sweep(later)
    limiter.sweep(later)
    assert len(limiter) == 2
    assert guard(limiter).meters == kept.meters


def test_made_up_values_share_a_counter_in_the_end(monkeypatch):
    """A client that may choose tags or models cannot fill the memory with counters."""
    monkeypatch.setattr("fastgw.flow.limits._MOST_VALUES", 3)
    limiter = Limiter(Rules([rule("tag", "job=*")]))
    guards = [guard(limiter, tags={"job": str(number)}) for number in range(10)]
    assert len(limiter) == 4
    assert names(guards[9]) == [("tag job=* requests", "")]
    assert guards[9].meters == guards[5].meters != guards[2].meters
    limiter.replace(Rules([rule("tag", "job=*", number=9)]))
    assert guard(limiter, tags={"job": "more"}).meters == guards[9].meters


def model(*prices, name="m"):
    provider = Provider(name="p", type="openai_compatible", base_url="http://x/v1")
    return Model(
        name=name,
        deployments=tuple(Deployment(provider=provider, model="x", price=p) for p in prices),
    )


def test_a_tariff_takes_the_dearest_lines():
    """Whichever deployment and price line the request ends at, the reservation covers it."""
    limiter = Limiter()
    cheap = Price(input=1, output=2, cached=1)
    dear = Price(input=3, output=1, cache_write=7, reasoning=9, per_request=5)
    tariff = limiter.tariff(model(cheap, dear), "chat_completions")
    assert (tariff.input_pico, tariff.output_pico, tariff.request_pico) == (7, 9, 5)
    assert tariff.max_output == -1
    assert limiter.tariff(model(cheap), "embeddings").max_output == 0


def test_models_without_a_price_are_a_matter_of_configuration():
    """Refused, counted at a flat fee, or let through."""
    limiter, unpriced = Limiter(), model(None)
    with pytest.raises(NotAllowed):
        limiter.check_priced(unpriced)
    limiter.configure("flat")
    limiter.check_priced(unpriced)
    assert limiter.tariff(unpriced, "chat_completions").amounts(1, 10, 1, 1, False)[1] == FLAT_NANO
    limiter.configure("allow")
    limiter.check_priced(unpriced)
    assert limiter.tariff(unpriced, "chat_completions").amounts(1, 10, 1, 1, False)[1] == 0
    assert limiter.flat_nano is None


def test_a_change_of_price_changes_the_tariff():
    """Another directory has other models; the tariff follows at once, what was learnt stays."""
    limiter = Limiter()
    first = limiter.tariff(model(Price(input=1)), "chat_completions")
    second = limiter.tariff(model(Price(input=2)), "chat_completions")
    assert (first.input_pico, second.input_pico) == (1, 2)
    assert first.family is second.family


def test_made_up_model_names_use_up_no_memory():
    """Families of estimates are bounded; the rest share one."""
    limiter = Limiter()
    for number in range(3_000):
        limiter.tariff(model(Price(), name=f"p/{number}"), "chat_completions")
    assert len(limiter._families) <= 1_001
    assert len(limiter._tariffs) <= 1_000


def test_a_rule_of_several_scopes_counts_every_value(monkeypatch):
    """Each provider and each tag that matches has a counter; made-up ones are capped here too."""
    limiter = Limiter(Rules([rule("key", also=(("provider", "*"), ("tag", "*")))]))
    found = guard(limiter, providers=("p", "q"), tags={"a": "1", "b": "2"})
    assert [value for _, value in names(found)] == [
        "key_1 a=1 p", "key_1 a=1 q", "key_1 b=2 p", "key_1 b=2 q",
    ]  # fmt: skip
    monkeypatch.setattr("fastgw.flow.limits._MOST_VALUES", 3)
    limiter = Limiter(Rules([rule("key", also=(("tag", "job=*"),))]))
    guards = [guard(limiter, tags={"job": str(number)}) for number in range(10)]
    assert len(limiter) == 4
    assert guards[9].meters == guards[5].meters


def test_also_means_other_names_as_well():
    """A key's name is as good as its id, in a pattern too."""
    limiter = Limiter(Rules([rule("model", also=(("key", "an*"),))]))
    assert names(guard(limiter)) == [("model * requests", "m key_1")]
    assert guard(limiter, BERT).meters == ()


@pytest.mark.parametrize(
    ("one", "asked", "counts"),
    [
        (rule("key"), (), True),
        (rule("provider"), ("p",), True),
        (rule("provider"), ("q",), False),
        (rule("provider", also=(("tag", "job=a b"),)), ("p",), True),
        (rule("provider", also=(("tag", "job=a b"),)), ("q",), False),
        (rule("key", also=(("provider", "*"), ("tag", "job=a b"))), ("p",), True),
        (rule("key", also=(("provider", "*"), ("tag", "job=a b"))), ("q",), False),
        (rule("provider", "p", shared=True), ("p",), True),
        (rule("provider", "p", shared=True), ("q",), False),
        (rule("provider", "*", shared=True), ("q",), True),
    ],
)
def test_only_providers_that_were_asked_are_counted(one, asked, counts):
    """What a rule says besides the provider does not change that."""
    (meter,) = guard(Limiter(Rules([one])), tags={"job": "a b"}).meters
    assert meter.rule.concerns(meter.value, asked) == counts
