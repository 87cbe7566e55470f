"""`x-fastgw-explain` and `x-fastgw-dry-run`: what was decided, and why."""

from __future__ import annotations

import json

import pytest

from fastgw.errors import NotFound, StoreUnavailable
from fastgw.storage.sql import budgets, decisions, limits, models
from tests.server.conftest import BODY, CHAT
from tests.server.test_limited import metric
from tests.waiting import eventually


async def ask(served, key, *flags, path=CHAT, **body):
    headers = {"authorization": f"Bearer {key}"} | {f"x-fastgw-{flag}": "1" for flag in flags}
    async with served.client.post(
        served.url + path, json=BODY | {"max_tokens": 100} | body, headers=headers
    ) as answer:
        return answer.status, answer.headers, await answer.json()


async def ruled(serve, store_url):
    """Serve with a limit, a budget and a price: 1,000 nano-dollars a token."""
    served = await serve(store_url)
    store = served.gateway.store
    await models.put(store, "", "m", input_pico=10**6, output_pico=10**6)
    await limits.create(store, scope="key", metric="requests", limit=2)
    await limits.create(store, scope="global", metric="tokens", limit=10_000)
    await budgets.create(store, scope="key", limit_nano=10**7, period="day")
    await served.gateway._changes.poll()
    return served, await served.create_key()


async def test_a_dry_run_decides_and_does_nothing(serve, provider, store_url):
    """The answer says what would happen; no call, no reservation, no record."""
    served, key = await ruled(serve, store_url)
    for _ in range(3):
        status, headers, told = await ask(served, key, "dry-run", max_tokens=100)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert (told["verdict"], told["error"], told["dry_run"]) == ("admitted", None, True)
    assert headers["x-fastgw-id"] == told["id"]
    assert "x-fastgw-decision" not in headers
    assert told["key"]["name"] == "test"
    assert (told["requested_model"], told["model"], told["stream"]) == ("m", "m", False)
    by_metric = {limit["metric"]: limit for limit in told["limits"]}
    assert by_metric["requests"]["remaining"] == {"before": 2, "after": 1}
    assert by_metric["requests"]["has_room"]
    reserved = told["estimate"]["reserved_tokens"]
    assert reserved > 100
    assert by_metric["tokens"]["remaining"] == {"before": 10_000, "after": 10_000 - reserved}
    (budget,) = told["budgets"]
    assert budget["remaining_usd"]["before"] == "0.01"
    assert float(budget["remaining_usd"]["after"]) == pytest.approx(0.01 - reserved * 1e-6)
    (candidate,) = told["candidates"]
    assert (candidate["provider"], candidate["model"]) == ("p", "m")
    assert candidate["price"]["input_usd_per_mtok"] == "1"
    assert candidate["why"] == "the only deployment"
    assert provider.requests == []
    assert all(m.remaining(0) in {2, 10_000, 10**7} for m in meters(served))
    await ask(served, key)
    await eventually(lambda: served.waiting == 0)
    assert await served.gateway.store.fetchval("SELECT count(*) FROM usage_records") == 1


def meters(served):
    return list(served.gateway.context.limiter._meters.values())


async def test_a_dry_run_tells_of_a_refusal(serve, provider, sqlite_url):
    """Status 200: it is the decision that was asked for. Nothing is counted as refused."""
    served, key = await ruled(serve, sqlite_url)
    for _ in range(2):
        assert (await ask(served, key))[0] == 200
    status, _, told = await ask(served, key, "dry-run")
    assert (status, told["verdict"]) == (200, "refused")
    assert (told["error"]["status"], told["error"]["code"]) == (429, "rate_limit_exceeded")
    assert told["error"]["retry_after_s"] > 50
    requests = next(limit for limit in told["limits"] if limit["metric"] == "requests")
    assert requests["remaining"] == {"before": 0, "after": 0}
    assert not requests["has_room"]
    assert requests["room_in_s"] > 50
    assert "not drawn" in told["candidates"][0]["why"]
    assert await metric(served, "fastgw_rate_limited_total") == 0
    _, _, told = await ask(served, key, "dry-run", model="nobody")
    assert (told["verdict"], told["error"]["code"]) == ("refused", "model_not_found")
    assert (await ask(served, "fgw-wrong", "dry-run"))[0] == 401


