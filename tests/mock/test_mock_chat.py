"""Chat completions by the official client: shapes, counts, determinism."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from tests.mock.conftest import KEY, ask, open_client

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
                "days": {"type": "integer"},
                "places": {"type": "array", "items": {"type": "number"}},
                "deep": {"type": "object", "properties": {"yes": {"type": "boolean"}}},
            },
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}


async def collect(stream):
    """Give the texts of a stream by choice, its finish reasons, its usage and its chunks."""
    texts, finishes, usage, chunks = {}, {}, None, []
    async for chunk in stream:
        chunks.append(chunk)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                finishes[choice.index] = choice.finish_reason
    return texts, finishes, usage, chunks


async def test_plain_answer(client):
    """A plain answer has one token a word, counted exactly in usage."""
    answer = await client.chat.completions.create(**ask())
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert len(answer.choices[0].message.content.split()) == 8
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 8)
    assert answer.usage.total_tokens == 13


async def test_stream_is_the_same_answer(client):
    """Streamed or not, the same question has the same text, id and usage."""
    plain = await client.chat.completions.create(**ask())
    stream = await client.chat.completions.create(
        **ask(), stream=True, stream_options={"include_usage": True}
    )
    texts, finishes, usage, chunks = await collect(stream)
    assert texts == {0: plain.choices[0].message.content}
    assert finishes == {0: "stop"}
    assert usage == plain.usage
    assert {chunk.id for chunk in chunks} == {plain.id}
    assert chunks[-1].choices == []


async def test_usage_only_when_asked(client):
    """Without include_usage no event of a stream mentions usage."""
    stream = await client.chat.completions.create(**ask(), stream=True)
    _, _, usage, chunks = await collect(stream)
    assert usage is None
    assert len(chunks) == 10
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


async def test_asked_usage_is_null_before_the_end(client):
    """With include_usage each event but the last says `usage: null`, as OpenAI's do."""
    stream = await client.chat.completions.create(
        **ask(), stream=True, stream_options={"include_usage": True}
    )
    _, _, _, chunks = await collect(stream)
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert [chunk.usage is None for chunk in chunks] == [True] * 10 + [False]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_maximum_is_honoured(client, name, stream):
    """A maximum cuts the answer there, and says `length`."""
    whole = await client.chat.completions.create(**ask())
    request = ask(**{name: 3})
    if stream:
        texts, finishes, _, _ = await collect(
            await client.chat.completions.create(**request, stream=True)
        )
        text, finish = texts[0], finishes[0]
    else:
        choice = (await client.chat.completions.create(**request)).choices[0]
        text, finish = choice.message.content, choice.finish_reason
    assert len(text.split()) == 3
    assert finish == "length"
    fits = await client.chat.completions.create(**ask(**{name: 8}))
    assert fits.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


async def test_several_choices(client):
    """`n` answers differ, stream interleaved and add up in usage."""
    plain = await client.chat.completions.create(**ask(n=3))
    texts, finishes, usage, chunks = await collect(
        await client.chat.completions.create(
            **ask(n=3), stream=True, stream_options={"include_usage": True}
        )
    )
    assert texts == {choice.index: choice.message.content for choice in plain.choices}
    assert len(set(texts.values())) == 3
    assert finishes == dict.fromkeys(range(3), "stop")
    assert usage.completion_tokens == plain.usage.completion_tokens == 24
    order = [chunk.choices[0].index for chunk in chunks[3:9]]
    assert order == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("model", "choice", "name"),
    [
        ("mock-tools", None, "get_weather"),
        ("mock?tools=1", "auto", "get_weather"),
        ("mock", "required", "get_weather"),
        ("mock", {"type": "function", "function": {"name": "get_time"}}, "get_time"),
    ],
)
async def test_tool_call(client, model, choice, name):
    """An asked-for tool is called, the same way in both modes, with arguments its schema allows."""
    request = ask(model, tools=[WEATHER, CLOCK])
    if choice is not None:
        request["tool_choice"] = choice
    plain = (await client.chat.completions.create(**request)).choices[0]
    call = plain.message.tool_calls[0]
    assert plain.finish_reason == "tool_calls"
    assert plain.message.content is None
    assert call.function.name == name
    arguments = json.loads(call.function.arguments)
    if name == "get_weather":
        assert set(arguments) == {"city", "unit", "days", "places", "deep"}
        assert arguments["unit"] in {"celsius", "kelvin"}
        assert isinstance(arguments["days"], int)
        assert isinstance(arguments["deep"]["yes"], bool)
    async with client.chat.completions.stream(**request) as stream:
        final = (await stream.get_final_completion()).choices[0]
    streamed = final.message.tool_calls[0]
    assert (streamed.id, streamed.function.name) == (call.id, call.function.name)
    assert streamed.function.arguments == call.function.arguments
    assert final.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "request_",
    [
        ask("mock", tools=[WEATHER]),
        ask("mock-tools", tools=[WEATHER], tool_choice="none"),
        {
            **ask("mock-tools", tools=[WEATHER]),
            "messages": [
                {"role": "user", "content": "weather"},
                {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
            ],
        },
    ],
    ids=["offered only", "forbidden", "after a result"],
)
async def test_no_tool_call(client, request_):
    """Text is answered when a tool is only offered, forbidden, or has just reported."""
    answer = (await client.chat.completions.create(**request_)).choices[0]
    assert answer.finish_reason == "stop"
    assert not answer.message.tool_calls


