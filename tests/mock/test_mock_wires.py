"""Completions, Responses and Messages of the mock: the same truth in four wire formats."""

from __future__ import annotations

import json

import aiohttp
import anthropic
import openai
import pytest

from tests.mock.conftest import KEY

TEXT = "how are you today"
ASK = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": TEXT}]},
    "/v1/completions": {"prompt": TEXT},
    "/v1/responses": {"input": TEXT},
    "/v1/messages": {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 50},
}
LAST = {
    "/v1/chat/completions": b"data: [DONE]",
    "/v1/completions": b"data: [DONE]",
    "/v1/responses": b"event: response.completed",
    "/v1/messages": b"event: message_stop",
}
NEW = [path for path in ASK if "chat" not in path]
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture
async def native(mock):
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=mock.url, max_retries=0) as client:
        yield client


async def ask(session, path, model="mock", **more):
    """Give status and body of an answer; the body as far as it came."""
    body = {"model": model, **ASK[path], **more}
    async with session.post(path, json=body, headers=VERSION) as answer:
        return answer.status, await answer.read()


async def seen(session):
    """Give the last exchange as the mock knows it."""
    async with session.get("/mock/log") as answer:
        return (await answer.json())["exchanges"][-1]


@pytest.mark.parametrize("path", ASK)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_wire_counts_the_same(session, path, stream):
    """Five tokens asked, eight answered, whatever the format; all is delivered and reported."""
    more = {"stream_options": {"include_usage": True}} if stream and "completions" in path else {}
    status, body = await ask(session, path, stream=stream, **more)
    assert status == 200
    last = await seen(session)
    assert last["sent"] == last["billed"] == {"prompt": 5, "completion": 8}
    assert {5, 8} <= {count for count in last["reported"].values() if isinstance(count, int)}
    if stream:
        assert body.count(LAST[path]) == 1
        assert body.rstrip().split(b"\n\n")[-1].startswith(LAST[path])


async def test_the_official_clients_read_it(client, native):
    """Streamed and whole, the text is the same."""
    whole = await native.messages.create(model="mock", **ASK["/v1/messages"])
    async with native.messages.stream(model="mock", **ASK["/v1/messages"]) as stream:
        assert await stream.get_final_text() == whole.content[0].text
        final = await stream.get_final_message()
    assert final.usage.output_tokens == whole.usage.output_tokens == 8
    answer = await client.responses.create(model="mock", input=TEXT)
    async with client.responses.stream(model="mock", input=TEXT) as stream:
        assert (await stream.get_final_response()).output_text == answer.output_text
    plain = await client.completions.create(model="mock", prompt=TEXT)
    parts = [chunk async for chunk in await client.completions.create(
        model="mock", prompt=TEXT, stream=True
    )]  # fmt: skip
    assert "".join(part.choices[0].text for part in parts) == plain.choices[0].text


@pytest.mark.parametrize("path", NEW)
@pytest.mark.parametrize("fault", ["mock-cut", "mock-reset"])
async def test_a_cut_stream_never_ends(mock, session, path, fault):
    """The last event does not get through, however late the fault."""
    body = b""
    request = {"model": f"{fault}?after=100", **ASK[path], "stream": True}
    with pytest.raises((OSError, aiohttp.ClientError)):
        async with session.post(path, json=request, headers=VERSION) as answer:
            async for piece in answer.content.iter_any():
                body += piece
    assert LAST[path] not in body or not body.endswith(b"\n\n")


@pytest.mark.parametrize("path", ASK)
@pytest.mark.parametrize("done", [0, 1])
@pytest.mark.parametrize("after", [2, 100])
async def test_an_error_event(session, path, done, after):
    """Some content, the error in the format's own shape, its last event only on demand."""
    model = f"mock-error-event?after={after}&done={done}"
    status, body = await ask(session, path, model, stream=True)
    assert status == 200
    assert body.count(LAST[path]) == done
    events = [e for e in body.split(b"\n\n") if e]
    error = events[-2] if done else events[-1]
    data = json.loads(error.split(b"data: ")[1])
    assert "error" in data or data["type"] == "error"
    assert error.startswith(b"event: error\n") is ("completions" not in path)


