"""What a request costs and who pays: clamps, models without a price, server tools, classes of
service, prices agreed on, and spend that is booked to another key.
"""

from __future__ import annotations

import json
import os

import pytest

from fastgw._ext import journal
from fastgw.catalog.overrides import Overrides, apply
from fastgw.domain import (
    Deployment,
    Model,
    Price,
    PriceOverride,
    Principal,
    Provider,
    UsageRecord,
    now_ms,
)
from fastgw.errors import InvalidRequest
from fastgw.mock import Options, start
from fastgw.storage.sql import aliases, budgets, keys, models, price_overrides, teams
from tests.waiting import eventually

PICO = 10**6
"""A dollar a million tokens, which is 1,000 nano-dollars each."""
DAY_MS = 86_400_000
CEILING = 128_000
TALK = {"messages": [{"role": "user", "content": "Hello"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture
async def paid(serve, sqlite_url):
    """Start a gateway in front of the mock; the model `p/mock` has a price and a ceiling."""
    mocks = []

    async def begin(**sections):
        mock = await start(Options(chunks=20))
        mocks.append(mock)
        served = await serve(
            sqlite_url,
            providers=[
                {"name": "p", "type": "openai_compatible", "base_url": mock.base_url,
                 "models": ["mock"]},
                {"name": "o", "type": "openai", "base_url": mock.base_url},
                {"name": "a", "type": "anthropic", "base_url": mock.base_url.removesuffix("/v1")},
            ],
            **sections,
        )  # fmt: skip
        served.mock = mock
        store = served.gateway.store
        for name in ("mock", "o/mock", "a/mock"):
            await models.put(
                store, "", name, input_pico=PICO, output_pico=PICO, max_output_tokens=CEILING
            )
        await served.gateway._changes.poll()
        return served

    yield begin
    for mock in mocks:
        await mock.stop()


async def budget(served, nano, **fields):
    """Give everybody so much."""
    made = {"scope": "global", "period": "total", **fields, "limit_nano": nano}
    await budgets.create(served.gateway.store, **made)
    await served.gateway._changes.poll()


async def ask(served, key, path=CHAT, **body):
    """Ask; give status, headers and the decoded answer."""
    sent = {"model": "mock", **TALK, **body}
    headers = {"authorization": f"Bearer {key}"}
    async with served.client.post(served.url + path, json=sent, headers=headers) as answer:
        return answer.status, answer.headers, json.loads(await answer.text())


def asked(served):
    """Give what the provider was asked last."""
    return json.loads(served.mock.log[-1]["body"])


# -- the clamp ----------------------------------------------------------------------------------


async def test_what_does_not_fit_is_refused_unless_it_may_be_clamped(paid):
    """128,000 tokens cost 0.128 USD, and there is less: refused as it stands."""
    served = await paid()
    await budget(served, 100_000_000)
    key = await served.create_key()
    status, headers, body = await ask(served, key)
    assert (status, body["error"]["code"]) == (429, "insufficient_quota")
    assert headers["x-should-retry"] == "false"
    assert len(served.mock.log) == 0


@pytest.mark.parametrize(
    ("path", "model", "member"),
    [
        (CHAT, "mock", "max_tokens"),
        (CHAT, "o/mock", "max_completion_tokens"),
        ("/v1/responses", "mock", "max_output_tokens"),
        ("/v1/completions", "mock", "max_tokens"),
    ],
)
@pytest.mark.parametrize("lane", [True, False], ids=["fast", "standard"])
async def test_a_clamp_asks_for_what_there_is_room_for(paid, path, model, member, lane):
    """The provider gets a maximum, the client is told, and the budget is never overspent."""
    served = await paid(budgets={"on_tight": "clamp"}, server={"fast_lane": lane})
    await budget(served, 100_000_000)
    key = await served.create_key()
    text = {"prompt": "Hello"} if path == "/v1/completions" else {"input": "Hello"}
    for turn in range(2):
        status, headers, _ = await ask(served, key, path, model=model, **text)
        assert status == 200
        most = asked(served)[member]
        assert headers["x-fastgw-clamped"] == f"max_tokens={most}"
        assert 99_000 - turn * 100 < most < 100_000
    (meter,) = served.gateway.context.limiter.budgets()
    assert meter.reserved == 0


async def test_a_clamp_lowers_what_the_client_asked_for(paid):
    """In its own member; a request that fits is left alone; one with no room at all is refused."""
    served = await paid(budgets={"on_tight": "clamp"})
    await budget(served, 100_000)
    key = await served.create_key()
    status, headers, body = await ask(served, key, max_tokens=5_000)
    assert status == 200
    assert asked(served)["max_tokens"] < 100
    assert headers["x-fastgw-clamped"] == f"max_tokens={asked(served)['max_tokens']}"
    assert body["usage"]["completion_tokens"] <= 20
    status, headers, _ = await ask(served, key, max_tokens=10)
    assert status == 200
    assert "x-fastgw-clamped" not in headers
    (meter,) = served.gateway.context.limiter.budgets()
    meter.spent = 99_000
    status, _, body = await ask(served, key)
    assert (status, body["error"]["code"]) == (429, "insufficient_quota")


# -- models without a price ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "status", "spent"),
    [("refuse", 403, 0), ("flat", 200, 20_000_000), ("allow", 200, 0)],
)
async def test_a_model_without_a_price_is_a_matter_of_policy(paid, policy, status, spent):
    """Refused, counted at a flat fee, or let through; always let through where no budget is."""
    served = await paid(budgets={"unpriced": policy, "flat_usd": "0.02"})
    key = await served.create_key()
    assert (await ask(served, key, model="p/mock-usage-none"))[0] == 200
    await budget(served, 10**9)
    answer = await ask(served, key, model="p/mock-usage-none")
    assert answer[0] == status
    if status == 403:
        assert answer[2]["error"]["code"] == "not_allowed"
    (meter,) = served.gateway.context.limiter.budgets()
    await eventually(lambda: (meter.spent, meter.reserved) == (spent, 0))


# -- server tools and classes of service --------------------------------------------------------


async def test_server_tools_cost_their_declared_fee(paid):
    """Each type once, reserved and booked; what the client runs itself costs nothing."""
    served = await paid(budgets={"tool_fees_usd": {"web_search*": "0.01", "*": "0.002"}})
    await budget(served, 10**9)
    key = await served.create_key()
    function = {"type": "function", "name": "f"}
    for tools, fee in (
        (None, 0),
        ([function], 0),
        (
            [
                {"type": "web_search_preview", "name": "s"},
                {"type": "web_search_preview", "name": "s"},
            ],
            10_000_000,
        ),
        (
            [
                function,
                {"type": "code_interpreter", "name": "c"},
                {"type": "web_search", "name": "s"},
            ],
            12_000_000,
        ),
    ):
        more = {"tools": tools} if tools else {}
        tokens = {"max_output_tokens": 5, "input": "Hello"}
        status, headers, body = await ask(served, key, "/v1/responses", **tokens, **more)
        assert status == 200
        (meter,) = served.gateway.context.limiter.budgets()
        usage = body["usage"]
        cost = usage["total_tokens"] * 1_000 + fee
        assert headers["x-fastgw-cost"] == f"{cost / 10**9:.9f}".rstrip("0")
    before = meter.spent
    meter.limit = before + 1_000_000
    status, _, body = await ask(
        served,
        key,
        "/v1/responses",
        input="Hi",
        max_output_tokens=5,
        tools=[{"type": "web_search", "name": "s"}],
    )
    assert (status, body["error"]["code"]) == (429, "insufficient_quota")
    assert meter.spent == before


async def test_a_class_of_service_has_its_own_price(paid):
    """Flex and priority by the catalogue's names; what it does not name costs what it costs."""
    served = await paid()
    await models.put(
        served.gateway.store, "", "mock", input_pico=PICO, output_pico=PICO,
        prices={"input_cost_per_token_flex": PICO // 2, "output_cost_per_token_flex": PICO // 2,
                "input_cost_per_token_priority": 2 * PICO},
    )  # fmt: skip
    await served.gateway._changes.poll()
    await budget(served, 10**9)
    key = await served.create_key()
    for service, into, out in (
        (None, 1_000, 1_000),
        ("flex", 500, 500),
        ("priority", 2_000, 1_000),
        ("auto", 1_000, 1_000),
        ("default", 1_000, 1_000),
    ):
        more = {"service_tier": service} if service else {}
        for _ in range(2):
            status, headers, body = await ask(served, key, max_tokens=9, **more)
            assert status == 200
            usage = body["usage"]
            cost = usage["prompt_tokens"] * into + usage["completion_tokens"] * out
            assert headers["x-fastgw-cost"] == f"{cost / 10**9:.9f}".rstrip("0"), service


async def test_a_tier_holds_for_the_whole_request(paid):
    """Above its threshold all tokens cost the tier's price, in both lanes."""
    served = await paid()
    await models.put(
        served.gateway.store, "", "mock", input_pico=PICO, output_pico=PICO,
        prices={"input_cost_per_token_above_1k_tokens": 2 * PICO,
                "output_cost_per_token_above_1k_tokens": 3 * PICO},
    )  # fmt: skip
    await served.gateway._changes.poll()
    await budget(served, 10**9)
    key = await served.create_key()
    for words, into, out in ((5, 1, 1), (1_500, 2, 3), (1_500, 2, 3), (5, 1, 1)):
        said = [{"role": "user", "content": "word " * words}]
        status, headers, body = await ask(served, key, messages=said, max_tokens=9)
        assert status == 200
        usage = body["usage"]
        cost = 1_000 * (usage["prompt_tokens"] * into + usage["completion_tokens"] * out)
        assert headers["x-fastgw-cost"] == f"{cost / 10**9:.9f}".rstrip("0")
    (meter,) = served.gateway.context.limiter.budgets()
    assert (meter.reserved, meter.spent > 0) == (0, True)


# -- prices agreed on ---------------------------------------------------------------------------


PROVIDER = Provider(name="p", type="openai_compatible", base_url="http://x/v1")
LISTED = Price(input=1_000, output=3, cached=100, tiers=((128_000, Price(input=2_000)),))
MODEL = Model(name="smart", deployments=(Deployment(provider=PROVIDER, model="big", price=LISTED),))
WHO = Principal(key_id="key_1", name="mine", team_id="team_1")


def override(**fields):
    return PriceOverride(**{"id": "o", "multiplier_ppm": 1_500_000, **fields})


def test_a_multiplier_is_of_every_line_and_tier():
    """Rounded half up to pico-dollars; None stays as the wider kind."""
    times = apply(LISTED, override(scope="provider", match="p"))
    assert (times.input, times.output, times.cached, times.cache_write) == (1_500, 5, 150, None)
    assert times.tiers == ((128_000, Price(input=3_000)),)
    assert apply(None, override(scope="provider", match="p")) is None
    table = override(scope="key", match="k", multiplier_ppm=None, lines={"input": 7})
    assert apply(None, table) == apply(LISTED, table) == Price(input=7)


def test_the_most_specific_and_latest_override_counts_alone():
    """Key, team, deployment, provider; of several the one that started last."""
    every = {
        "provider": override(id="1", scope="provider", match="p", multiplier_ppm=2 * 10**6),
        "deployment": override(id="2", scope="deployment", match="p/big", multiplier_ppm=3 * 10**6),
        "team": override(id="3", scope="team", match="team_1", multiplier_ppm=4 * 10**6),
        "key": override(id="4", scope="key", match="mine", multiplier_ppm=5 * 10**6),
        "later": override(id="5", scope="key", match="mine", multiplier_ppm=6 * 10**6, starts_at=9,
                          ends_at=20),
        "other": override(id="6", scope="key", match="key_1", model="small*"),
    }  # fmt: skip
    price = 1_000
    for number, name in enumerate(("provider", "deployment", "team", "key"), 1):
        prices = Overrides(list(every.values())[:number])
        assert prices.in_force(MODEL, WHO, 5).deployments[0].price.input == price * (number + 1)
        assert name in every
    prices = Overrides(every.values())
    inputs = [prices.in_force(MODEL, WHO, at).deployments[0].price.input for at in (8, 9, 19, 20)]
    assert inputs == [5_000, 6_000, 6_000, 5_000]
    assert [prices.until(at) for at in (0, 8, 9, 20)] == [9, 9, 20, 0]
    assert prices.in_force(MODEL, WHO, 5) is prices.in_force(MODEL, WHO, 6)
    stranger = Principal(key_id="key_2", name="other")
    assert Overrides([every["key"]]).in_force(MODEL, stranger, 5) is MODEL


@pytest.mark.parametrize(
    "wrong",
    [
        {"scope": "org"}, {"match": ""}, {"multiplier_ppm": None}, {"lines": {"input": 1}},
        {"multiplier_ppm": -1}, {"multiplier_ppm": None, "lines": {"tiers": 1}},
        {"multiplier_ppm": None, "lines": {"input": -1}}, {"starts_at": 5, "ends_at": 5},
    ],
)  # fmt: skip
async def test_an_override_that_makes_no_sense_is_not_stored(store, wrong):
    """InvalidRequest, and the table stays empty."""
    values = {"scope": "key", "match": "k", "multiplier_ppm": 1, **wrong}
    with pytest.raises(InvalidRequest):
        await price_overrides.create(store, **values)
    assert (await price_overrides.list(store)).items == []


async def test_overrides_of_the_store_and_the_file_are_in_force_from_their_date(paid):
    """Noticed by a running server, in both lanes; another key pays what is published."""
    served = await paid(prices=[{"scope": "provider", "match": "p", "multiplier": "2"}])
    store = served.gateway.store
    await budget(served, 10**9)
    plain, mine = await served.create_key("plain"), await served.create_key("mine")
    now = now_ms()
    made = await price_overrides.create(
        store, scope="key", match="mine", lines={"input": 0, "output": 7 * PICO, "per_request": 0},
        starts_at=now + DAY_MS,
    )  # fmt: skip
    await served.gateway._changes.poll()

    async def cost(key):
        status, headers, _ = await ask(served, key, max_tokens=10)
        assert status == 200
        return headers["x-fastgw-cost"]

    twice = [await cost(plain) for _ in range(2)]
    assert twice == [await cost(mine) for _ in range(2)]
    await price_overrides.update(store, made.id, {"starts_at": now - 1})
    await served.gateway._changes.poll()
    assert [await cost(mine) for _ in range(2)] == ["0.00007"] * 2
    assert [await cost(plain) for _ in range(2)] == twice
    await price_overrides.hide(store, made.id)
    await served.gateway._changes.poll()
    assert await cost(mine) == twice[0]


async def test_a_plan_ends_when_prices_change(paid):
    """The price in force is that of the request's start, also where a plan was made before."""
    served = await paid()
    store = served.gateway.store
    key = await served.create_key("mine")
    await price_overrides.create(
        store, scope="key", match="mine", lines={"output": 5 * PICO}, starts_at=now_ms() + 1_500
    )
    await served.gateway._changes.poll()

    async def dearer():
        _, headers, _ = await ask(served, key, max_tokens=10)
        return headers["x-fastgw-cost"] == "0.00005"

    assert not await dearer()
    await eventually(dearer)


# -- billing keys -------------------------------------------------------------------------------


async def test_an_alias_books_its_spend_to_another_key(paid):
    """Records, budgets and owners are the paying key's; limits are the caller's."""
    served = await paid(limits={"defaults": [{"scope": "key", "metric": "requests", "limit": 9}]})
    store = served.gateway.store
    crew = await teams.create(store, name="crew")
    payer, _ = await keys.create(store, name="payer", team_id=crew.id)
    await aliases.put(store, name="theirs", model="mock", billing_key_id=payer.id)
    await budgets.create(store, scope="key", limit_nano=40_000, period="total")
    await budgets.create(store, scope="team", match=crew.id, limit_nano=10**9, period="total")
    await served.gateway._changes.poll()
    caller = await served.create_key("caller")
    for _ in range(2):
        status, headers, _ = await ask(served, caller, model="theirs", max_tokens=5)
        assert status == 200
    assert headers["x-ratelimit-remaining-requests"] == "7"
    meters = {m.rule.scope: m for m in served.gateway.context.limiter.budgets()}
    assert meters["key"].value == payer.id
    assert meters["key"].spent == meters["team"].spent == 2 * (5 + 2) * 1_000
    status, _, body = await ask(served, caller, model="theirs", max_tokens=50)
    assert (status, body["error"]["code"]) == (429, "insufficient_quota")
    assert (await ask(served, caller, max_tokens=10))[0] == 200, "the caller's own budget is whole"

    async def booked():
        return await store.fetch(
            "SELECT key_id, team_id, requested_model FROM usage_records WHERE status = 200"
            " AND key_id = $1",
            payer.id,
        )

    async def both():
        rows = await booked()
        return rows if len(rows) == 2 else None

    rows = await eventually(both)
    assert [(row["team_id"], row["requested_model"]) for row in rows] == [(crew.id, "theirs")] * 2
    await keys.update(store, payer.id, {"team_id": None})
    await served.gateway._changes.poll()
    assert served.gateway.context.directory.payers[payer.id].team_id is None


async def test_what_an_alias_holds_is_the_paying_keys_from_the_first_line(paid):
    """A call that a kill cuts off is held on the account that would have paid, on either lane."""
    served = await paid()
    store = served.gateway.store
    payer, _ = await keys.create(store, name="payer")
    await aliases.put(store, name="theirs", model="mock", billing_key_id=payer.id)
    await served.gateway._changes.poll()
    caller = await served.create_key("caller")
    for _ in range(2):  # the second of its kind is the fast lane's
        assert (await ask(served, caller, model="theirs", max_tokens=5))[0] == 200
    segments = served.gateway._segments
    file = segments._files[segments.journal.serial]
    _, opened, _ = journal.read(os.pread(file, segments.journal.end, 0), 0, {})
    assert [UsageRecord(*row).key_id for row, _, _ in opened] == [payer.id] * 2
