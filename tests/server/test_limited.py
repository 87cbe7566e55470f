"""Limits and budgets, kept in process and in Redis: who is refused, how, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from types import SimpleNamespace

import pytest

from fastgw._ext import limits as limits_
from fastgw.domain import nano_usd, now_ms
from fastgw.errors import InvalidRequest
from fastgw.server import standard
from fastgw.storage import open_store
from fastgw.storage.sql import (
    aliases,
    budgets,
    keys,
    limits,
    models,
    orgs,
    teams,
    usage,
    users,
)
from fastgw.storage.sql.limits import RESET_AT
from tests.scripted import Hold, Request, Scripted, Wait
from tests.server.conftest import BODY, CHAT, REPLY
from tests.storage.samples import record
from tests.waiting import eventually

EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
SSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
)
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
FAULT = b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture(params=["in process", "redis"])
def serve(request, serve):
    """Serve with meters of the worker's own, and with those that Redis keeps."""
    if request.param == "in process":
        return serve
    url = request.getfixturevalue("redis_url")
    # with `local` some of each limit is put aside
    return functools.partial(serve, redis={"url": url, "on_failure": "deny"})


@pytest.fixture
async def other(store_url):
    """The store as another process has it."""
    opened = await open_store(store_url, migrate=False)
    yield opened
    await opened.close()


async def ask(served, key, **body):
    """Ask; give status, headers, and the error's code or None."""
    headers = {"authorization": f"Bearer {key}"}
    async with served.client.post(served.url + CHAT, json=BODY | body, headers=headers) as answer:
        text = await answer.text()
        code = (await answer.json())["error"]["code"] if answer.status >= 400 else None
        assert text
        return answer.status, answer.headers, code


