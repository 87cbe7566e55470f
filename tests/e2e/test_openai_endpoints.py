"""The official client's other endpoints: completions, embeddings, Responses."""

from __future__ import annotations

import json

import openai
import pytest

from tests.processes import Gateway, Mock
from tests.waiting import eventually_sync

TOOL = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(params=["/v1", "/openai/v1", "/at/mock/v1"])
def client(gateway: Gateway, key: str, request):
    with openai.OpenAI(api_key=key, base_url=gateway.url + request.param, max_retries=0) as client:
        yield client


@pytest.fixture
def plain_client(gateway: Gateway, key: str):
    with openai.OpenAI(api_key=key, base_url=gateway.url + "/v1", max_retries=0) as client:
        yield client


def recorded(gateway: Gateway, name: str):
    """Give the record of one exchange."""
    return eventually_sync(
        lambda: next((record for record in gateway.records() if record.id == name), None), 15, name
    )


def test_completions(client, gateway):
    """Plain and streamed the same text; usage comes only when asked for, and is recorded."""
    ask = {"model": "mock", "prompt": "Once upon a time", "n": 2}
    raw = client.completions.with_raw_response.create(**ask)
    plain = raw.parse()
    assert plain.usage.completion_tokens == 40
    chunks = list(client.completions.create(**ask, stream=True))
    for choice in plain.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        assert mine[-1].finish_reason == choice.finish_reason == "stop"
    assert all(chunk.choices for chunk in chunks)
    wished = {"stream": True, "stream_options": {"include_usage": True}}
    assert list(client.completions.create(**ask, **wished))[-1].usage == plain.usage
    record = recorded(gateway, raw.headers["x-fastgw-id"])
    assert (record.endpoint, record.input_tokens, record.output_tokens) == ("completions", 5, 40)


def test_completions_are_asked_for_usage(gateway, plain_client):
    """A stream whose client did not ask is recorded as reported all the same."""
    ask = {"model": "mock", "prompt": "Hello there", "stream": True}
    with plain_client.completions.with_streaming_response.create(**ask) as answer:
        body = answer.read()
        name = answer.headers["x-fastgw-id"]
    assert b'"usage":{' not in body
    assert body.endswith(b"data: [DONE]\n\n")
    record = recorded(gateway, name)
    assert (record.usage_source, record.output_tokens) == ("reported", 20)


def test_embeddings(client, gateway):
    """Vectors come through as they are, also in the client's own base64."""
    raw = client.embeddings.with_raw_response.create(
        model="mock", input=["one two", "three"], dimensions=8
    )
    answer = raw.parse()
    assert [len(one.embedding) for one in answer.data] == [8, 8]
    assert sum(value * value for value in answer.data[0].embedding) == pytest.approx(1, abs=1e-5)
    record = recorded(gateway, raw.headers["x-fastgw-id"])
    assert (record.endpoint, record.input_tokens, record.output_tokens) == ("embeddings", 3, 0)
    assert record.usage_source == "reported"


def test_responses(client, gateway):
    """Plain and streamed the same text; usage is recorded from either."""
    ask = {"model": "mock", "input": "Tell me something.", "instructions": "Be brief."}
    plain = client.responses.with_raw_response.create(**ask)
    with client.responses.stream(**ask) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        whole = stream.get_final_response()
    answer = plain.parse()
    assert text == whole.output_text == answer.output_text
    assert whole.usage.output_tokens == answer.usage.output_tokens == 20
    record = recorded(gateway, plain.headers["x-fastgw-id"])
    assert (record.endpoint, record.input_tokens, record.output_tokens) == ("responses", 7, 20)


def test_a_responses_stream_is_recorded(gateway, plain_client, mock: Mock):
    """Its last event reports; the request goes upstream as it came, nothing asked for."""
    mock.clear()
    ask = {"model": "mock", "input": "Hello there", "stream": True}
    with plain_client.responses.with_streaming_response.create(**ask) as answer:
        body = answer.read()
        name = answer.headers["x-fastgw-id"]
    assert body.count(b"event: response.completed\n") == 1
    (asked,) = mock.log()
    assert json.loads(asked["body"]) == ask
    record = recorded(gateway, name)
    assert (record.usage_source, record.input_tokens, record.output_tokens) == ("reported", 3, 20)


def test_tools_in_responses(client):
    """A call is relayed with its id, name and arguments."""
    answer = client.responses.create(model="mock-tools", input="Look.", tools=[TOOL])
    assert answer.output[0].type == "function_call"
    assert answer.output[0].name == "look"
    assert answer.output[0].call_id


@pytest.mark.parametrize(
    "model",
    [
        "mock/mock-cut",
        "mock/mock-reset",
        "mock/mock-stall?after=2",
        "mock/mock-error-event",
    ],
)
def test_a_responses_stream_that_breaks_is_no_success(gateway, plain_client, model):
    """The client raises, or is told by an error event; it never sees the response completed."""
    kinds = []
    stream = plain_client.responses.create(model=model, input="Hello", stream=True)
    try:
        for event in stream:
            kinds.append(event.type)  # noqa: PERF401 - keeps what came before the error
    except openai.APIError:
        kinds.append("error")
    assert "response.output_text.delta" in kinds
    assert kinds[-1] == "error"
    assert "response.completed" not in kinds
    record = recorded(gateway, stream.response.headers["x-fastgw-id"])
    assert record.status in {502, 504}
    assert record.usage_source == "partial"


@pytest.mark.parametrize("path", ["completions", "embeddings", "responses"])
def test_errors_have_one_shape(plain_client, path):
    """A model nobody serves, on each endpoint."""
    body = {"model": "no-such-model", "prompt": "x", "input": "x"}
    with pytest.raises(openai.NotFoundError) as caught:
        plain_client.post(f"/{path}", body=body, cast_to=object)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    "path", ["/at/claude/v1/responses", "/claude/v1/chat/completions", "/at/mock/v1/messages"]
)
def test_an_endpoint_its_provider_does_not_speak_is_refused(gateway, plain_client, path):
    """There is no translation for it: 400 that names the provider."""
    body = {"model": "mock", "input": "x", "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(openai.BadRequestError, match=r"'(claude|mock)' does not serve"):
        plain_client.post(gateway.url + path, body=body, cast_to=object)