async def test_tool_call_tokens(client):
    """A tool call counts its name and each started group of four characters."""
    answer = await client.chat.completions.create(**ask("mock-tools", tools=[WEATHER, CLOCK]))
    arguments = answer.choices[0].message.tool_calls[0].function.arguments
    assert answer.usage.completion_tokens == 1 + -(-len(arguments) // 4)
    assert answer.usage.prompt_tokens == 5 + 2
    short = await client.chat.completions.create(
        **ask("mock-tools", tools=[WEATHER, CLOCK], max_tokens=3)
    )
    assert short.choices[0].message.tool_calls[0].function.arguments == arguments[:8]
    assert short.choices[0].finish_reason == "length"


async def test_prompt_tokens(client):
    """Words, messages and parts that are no text are counted."""
    answer = await client.chat.completions.create(
        model="mock",
        messages=[
            {"role": "system", "content": "be  brief\n"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aa"}},
                ],
            },
        ],
    )
    assert answer.usage.prompt_tokens == (2 + 1) + (3 + 1 + 1)


async def test_same_request_same_answer(start_mock):
    """Two servers of one seed answer alike, byte for byte; another seed answers otherwise."""
    answers = []
    for seed in (1, 1, 2):
        mock = await start_mock(seed=seed)
        async with open_client(mock.base_url) as client:
            raw = await client.chat.completions.with_raw_response.create(**ask(temperature=0.5))
            answers.append(raw.content)
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]
    assert json.loads(answers[0])["id"] != json.loads(answers[2])["id"]


async def test_member_order_does_not_matter(session):
    """A request whose members were reordered or respaced is the same question."""
    one = await session.post("/v1/chat/completions", json=ask(temperature=0.5))
    turned = dict(reversed(ask(temperature=0.5).items()))
    two = await session.post("/v1/chat/completions", data=json.dumps(turned, indent=3))
    assert await one.read() == await two.read()


async def test_non_ascii_text(client):
    """With non_ascii the text holds characters of two to four bytes, and counts stay exact."""
    answer = await client.chat.completions.create(**ask("mock?non_ascii=1&chunks=40"))
    text = answer.choices[0].message.content
    assert len(text.split()) == answer.usage.completion_tokens == 40
    assert {len(character.encode()) for character in text} == {1, 2, 3, 4}


async def test_sync_client(mock):
    """The sync client works as well: plain, stream, errors."""

    def work():
        with openai.OpenAI(base_url=mock.base_url, api_key=KEY, max_retries=0) as client:
            plain = client.chat.completions.create(**ask())
            stream = client.chat.completions.create(**ask(), stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            with pytest.raises(openai.RateLimitError):
                client.chat.completions.create(**ask("mock-429"))
            return plain.choices[0].message.content, text

    plain, text = await asyncio.to_thread(work)
    assert plain == text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": 1}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"n": 129}, "n"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": ["auto"], "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": {"function": {"name": "no"}}, "tools": [WEATHER]}, "tool_choice"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
    ],
)
async def test_bad_requests(session, change, param):
    """A field of the wrong type is a 400 that names it, in OpenAI's shape."""
    answer = await session.post("/v1/chat/completions", json=ask() | change)
    body = await answer.json()
    assert answer.status == 400
    assert body["error"]["param"] == param
    assert set(body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'"text"'])
async def test_bodies_that_are_no_object(session, body):
    """A body that is no JSON object is a 400 in OpenAI's shape, and logged as received."""
    answer = await session.post("/v1/chat/completions", data=body)
    assert answer.status == 400
    assert "error" in await answer.json()


async def test_unknown_routes(session, mock):
    """Unknown paths and methods are errors in OpenAI's shape, and logged."""
    for method, path, status in (
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/", 404),
    ):
        answer = await session.request(method, path)
        assert answer.status == status
        assert (await answer.json())["error"]["type"] == "invalid_request_error"
    assert [line["status"] for line in mock.log] == [404, 405, 404]


async def test_api_key(start_mock):
    """With an api_key every route but the log wants it, and says 401 in OpenAI's shape."""
    mock = await start_mock(api_key="right", chunks=3)
    for key, error in (("right", None), ("wrong", openai.AuthenticationError)):
        async with open_client(mock.base_url, key) as client:
            for call in (
                lambda client=client: client.chat.completions.create(**ask()),
                lambda client=client: client.models.list(),
                lambda client=client: client.embeddings.create(model="mock", input="a"),
            ):
                if error is None:
                    await call()
                else:
                    with pytest.raises(error) as raised:
                        await call()
                    assert raised.value.code == "invalid_api_key"


async def test_models_option_limits_names(start_mock):
    """With `models` only those and the faults are served; another is 404 model_not_found."""
    mock = await start_mock(models=("a", "b/c"))
    async with open_client(mock.base_url) as client:
        await client.chat.completions.create(**ask("b/c?chunks=2"))
        with pytest.raises(openai.NotFoundError) as raised:
            await client.chat.completions.create(**ask("gpt-5"))
        assert raised.value.code == "model_not_found"
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(**ask("mock-500"))