async def metric(served, name):
    async with served.client.get(served.url + "/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


async def price(store):
    """Give the model `m` a price: a dollar a million tokens, which is 1,000 nano-dollars each."""
    await models.put(store, "", "m", input_pico=10**6, output_pico=10**6)


def meters(served):
    return list(served.gateway.context.limiter._meters.values())


async def look(served):
    """Give what is left, taken, spent and reserved of the only meter there is."""
    (meter,) = meters(served)
    if served.gateway.keeper is None:
        names = ("taken", "spent", "reserved")
        known = {name: getattr(meter, name, 0) for name in names}
        return SimpleNamespace(left=meter.remaining(0), **known)
    (seen,) = await served.gateway.keeper.look(limits_.Guard((meter,)))
    return SimpleNamespace(left=seen.left, taken=seen.open, spent=seen.spent, reserved=seen.open)


# -- limits -------------------------------------------------------------------------------------


async def test_the_third_of_two_is_refused_and_told_when_to_come_back(serve, store_url, other):
    """429 with the limit's name, whole seconds to wait, and OpenAI's headers; the provider is
    not asked."""
    await limits.create(other, scope="key", metric="requests", limit=2)
    served = await serve(store_url)
    key, second = await served.create_key(), await served.create_key("second")
    remaining = []
    for _ in range(2):
        status, headers, _ = await ask(served, key)
        assert status == 200
        assert headers["x-ratelimit-limit-requests"] == "2"
        remaining.append(headers["x-ratelimit-remaining-requests"])
    assert remaining == ["1", "0"]
    status, headers, code = await ask(served, key)
    assert (status, code) == (429, "rate_limit_exceeded")
    assert 59 <= int(headers["retry-after"]) <= 61
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert (await ask(served, second))[0] == 200, "a counter of its own"
    assert await metric(served, 'fastgw_rate_limited_total{scope="key"}') == 1
    await eventually(lambda: served.waiting == 0)
    assert await other.fetchval("SELECT count(*) FROM usage_records WHERE status = 429") == 1


async def test_streams_carry_the_headers_too(serve, sqlite_url, tmp_path):
    """They stand in the head, so they tell what is left while the stream holds its share."""
    async with Scripted([Request(), SSE, END, Hold()]) as streaming:
        served = await serve(
            sqlite_url,
            limits={"defaults": [{"scope": "global", "metric": "tokens", "limit": 5_000}]},
            providers=[
                {"name": "p", "type": "openai_compatible", "base_url": streaming.url + "/v1",
                 "models": ["m"]}
            ],
        )  # fmt: skip
        key = await served.create_key()
        status, headers, _ = await ask(served, key, stream=True)
        assert status == 200
        assert headers["x-ratelimit-limit-tokens"] == "5000"
        assert int(headers["x-ratelimit-remaining-tokens"]) < 5_000 - 2_048
        await eventually(lambda: meters(served)[0].remaining(0) > 4_900)


async def test_a_limit_follows_the_store(serve, store_url, other):
    """Made, raised, lowered and deleted beside a running server; what was used stays used."""
    served = await serve(store_url)
    key = await served.create_key()
    poll = served.gateway._changes.poll
    assert (await ask(served, key))[0] == 200
    made = await limits.create(other, scope="model", match="m", metric="requests", limit=1)
    await poll()
    assert [(await ask(served, key))[0] for _ in range(2)] == [200, 429]
    await limits.update(other, made.id, {"limit": 2})
    await poll()
    assert [(await ask(served, key))[0] for _ in range(2)] == [200, 429]
    await limits.update(other, made.id, {"metadata": {RESET_AT: now_ms()}})
    await poll()
    assert (await ask(served, key))[0] == 200
    await other.execute("UPDATE limits SET limit_value = 0 WHERE id = $1", made.id)
    await poll()
    status, headers, _ = await ask(served, key)
    assert status == 429
    assert headers["x-should-retry"] == "false", "no waiting helps"
    assert "retry-after" not in headers
    await limits.hide(other, made.id)
    await poll()
    assert (await ask(served, key))[0] == 200


async def test_the_poll_of_limits_happens_by_itself(serve, sqlite_url):
    """Within 2 s."""
    served = await serve(sqlite_url)
    key = await served.create_key()
    await limits.create(served.gateway.store, scope="key", metric="requests", limit=0)

    async def refused():
        return (await ask(served, key))[0] == 429

    await eventually(refused, timeout=2)


async def test_defaults_follow_the_configuration(serve, sqlite_url):
    """A reload brings them; a rule in the database takes the place of one."""
    served = await serve(sqlite_url)
    gateway = served.gateway
    key = await served.create_key()
    sections = {"defaults": [{"scope": "key", "metric": "requests", "limit": 1, "window_s": 1e6}]}
    wanted = type(gateway.settings.limits).model_validate(sections)
    gateway.reconfigure(gateway.settings.model_copy(update={"limits": wanted}))
    await eventually(lambda: len(gateway.context.limiter.rules) == 1)
    assert (await ask(served, key))[0] == 200
    status, headers, _ = await ask(served, key)
    assert status == 429
    assert headers["x-should-retry"] == "false", "later than a client should wait"
    await limits.create(gateway.store, scope="key", match="test", metric="requests", limit=9)
    await gateway._changes.poll()
    status, headers, _ = await ask(served, key)
    assert (status, headers["x-ratelimit-limit-requests"]) == (200, "9")


async def test_slots_come_back_whatever_happens(serve, sqlite_url, tmp_path):
    """A client that leaves, a provider that fails, an answer: after each the slot is free."""
    go_on = asyncio.Event()
    scripts = ([Request(), Wait(go_on), REPLY, Hold()], [Request(), FAULT, Hold()])
    async with Scripted(*scripts) as slow:
        served = await serve(
            sqlite_url,
            limits={"defaults": [{"scope": "key", "metric": "concurrent", "limit": 1}]},
            providers=[
                {"name": "p", "type": "openai_compatible", "base_url": slow.url + "/v1",
                 "models": ["m"]}
            ],
        )  # fmt: skip
        key = await served.create_key()
        first = asyncio.ensure_future(ask(served, key))
        await eventually(lambda: len(slow.requests) == 1)
        status, headers, code = await ask(served, key)
        assert (status, code, headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first

        async def is_free():
            return (await look(served)).taken == 0

        await eventually(is_free)
        assert (await ask(served, key))[0] == 502
        assert await is_free()


async def test_what_was_not_used_comes_back(serve, store_url, other):
    """Tokens are reserved by the most there can be and settled by what the provider counted."""
    crew = await teams.create(other, name="crew")
    await limits.create(other, scope="team", metric="tokens", limit=300, shared=True)
    served = await serve(store_url)
    key = await served.create_key()
    assert (await ask(served, key, max_tokens=280))[0] == 200, "a key without a team"
    team = await served.create_key("team", team_id=crew.id)
    for _ in range(5):
        assert (await ask(served, team, max_tokens=250))[0] == 200
    assert (await look(served)).left == 300 - 5 * 5
    status, headers, code = await ask(served, team, max_tokens=1_000)
    assert (status, code, headers["x-should-retry"]) == (429, "rate_limit_exceeded", "false")
    assert (await look(served)).left == 300 - 5 * 5


async def test_what_no_provider_saw_counts_nowhere(serve, sqlite_url, monkeypatch):
    """A request that fails after it was admitted and before it was sent gives all back."""
    served = await serve(
        sqlite_url,
        server={"fast_lane": False},  # whose translate is replaced below
        limits={"defaults": [{"scope": "global", "metric": "requests", "limit": 10}]},
    )
    key = await served.create_key()
    assert (await ask(served, key))[0] == 200

    def refuse(*_):
        raise InvalidRequest("this provider cannot serve it")

    monkeypatch.setattr(standard, "translate", refuse)
    assert (await ask(served, key))[0] == 400
    assert (await look(served)).left == 9


RULES = [
    ("key", "test"),
    ("key", "te*"),
    ("user", "anna"),
    ("team", "crew"),
    ("org", "acme"),
    ("model", "m"),
    ("model", "*"),
    ("provider", "p"),
    ("global", "*"),
    ("tag:job", "a"),
    ("tag:job", "*"),
    ("key", "* & model=m & provider=p & tag=job=*"),
]


@pytest.mark.parametrize("algorithm", ["sliding_window", "token_bucket"])
@pytest.mark.parametrize(("scope", "match"), RULES)
async def test_rules_of_the_configuration_hold(serve, sqlite_url, scope, match, algorithm):
    """Every scope, with either algorithm; who is not meant is not counted."""
    limit = {"scope": scope, "match": match, "metric": "requests", "limit": 2}
    served = await serve(
        sqlite_url, limits={"defaults": [limit | {"window_s": 900, "algorithm": algorithm}]}
    )
    await check_rule(served, scope)


@pytest.mark.parametrize(("scope", "match"), RULES)
async def test_rules_of_the_store_hold(serve, store_url, scope, match):
    """The same, as `fastgw limits set` writes them: owners by their ids."""
    served = await serve(store_url)
    store = served.gateway.store
    key = await owned_key(served)
    if scope in OWNERS:
        match = (await OWNERS[scope].find(store, match)).id
    scope, _, tag = scope.partition(":")
    match = f"{tag}={match}" if tag else match
    await limits.create(
        store, scope=scope, match=match, metric="requests", limit=2, window_s=900,
        algorithm="token_bucket" if scope in {"team", "tag"} else "sliding_window",
    )  # fmt: skip
    await served.gateway._changes.poll()
    await check_rule(served, scope, key)


OWNERS = {"user": users, "team": teams, "org": orgs}


async def owned_key(served):
    """Make a key with a user, a team, an org and a tag."""
    store = served.gateway.store
    org = await orgs.create(store, name="acme")
    team = await teams.create(store, name="crew", org_id=org.id)
    user = await users.create(store, name="anna")
    fields = {"user_id": user.id, "team_id": team.id, "org_id": org.id, "tags": {"job": "a"}}
    return await served.create_key("test", **fields)


async def check_rule(served, scope, key=None):
    """Two pass, the third does not; somebody else does, where somebody in particular is meant."""
    if key is None:
        key = await owned_key(served)
        await served.gateway._changes.poll()  # owners are known by name once they are there
    other = await served.create_key("other")
    assert [(await ask(served, key))[0] for _ in range(3)] == [200, 200, 429]
    free = scope not in {"global", "model", "provider"}
    assert (await ask(served, other))[0] == (200 if free else 429)


async def test_callers_may_set_tags_that_the_configuration_allows(serve, sqlite_url):
    """`keys.client_tags` is for keys that do not say; a tag nobody allowed makes no counter."""
    limit = {"scope": "tag:job", "metric": "requests", "limit": 1}
    served = await serve(
        sqlite_url, keys={"client_tags": ["job"]}, limits={"defaults": [limit]}
    )  # fmt: skip
    key, strict = (
        await served.create_key("plain"),
        await served.create_key("strict", client_tags=("step",)),
    )

    async def tagged(key, tags):
        headers = {"authorization": f"Bearer {key}", "x-fastgw-tags": tags}
        async with served.client.post(served.url + CHAT, json=BODY, headers=headers) as answer:
            return answer.status

    assert [await tagged(key, "job=a") for _ in range(2)] == [200, 429]
    assert await tagged(key, "job=b") == 200
    assert await tagged(strict, "step=a") == 200
    assert await tagged(strict, "job=a") == 400
    assert len(meters(served)) == 2


# -- budgets ------------------------------------------------------------------------------------


async def test_a_budget_refuses_what_it_cannot_pay(serve, store_url, other):
    """Spend is exact; what may cost more than is left is not begun."""
    await price(other)
    await budgets.create(other, scope="key", limit_nano=200_000, period="month")
    served = await serve(store_url)
    key = await served.create_key()
    for _ in range(3):
        assert (await ask(served, key, max_tokens=100))[0] == 200
    budget = await look(served)
    assert (budget.spent, budget.reserved) == (3 * 5_000, 0)
    status, headers, code = await ask(served, key, max_tokens=178)
    assert (status, code) == (429, "insufficient_quota")
    assert headers["x-should-retry"] == "false"
    assert int(headers["retry-after"]) > 60
    status, headers, code = await ask(served, key, max_tokens=300)
    assert (status, code) == (429, "insufficient_quota")
    assert "retry-after" not in headers, "no period would pay it"
    assert (await ask(served, key, max_tokens=10))[0] == 200
    assert await metric(served, 'fastgw_budget_exceeded_total{scope="key"}') == 2


async def test_open_reservations_are_no_spend(serve, sqlite_url, tmp_path):
    """Who is refused because of others under way is asked to come back soon."""
    go_on = asyncio.Event()
    async with Scripted([Request(), Wait(go_on), REPLY, Request(), REPLY, Hold()]) as slow:
        served = await serve(
            sqlite_url,
            providers=[
                {"name": "p", "type": "openai_compatible", "base_url": slow.url + "/v1",
                 "models": ["m"]}
            ],
        )  # fmt: skip
        store = served.gateway.store
        await price(store)
        await budgets.create(store, scope="global", limit_nano=200_000, period="total")
        await served.gateway._changes.poll()
        key = await served.create_key()
        first = asyncio.ensure_future(ask(served, key, max_tokens=150))
        await eventually(lambda: len(slow.requests) == 1)
        status, headers, code = await ask(served, key, max_tokens=150)
        assert (status, code) == (429, "budget_reserved")
        assert 1 <= int(headers["retry-after"]) <= 5
        assert "x-should-retry" not in headers
        go_on.set()
        assert (await first)[0] == 200
        assert (await ask(served, key, max_tokens=150))[0] == 200


async def test_forty_at_once_never_overspend(serve, sqlite_url):
    """What all of them may cost does not fit, what they do cost does: nobody goes over, and who
    is refused is told to come back."""
    served = await serve(sqlite_url)
    store = served.gateway.store
    await price(store)
    await budgets.create(store, scope="global", limit_nano=140_000, period="day")
    await served.gateway._changes.poll()
    key = await served.create_key()
    answers = await asyncio.gather(*(ask(served, key, max_tokens=20) for _ in range(40)))
    served_count = sum(status == 200 for status, _, _ in answers)
    budget = await look(served)
    assert budget.spent == served_count * 5_000 <= 140_000
    assert budget.reserved == 0
    assert 0 < served_count < 40
    assert {code for _, _, code in answers} <= {None, "budget_reserved", "insufficient_quota"}
    for _ in range(40):
        await ask(served, key, max_tokens=20)
    assert 140_000 - 40_000 < (await look(served)).spent <= 140_000


@pytest.mark.parametrize(
    ("scope", "match", "period"),
    [
        ("key", "*", "day"),
        ("model", "m", "month"),
        ("provider", "p", "week"),
        ("global", "*", "total"),
        ("tag", "job=*", "day"),
    ],
)
async def test_a_budget_starts_from_what_was_spent(serve, store_url, other, scope, match, period):
    """A new process knows the period's spend from the roll-ups, aliases' included."""
    await price(other)
    await aliases.put(other, name="nick", model="m")
    await budgets.create(other, scope=scope, match=match, limit_nano=1_000_000, period=period)
    key, plain = await keys.create(other, name="mine", tags={"job": "a"})
    await spend(other, key.id, 950_000, requested_model="nick")
    served = await serve(store_url)
    status, _, code = await ask(served, plain.reveal(), max_tokens=100)
    assert (status, code) == (429, "insufficient_quota")
    assert (await ask(served, plain.reveal(), max_tokens=10))[0] == 200


async def test_a_reset_budget_counts_from_then_on(serve, store_url, other):
    """What was spent before is forgiven, what is spent after is not, also by a new process."""
    await price(other)
    made = await budgets.create(other, scope="key", limit_nano=1_000_000, period="month")
    key, plain = await keys.create(other, name="mine")
    await spend(other, key.id, 1_500_000, at=now_ms() - 1_000)
    served = await serve(store_url)
    assert (await ask(served, plain.reveal(), max_tokens=100))[2] == "insufficient_quota"
    await budgets.update(other, made.id, {"metadata": {RESET_AT: now_ms()}})
    await served.gateway._changes.poll()
    assert (await ask(served, plain.reveal(), max_tokens=100))[0] == 200
    await spend(other, key.id, 990_000)
    again = await serve(store_url)
    assert (await ask(again, plain.reveal(), max_tokens=100))[2] == "insufficient_quota"


async def test_spend_of_other_workers_is_seen(serve, store_url, other):
    """The store's sums raise what this worker knows; they never lower it."""
    await price(other)
    await budgets.create(other, scope="key", limit_nano=1_000_000, period="month", shared=True)
    served = await serve(store_url)
    key = await served.create_key()
    assert (await ask(served, key, max_tokens=10))[0] == 200
    await spend(other, "key_elsewhere", 999_000)
    await served.gateway._spend.refresh()
    assert (await ask(served, key, max_tokens=10))[2] == "insufficient_quota"


@pytest.mark.parametrize(("unpriced", "status"), [("refuse", 403), ("flat", 200), ("allow", 200)])
async def test_models_without_a_price(serve, sqlite_url, unpriced, status):
    """Where no budget matches they are served; where one does, the configuration decides."""
    served = await serve(sqlite_url, budgets={"unpriced": unpriced})
    store = served.gateway.store
    free, bound = await served.create_key("free"), await served.create_key("bound")
    await budgets.create(
        store, scope="key", match="bound", limit_nano=nano_usd("0.015"), period="day"
    )
    await served.gateway._changes.poll()
    assert (await ask(served, free))[0] == 200
    assert (await ask(served, bound))[0] == status
    if unpriced == "flat":
        assert (await ask(served, bound))[2] == "insufficient_quota"


async def spend(store, key_id, nano, at=None, **fields):
    """Write a record of spend."""
    values = {"requested_model": "m", "provider": "p", "tags": {"job": "a"}} | fields
    number = await store.fetchval("SELECT count(*) FROM usage_records")
    made = record(number, key_id=key_id, cost_nano=nano, created_at=at or now_ms(), **values)
    await usage.insert_batch(store, [made])


# -- addresses ----------------------------------------------------------------------------------


async def test_a_key_is_bound_to_its_networks(serve, store_url, other):
    """Elsewhere it is a 403, in force at the next poll; proxies we trust are believed."""
    served = await serve(store_url, security={"trusted_proxies": ["127.0.0.0/8"]})
    key = await served.create_key(allowed_ips=("10.0.0.0/8", "127.0.0.1"))
    assert (await ask(served, key))[0] == 200
    far = {"x-forwarded-for": "10.1.1.1, 8.8.8.8"}
    status, body = await served.chat(key, headers=far)
    assert (status, body["error"]["code"]) == (403, "ip_not_allowed")
    assert (await served.chat(key, headers={"x-forwarded-for": "8.8.8.8, 10.1.1.1"}))[0] == 200
    await keys.update(other, (await keys.find(other, "test")).id, {"allowed_ips": ("10.0.0.0/8",)})
    await served.gateway._changes.poll()
    assert (await ask(served, key))[2] == "ip_not_allowed"


async def test_without_trusted_proxies_nobody_is_believed(serve, sqlite_url):
    """A header that anybody can send moves nobody into an allowed network."""
    served = await serve(sqlite_url)
    key = await served.create_key(allowed_ips=("10.0.0.0/8",))
    status, _ = await served.chat(key, headers={"x-forwarded-for": "10.1.1.1"})
    assert status == 403