@pytest.mark.parametrize("path", NEW)
@pytest.mark.parametrize(
    ("mode", "counts"),
    [("more", {11, 17}), ("less", {2, 4}), ("huge", {10**18}), ("negative", {-5, -8})],
)
async def test_lies(session, path, mode, counts):
    """What is reported is wrong in the way that was asked for."""
    assert (await ask(session, path, f"mock-usage-{mode}"))[0] == 200
    told = (await seen(session))["reported"]
    numbers = {n for n in told.values() if isinstance(n, int)}
    assert counts <= numbers


@pytest.mark.parametrize("path", NEW)
async def test_no_usage(session, path):
    """Or nothing is."""
    _, body = await ask(session, path, "mock-usage-none")
    assert "usage" not in json.loads(body)
    _, body = await ask(session, path, "mock-usage-none", stream=True)
    assert b'"usage":{' not in body


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
async def test_refusals_of_messages(session, status):
    """In Anthropic's shape."""
    seen_status, body = await ask(session, "/v1/messages", f"mock?status={status}")
    told = json.loads(body)
    assert seen_status == status
    assert (told["type"], set(told["error"])) == ("error", {"type", "message"})


async def test_what_messages_need(session, start_mock):
    """The version and a maximum; a credential in their own header when one is needed."""
    async with session.post("/v1/messages", json={"model": "m", **ASK["/v1/messages"]}) as answer:
        assert answer.status == 400
    body = {"model": "m", "messages": ASK["/v1/messages"]["messages"]}
    async with session.post("/v1/messages", json=body, headers=VERSION) as answer:
        assert answer.status == 400
        assert "max_tokens" in (await answer.json())["error"]["message"]
    strict = await start_mock(api_key=KEY)
    for headers, status in (
        ({"authorization": f"Bearer {KEY}"}, 401),
        ({"x-api-key": "other"}, 401),
        ({"x-api-key": KEY}, 200),
    ):
        sent = {"model": "m", **ASK["/v1/messages"]}
        async with session.post(
            strict.url + "/v1/messages", json=sent, headers=VERSION | headers
        ) as answer:
            assert answer.status == status


async def test_tools_of_every_wire(client, native):
    """An eager model calls the first tool, and answers with text once it has its result."""
    look = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
    turns = [{"role": "user", "content": "Look."}]
    called = await native.messages.create(
        model="mock-tools", tools=[look], messages=turns, max_tokens=50
    )
    assert (called.stop_reason, called.content[0].name) == ("tool_use", "look")
    result = {"type": "tool_result", "tool_use_id": called.content[0].id, "content": "a tree"}
    turns += [
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result]},
    ]
    told = await native.messages.create(
        model="mock-tools", tools=[look], messages=turns, max_tokens=50
    )
    assert told.content[0].type == "text"
    tool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
    called = await client.responses.create(model="mock-tools", input="Look.", tools=[tool])
    call = called.output[0]
    assert (call.type, call.name) == ("function_call", "look")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "a tree"}
    told = await client.responses.create(model="mock-tools", input=[output], tools=[tool])
    assert told.output_text


async def test_an_answer_cut_by_its_maximum(client, native):
    """Each format says so in its own words."""
    turns = ASK["/v1/messages"]["messages"]
    short = await native.messages.create(model="mock", messages=turns, max_tokens=3)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)
    short = await client.responses.create(model="mock", input=TEXT, max_output_tokens=3)
    assert (short.status, short.usage.output_tokens) == ("incomplete", 3)
    short = await client.completions.create(model="mock", prompt=TEXT, max_tokens=3)
    assert short.choices[0].finish_reason == "length"


async def test_bad_requests(client):
    """What is asked must be there."""
    for path in ("completions", "responses"):
        with pytest.raises(openai.BadRequestError):
            await client.post(f"/{path}", body={"model": "mock"}, cast_to=object)


async def test_prompts_are_counted_as_they_are_told(native):
    """Anthropic's route for it says what a message's usage would say."""
    asked = {"model": "mock", "messages": [{"role": "user", "content": TEXT}], "system": "Be kind."}
    counted = await native.messages.count_tokens(**asked)
    answer = await native.messages.create(**asked, max_tokens=5)
    assert counted.input_tokens == answer.usage.input_tokens > 0
