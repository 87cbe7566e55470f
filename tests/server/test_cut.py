"""Streams that come to the end of what they could reserve: ended as their own maximum would end
them, in every client API's words, in both lanes, and what was delivered is what is booked.
"""

from __future__ import annotations

import json

import pytest

from fastgw.mock import Options, start
from fastgw.storage.sql import budgets, models
from tests.waiting import eventually

MODEL = "p/mock?chunks=4000&delay_ms=1"
PICO = 10**6
"""A dollar a million tokens, which is 1,000 nano-dollars each."""
SLICE = 256
ROOM = 350
"""Tokens that fit the budget, prompt included."""
TALK = {"messages": [{"role": "user", "content": "Hello"}]}
ASKED = {
    "/v1/chat/completions": TALK | {"stream_options": {"include_usage": True}, "n": 1},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": TALK | {"max_tokens": 4_000},
}


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "standard"])
def fast_lane(request):
    return request.param


@pytest.fixture
async def tight(serve, sqlite_url, fast_lane):
    """A gateway in front of the mock, with a budget for some 350 tokens and short slices."""
    mock = await start(Options())
    base = mock.base_url
    try:
        served = await serve(
            sqlite_url,
            server={"fast_lane": fast_lane},
            providers=[
                {"name": "p", "type": "openai_compatible", "base_url": base, "models": ["m"]},
                {"name": "a", "type": "anthropic", "base_url": base.removesuffix("/v1")},
            ],
        )
        served.mock = mock
        gateway = served.gateway
        for name in (MODEL, MODEL.replace("p/", "a/")):
            await models.put(gateway.store, "", name, input_pico=PICO, output_pico=PICO)
            lengths = gateway.context.limiter._learnt_of(name).lengths
            for _ in range(300):
                lengths.observe(SLICE)
        made = await budgets.create(
            gateway.store, scope="key", limit_nano=10**9, period="total", match="*"
        )
        await gateway._changes.poll()
        served.budget_id = made.id
        yield served
    finally:
        await mock.stop()


async def ask(served, key, path, **fields):
    """Stream; give status and the events, each a (name, payload)."""
    name = MODEL.replace("p/", "a/") if path == "/v1/messages" else MODEL
    body = {"model": name, "stream": True, **ASKED[path], **fields}
    headers = {"authorization": f"Bearer {key}"}
    async with served.client.post(served.url + path, json=body, headers=headers) as answer:
        text = await answer.text()
    events = []
    if answer.status != 200:
        return answer.status, events
    for event in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in event.splitlines() if line[:1] != ":")
        if "data" in lines:
            data = lines["data"]
            events.append((lines.get("event"), data if data == "[DONE]" else json.loads(data)))
    return answer.status, events


def check_chat(events):
    *_, last, usage, done = events
    assert done == (None, "[DONE]")
    (choice,) = last[1]["choices"]
    assert (choice["finish_reason"], choice["delta"], choice["index"]) == ("length", {}, 0)
    assert usage[1]["choices"] == []
    assert usage[1]["usage"]["completion_tokens"] > 0
    first = events[0][1]
    for name in ("id", "object", "created", "model"):
        assert last[1][name] == first[name] == usage[1][name]
    return "".join(e[1]["choices"][0]["delta"].get("content") or "" for e in events[:-2])


def check_completions(events):
    *_, last, done = events
    assert done == (None, "[DONE]")
    (choice,) = last[1]["choices"]
    assert (choice["finish_reason"], choice["text"]) == ("length", "")
    assert last[1]["id"] == events[0][1]["id"]
    return "".join(e[1]["choices"][0]["text"] for e in events[:-1])


def check_responses(events):
    name, last = events[-1]
    assert name == last["type"] == "response.incomplete"
    response = last["response"]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["id"] == events[0][1]["response"]["id"]
    assert response["usage"]["output_tokens"] > 0
    assert last["sequence_number"] == events[-2][1]["sequence_number"] + 1
    deltas = (e[1] for e in events if e[1]["type"] == "response.output_text.delta")
    return "".join(delta["delta"] for delta in deltas)


def check_messages(events):
    names = [name for name, _ in events[-3:]]
    assert names == ["content_block_stop", "message_delta", "message_stop"]
    delta = events[-2][1]
    assert delta["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] > 0
    assert events[-3][1]["index"] == 0
    deltas = (e[1] for e in events if e[0] == "content_block_delta")
    return "".join(delta["delta"]["text"] for delta in deltas)


CHECKS = {
    "/v1/chat/completions": check_chat,
    "/v1/completions": check_completions,
    "/v1/responses": check_responses,
    "/v1/messages": check_messages,
}


@pytest.mark.parametrize("path", ASKED)
async def test_a_stream_ends_with_length_where_its_budget_does(tight, path):
    """Clean for the client, cancelled at the provider, booked in full, and nothing overspent."""
    gateway = tight.gateway
    key = await tight.create_key()
    short = {"max_tokens": 8} if path != "/v1/responses" else {"max_output_tokens": 8}
    status, events = await ask(tight, key, path, **short)  # leaves a plan behind
    assert status == 200
    (budget,) = gateway.context.limiter.budgets()
    spent = budget.spent
    assert spent > 0
    limit = spent + ROOM * PICO // 1000
    await budgets.update(gateway.store, tight.budget_id, {"limit_nano": limit})
    await gateway._changes.poll()
    status, events = await ask(tight, key, path)
    assert status == 200
    text = CHECKS[path](events)
    assert 150 < len(text.split()) <= ROOM
    await eventually(lambda: budget.reserved == 0)
    assert spent + 150_000 < budget.spent <= limit
    async with tight.client.get(tight.url + "/metrics") as answer:
        assert "fastgw_overrun_usd_total 0.0" in await answer.text()
    status, events = await ask(tight, key, path)
    assert status == 429, "on the same connection"
    await eventually(lambda: len(tight.mock.log) == 2)
    assert tight.mock.log[1]["ended"] == "client_gone"

    async def partial():
        return await gateway.store.fetchrow(
            "SELECT * FROM usage_records WHERE usage_source = 'partial'"
        )

    row = await eventually(partial)
    assert (row["status"], row["error_code"]) == (200, None)
    assert row["cost_nano"] == budget.spent - spent


async def test_a_stream_goes_on_where_there_is_room(tight):
    """Slice after slice, to its own end; the provider's count is what is booked."""
    key = await tight.create_key()
    name = "p/mock?chunks=900"
    await models.put(tight.gateway.store, "", name, input_pico=PICO, output_pico=PICO)
    await tight.gateway._changes.poll()
    for _ in range(2):
        status, events = await ask(tight, key, "/v1/chat/completions", model=name)
        assert status == 200
        assert events[-3][1]["choices"][0]["finish_reason"] == "stop"
    (budget,) = tight.gateway.context.limiter.budgets()
    await eventually(lambda: budget.reserved == 0)
    assert budget.spent == 2 * (900 + 2) * 1_000
