"""`POST /v1/messages/count_tokens`: the provider counts if it can, else we do and say so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.catalog import tokens
from fastgw.server import tokenizer as tokenizer_module
from fastgw.storage.sql import budgets, limits, models
from tests.scripted import Hold, Request, Scripted
from tests.server.conftest import Served
from tests.server.test_tokenizer import watch
from tests.waiting import eventually

PATH = "/v1/messages/count_tokens"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "How many tokens are these?"}]}
COUNTED = b'{"input_tokens":17}'
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(COUNTED),
    COUNTED,
)
REFUSAL = b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}'
REFUSED = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    % (len(REFUSAL), REFUSAL)
)


async def count(
    served: Served, key: str | None, path: str = PATH, asked: Any = None
) -> tuple[int, Any, Any]:
    """Ask for a count; give status, headers and body."""
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"} if key else {}
    body = ASKED if asked is None else asked
    async with served.client.post(served.url + path, json=body, headers=headers) as answer:
        return answer.status, answer.headers, await answer.json()


def anthropic(provider: Scripted) -> dict[str, Any]:
    return {"name": "a", "type": "anthropic", "base_url": provider.url, "models": ["m"]}


async def test_a_provider_that_counts_is_asked(serve, sqlite_url):
    """Byte for byte, with its own headers; recorded with no tokens and no cost."""
    async with Scripted([*(Request(), REPLY) * 9, Hold()]) as provider:
        served = await serve(sqlite_url, providers=[anthropic(provider)])
        await models.put(served.gateway.store, "", "m", input_pico=10**9, per_request_pico=10**9)
        key = await served.create_key()
        records = watch(served)
        for path in (PATH, "/anthropic" + PATH, PATH + "?beta=true", "/at/a" + PATH):
            status, headers, body = await count(served, key, path)
            assert (status, body) == (200, {"input_tokens": 17})
            assert "x-fastgw-estimate" not in headers
            assert headers["x-fastgw-provider"] == "a"
        await eventually(lambda: len(records) == 4)
        paths = [request.path for request in provider.requests]
        sent = json.loads(provider.requests[0].body)
    assert paths == [PATH, PATH, PATH + "?beta=true", PATH]
    assert sent == ASKED
    for record in records:
        assert (record.endpoint, record.usage_source) == ("count_tokens", "reported")
        assert (record.input_tokens, record.output_tokens, record.cost_nano) == (0, 0, 0)


async def test_a_providers_refusal_is_relayed(serve, sqlite_url):
    """It judges the body, as with every relay."""
    async with Scripted([*(Request(), REFUSED) * 9, Hold()]) as provider:
        served = await serve(sqlite_url, providers=[anthropic(provider)])
        status, _, body = await count(served, await served.create_key())
    assert (status, body) == (400, json.loads(REFUSAL))


async def test_else_we_count(serve, provider, sqlite_url, monkeypatch):
    """A header says by what; without a tokenizer the estimator answers."""
    served = await serve(sqlite_url)
    key = await served.create_key()
    records = watch(served)
    status, headers, body = await count(served, key)
    assert (status, headers["x-fastgw-estimate"]) == (200, "tokenizer")
    assert body == {"input_tokens": tokens.prompt(json.dumps(ASKED).encode(), "m")}
    assert headers["request-id"] == headers["x-request-id"]
    await served.gateway.tokenizer.close()
    monkeypatch.setattr(tokenizer_module.sys, "executable", "/nowhere/python")
    longer = {**ASKED, "system": "Be brief."}
    status, headers, body = await count(served, key, asked=longer)
    assert (status, headers["x-fastgw-estimate"]) == (200, "estimator")
    assert body["input_tokens"] > 10
    await eventually(lambda: len(records) == 2)
    assert {(each.status, each.input_tokens, each.cost_nano) for each in records} == {(200, 0, 0)}
    assert provider.requests == []


async def test_who_may_ask(serve, provider, sqlite_url):
    """A key is needed, one that may use the model; errors have Anthropic's shape."""
    served = await serve(sqlite_url)
    status, _, body = await count(served, None)
    assert (status, body["error"]["type"]) == (401, "authentication_error")
    key = await served.create_key(allowed_models=["other"])
    status, _, body = await count(served, key)
    assert (status, body["error"]["type"]) == (403, "permission_error")
    key = await served.create_key("second")
    status, _, body = await count(served, key, asked={**ASKED, "model": "unknown"})
    assert (status, body["error"]["type"]) == (404, "not_found_error")
    status, _, _ = await count(served, key, asked=[])
    assert status == 400


@pytest.mark.parametrize("kind", ["here", "there"])
async def test_it_counts_as_a_request_and_costs_nothing(kind, serve, provider, sqlite_url):
    """Limits on requests hold it, limits on tokens and budgets have nothing to do with it."""
    async with Scripted([*(Request(), REPLY) * 9, Hold()]) as counting:
        config = {"providers": [anthropic(counting)]} if kind == "there" else {}
        served = await serve(sqlite_url, **config)
        store = served.gateway.store
        await limits.create(store, scope="key", metric="requests", limit=3)
        await limits.create(store, scope="key", metric="tokens", limit=1)
        await budgets.create(store, scope="key", limit_nano=0, period="day")
        await served.gateway.refresh_rules()
        key = await served.create_key()
        for _ in range(3):
            status, headers, _ = await count(served, key)
            assert status == 200
        assert headers["x-ratelimit-remaining-requests"] == "0"
        status, _, body = await count(served, key)
        assert (status, body["error"]["type"]) == (429, "rate_limit_error")
