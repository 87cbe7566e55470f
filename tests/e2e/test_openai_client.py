"""The official client works against fastgw unchanged."""

from __future__ import annotations

import openai
import pytest

from fastgw.catalog import tokens
from tests.processes import Gateway, Mock

MESSAGES = [{"role": "user", "content": "Tell me something."}]


@pytest.fixture
def client(gateway: Gateway, key: str):
    with openai.OpenAI(api_key=key, base_url=gateway.url + "/v1", max_retries=0) as client:
        yield client


def test_a_plain_answer(client, gateway, mock):
    """Content, model and usage are the provider's own."""
    answer = client.chat.completions.create(model="mock", messages=MESSAGES)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_raw_response_carries_our_labels(client):
    """Ids, provider and upstream model are told in headers; the client's own id is kept."""
    raw = client.chat.completions.with_raw_response.create(
        model="fast", messages=MESSAGES, extra_headers={"x-request-id": "mine-1"}
    )
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["x-fastgw-id"].startswith("fgx_")
    assert raw.headers["x-fastgw-provider"] == "mock"
    assert raw.headers["x-fastgw-model"] == "mock?chunks=7"
    assert raw.headers["x-fastgw-attempts"] == "1"
    assert "server" not in raw.headers or "aiohttp" not in raw.headers["server"].lower()
    assert raw.parse().choices[0].message.content


def test_a_stream_is_the_plain_answer_in_pieces(client):
    """Same request, same words; no usage event when none was asked for."""
    plain = client.chat.completions.create(model="mock", messages=MESSAGES)
    chunks = list(client.chat.completions.create(model="mock", messages=MESSAGES, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == plain.choices[0].message.content
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_with_usage_ends_with_it(client):
    """A client that asks for usage gets the event."""
    chunks = list(
        client.chat.completions.create(
            model="mock", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0


def test_tools_come_through(client):
    """A tool call is relayed with its id, name and arguments."""
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    answer = client.chat.completions.create(model="mock-tools", messages=MESSAGES, tools=tools)
    assert answer.choices[0].message.tool_calls[0].function.name == "look"


async def test_the_async_client(gateway, key):
    """Plain and streamed."""
    async with openai.AsyncOpenAI(
        api_key=key, base_url=gateway.url + "/v1", max_retries=0
    ) as client:
        plain = await client.chat.completions.create(model="smart", messages=MESSAGES)
        stream = await client.chat.completions.create(model="smart", messages=MESSAGES, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
    assert text == plain.choices[0].message.content


def test_models_are_listed(client):
    """Names of every kind, also those with a slash."""
    names = {model.id for model in client.models.list()}
    assert {"mock", "smart", "fast", "other/name"} <= names
    assert client.models.retrieve("smart").id == "smart"
    assert client.models.retrieve("other/name").id == "other/name"


@pytest.mark.parametrize("base", ["/openai/v1", "/mock/v1", "/at/mock/v1"])
def test_other_ways_to_the_same_routes(gateway, key, base):
    """The OpenAI prefix and both forms of a provider pin."""
    with openai.OpenAI(api_key=key, base_url=gateway.url + base, max_retries=0) as client:
        assert client.chat.completions.create(model="mock", messages=MESSAGES).choices
        assert "mock" in {model.id for model in client.models.list()}


def test_a_pin_passes_names_on_that_nobody_listed(gateway, key):
    """With a provider named in the path the model is its business."""
    with openai.OpenAI(api_key=key, base_url=gateway.url + "/mock/v1", max_retries=0) as client:
        answer = client.chat.completions.create(model="never-heard-of", messages=MESSAGES)
    assert answer.model == "never-heard-of"


ERRORS = [
    ("mock-429", openai.RateLimitError, 429),
    ("mock-500", openai.InternalServerError, 502),
    ("no-such-model", openai.NotFoundError, 404),
    ("nowhere", openai.InternalServerError, 502),
    ("mock/mock-400", openai.BadRequestError, 400),
    ("mock/mock-401", openai.InternalServerError, 502),
    ("mock/mock-403", openai.InternalServerError, 502),
    ("mock/mock-garbage", openai.InternalServerError, 502),
    ("mock/mock-garbage-json", openai.InternalServerError, 502),
    ("mock/mock-cut", openai.InternalServerError, 502),
    ("mock/mock-reset", openai.InternalServerError, 502),
    ("mock/mock-stall-head", openai.InternalServerError, 504),
]


@pytest.mark.parametrize(("model", "kind", "status"), ERRORS)
def test_each_failure_is_the_clients_own_exception(client, model, kind, status):
    """Status and class are what the client's documentation promises; the message is readable."""
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES)
    assert caught.value.status_code == status
    assert caught.value.message
    assert "sk-upstream" not in str(caught.value.body)


def test_a_wrong_key_is_an_authentication_error(gateway):
    """Malformed and unknown keys alike."""
    for wrong in ("sk-whatever", "fgw-" + "a" * 49):
        with (
            openai.OpenAI(api_key=wrong, base_url=gateway.url + "/v1", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError) as caught,
        ):
            client.models.list()
        assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("model", ["mock/mock-cut", "mock/mock-reset", "mock/mock-stall?after=2"])
def test_a_stream_that_breaks_raises_in_the_client(client, model):
    """A cut, reset or stalled provider is an error inside the stream, never a clean end."""
    stream = client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
    received = []
    with pytest.raises(openai.APIError):
        received.extend(stream)  # keeps what came before the error
    assert received


def test_a_model_with_a_healthy_deployment_is_served(client, mock: Mock):
    """Before anything was sent to the client, the next deployment is tried."""
    for _ in range(5):
        raw = client.chat.completions.with_raw_response.create(model="sturdy", messages=MESSAGES)
        assert raw.headers["x-fastgw-model"] == "mock"


def test_a_stream_that_reports_nothing_is_counted_once_it_is_over(own_gateway: Gateway):
    """The record comes behind the answer, from a real tokenizer, and the gateway drains clean."""
    key = own_gateway.create_key()
    with openai.OpenAI(api_key=key, base_url=own_gateway.url + "/v1", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="mock/mock?usage=none", messages=MESSAGES, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    (record,) = own_gateway.records(1)
    assert record.usage_source == "estimated"
    assert record.output_tokens == tokens.answer(text, 0, "mock")
    assert record.input_tokens == 3 + 4 + 4
    assert own_gateway.stop() == 0, own_gateway.text