async def test_an_explained_request_is_served_and_its_decision_kept(serve, provider, store_url):
    """Under the id of its usage record; a refused one's too."""
    served, key = await ruled(serve, store_url)
    store = served.gateway.store
    statuses = []
    for _ in range(3):
        status, headers, _ = await ask(served, key, "explain", max_tokens=10)
        statuses.append(status)
        assert headers["x-fastgw-decision"] == headers["x-fastgw-id"]
        kept = await decisions.get(store, headers["x-fastgw-decision"])
        told = json.loads(kept.decision)
        assert told["id"] == kept.id
        assert told["key"]["id"] == kept.key_id
        assert (told["verdict"] == "admitted") == (status == 200)
    assert statuses == [200, 200, 429]
    assert len(provider.requests) == 2
    await eventually(lambda: served.waiting == 0)
    assert await store.fetchval("SELECT count(*) FROM usage_records WHERE id = $1", kept.id) == 1
    assert kept.decision.count("fgw-") == 0, "no secret"
    await store.execute("UPDATE decisions SET created_at = 1 WHERE id = $1", kept.id)
    await served.gateway._jobs.look()
    with pytest.raises(NotFound):
        await decisions.get(store, kept.id)
    assert await store.fetchval("SELECT count(*) FROM decisions") == 2


async def test_a_stream_can_be_explained_and_a_dry_run_kept(serve, provider, sqlite_url):
    """Both flags: the decision is the answer, and it is kept."""
    served, key = await ruled(serve, sqlite_url)
    status, headers, told = await ask(served, key, "explain", "dry-run", stream=True)
    assert (status, told["stream"]) == (200, True)
    kept = await decisions.get(served.gateway.store, headers["x-fastgw-decision"])
    assert json.loads(kept.decision) == told
    assert provider.requests == []


async def test_a_store_that_is_away_keeps_nothing_and_refuses_nobody(
    serve, provider, sqlite_url, monkeypatch
):
    """To explain is a favour."""
    served, key = await ruled(serve, sqlite_url)

    async def away(*_, **__):
        raise StoreUnavailable("away")

    monkeypatch.setattr(decisions, "put", away)
    assert (await ask(served, key))[0] == 200
    status, headers, _ = await ask(served, key, "explain")
    assert (status, "x-fastgw-decision" in headers) == (200, False)


async def test_a_dry_run_leaves_no_answer_behind(serve, provider, sqlite_url):
    """Under an Idempotency-Key too: the name is still free, and a plain `0` changes nothing."""
    served = await serve(sqlite_url)
    headers = {"authorization": f"Bearer {await served.create_key()}", "idempotency-key": "one"}
    for flag, replayed in (("1", False), ("0", False), ("0", True)):
        flags = headers | {"x-fastgw-dry-run": flag}
        async with served.client.post(served.url + CHAT, json=BODY, headers=flags) as answer:
            assert answer.status == 200
            assert ("idempotent-replayed" in answer.headers) == replayed
            assert ("verdict" in await answer.json()) == (flag == "1")
    assert len(provider.requests) == 1


async def test_a_flag_says_yes_or_no(serve, provider, sqlite_url):
    """Whoever says `yes` to a dry run does not want to pay."""
    served = await serve(sqlite_url)
    key = await served.create_key()
    for value, expected in (("0", 200), ("yes", 400)):
        status, _ = await served.chat(key, {"x-fastgw-dry-run": value})
        assert status == expected
    assert len(provider.requests) == 1


async def test_all_candidates_are_told(serve, provider, sqlite_url):
    """In the order they are tried, with their weights; one that cannot serve says so."""
    names = [("a", 3), ("b", 1)]
    served = await serve(
        sqlite_url,
        providers=[
            {
                "name": name,
                "type": "openai_compatible",
                "base_url": provider.url + "/v1",
                "models": ["x"],
            }
            for name, _ in names
        ],
        models=[
            {
                "name": "m",
                "deployments": [
                    {"provider": name, "model": "x", "weight": weight} for name, weight in names
                ],
            }
        ],
    )
    key = await served.create_key()
    _, _, told = await ask(served, key, "dry-run")
    assert {c["provider"]: c["weight"] for c in told["candidates"]} == dict(names)
    assert [c["place"] for c in told["candidates"]] == [1, 2]
    assert told["candidates"][0]["why"].startswith("drawn by weight, ")
    assert told["candidates"][1]["why"].endswith("tried when those before it fail")
    _, _, told = await ask(served, key, "dry-run", path="/at/b/v1/chat/completions")
    assert [c["provider"] for c in told["candidates"]] == ["b"]
    assert told["pinned_provider"] == "b"
