"""The official Anthropic client works against fastgw unchanged."""

from __future__ import annotations

import anthropic
import pytest

from tests.processes import Gateway, Mock
from tests.waiting import eventually_sync

MESSAGES = [{"role": "user", "content": "Tell me something."}]
ASK = {"messages": MESSAGES, "max_tokens": 100}
TOOLS = [
    {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "null"}}}}
]


def open_client(gateway: Gateway, key: str, path: str = "", **more):
    """Give the client as its documentation shows it, without retries."""
    return anthropic.Anthropic(api_key=key, base_url=gateway.url + path, max_retries=0, **more)


@pytest.fixture
def client(gateway: Gateway, key: str):
    with open_client(gateway, key) as client:
        yield client


def test_a_plain_answer(client):
    """Content, stop reason and usage are the provider's own."""
    answer = client.messages.create(model="claude-mock", **ASK)
    assert answer.content[0].text
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 20)


def test_a_stream_is_the_plain_answer_in_pieces(client):
    """Same request, same message, put together by the client."""
    plain = client.messages.create(model="claude-mock", **ASK)
    with client.messages.stream(model="claude-mock", **ASK) as stream:
        text = "".join(stream.text_stream)
        whole = stream.get_final_message()
    assert text == plain.content[0].text
    assert whole.usage.output_tokens == plain.usage.output_tokens
    assert whole.stop_reason == plain.stop_reason


def test_tools_come_through(client):
    """A call is relayed with its id, name and input, whole and streamed."""
    ask = {"model": "claude/mock-tools", "tools": TOOLS, **ASK}
    plain = client.messages.create(**ask)
    assert plain.stop_reason == "tool_use"
    assert plain.content[0].name == "look"
    with client.messages.stream(**ask) as stream:
        assert stream.get_final_message().content[0].input == plain.content[0].input


@pytest.mark.parametrize("query", [None, {"beta": "true"}])
@pytest.mark.parametrize("path", ["", "/anthropic", "/at/claude"])
def test_beta(gateway, key, mock: Mock, path, query):
    """The beta surface adds a header, in older clients a query too; the provider gets both."""
    mock.clear()
    with open_client(gateway, key, path) as client:
        answer = client.beta.messages.create(
            model="claude-mock", betas=["some-beta-2025"], extra_query=query, **ASK
        )
        version = client.default_headers["anthropic-version"]
    assert answer.content[0].text
    (asked,) = mock.log()
    headers = {name.lower(): value for name, value in asked["headers"]}
    assert asked["path"] == "/v1/messages" + ("?beta=true" if query else "")
    assert headers["anthropic-beta"] == "some-beta-2025"
    assert headers["anthropic-version"] == version
    assert "authorization" not in headers


def test_the_version_is_sent_when_the_client_sends_none(gateway, key, mock: Mock):
    """The provider refuses requests without; a plain HTTP client need not know."""
    client = open_client(gateway, key, default_headers={"anthropic-version": anthropic.Omit()})
    with client:
        mock.clear()
        assert client.messages.create(model="claude-mock", **ASK).content
    (asked,) = mock.log()
    assert ["anthropic-version", "2023-06-01"] in asked["headers"]


@pytest.mark.parametrize("path", ["/anthropic", "/claude", "/at/claude"])
def test_other_ways_to_the_same_route(gateway, key, path):
    """The client API's prefix and both forms of a provider pin."""
    with open_client(gateway, key, path) as client:
        assert client.messages.create(model="claude-mock", **ASK).content
        with client.messages.stream(model="claude-mock", **ASK) as stream:
            assert stream.get_final_text()
        assert client.beta.messages.create(model="claude-mock", **ASK).content


def test_a_bearer_token_is_a_key_too(gateway, key):
    """`auth_token` goes into the Authorization header."""
    with anthropic.Anthropic(auth_token=key, base_url=gateway.url, max_retries=0) as client:
        assert client.messages.create(model="claude-mock", **ASK).content


def test_labels(client):
    """The request's label also comes back as `request-id`, where this client looks for it."""
    raw = client.messages.with_raw_response.create(
        model="claude-mock", extra_headers={"x-request-id": "mine-7"}, **ASK
    )
    assert raw.headers["x-request-id"] == raw.headers["request-id"] == "mine-7"
    assert raw.headers["x-fastgw-id"].startswith("fgx_")
    assert raw.headers["x-fastgw-provider"] == "claude"
    assert raw.parse()._request_id == "mine-7"


def test_models_are_listed_in_its_shape(client):
    """The path is OpenAI's too; the client's version header tells whose shape is meant."""
    assert {"claude-mock", "mock", "fast"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("claude-mock").type == "model"


def test_usage_is_recorded(gateway, key, client, mock: Mock):
    """Input includes what went through the cache; a stream's two reports are one."""
    ids = []
    model = "claude/claude?cached=3"
    raw = client.messages.with_raw_response.create(model=model, **ASK)
    ids.append(raw.headers["x-fastgw-id"])
    with client.messages.stream(model=model, **ASK) as stream:
        stream.until_done()
        ids.append(stream.response.headers["x-fastgw-id"])
    known = {}

    def found() -> bool:
        known.update({record.id: record for record in gateway.records()})
        return set(ids) <= set(known)

    eventually_sync(found, 15, "both records")
    for one in (known[name] for name in ids):
        assert (one.input_tokens, one.cached_tokens, one.output_tokens) == (4, 3, 20)
        assert (one.usage_source, one.endpoint, one.status) == ("reported", "messages", 200)


ERRORS = [
    ("claude/mock-429", anthropic.RateLimitError, 429, "rate_limit_error"),
    ("claude/mock-500", anthropic.InternalServerError, 502, "api_error"),
    ("claude/mock-400", anthropic.BadRequestError, 400, "invalid_request_error"),
    ("claude/mock-401", anthropic.InternalServerError, 502, "api_error"),
    ("claude/mock-cut", anthropic.InternalServerError, 502, "api_error"),
    ("claude/mock-garbage", anthropic.InternalServerError, 502, "api_error"),
    ("claude/mock-stall-head", anthropic.InternalServerError, 504, "timeout_error"),
    ("no-such-model", anthropic.NotFoundError, 404, "not_found_error"),
    ("mock", anthropic.BadRequestError, 400, "invalid_request_error"),
]


@pytest.mark.parametrize(("model", "kind", "status", "told"), ERRORS)
def test_each_failure_is_the_clients_own_exception(client, model, kind, status, told):
    """Class, status and the error's type are what the client's documentation promises."""
    with pytest.raises(kind) as caught:
        client.messages.create(model=model, **ASK)
    assert caught.value.status_code == status
    assert caught.value.body["error"]["type"] == told
    assert caught.value.body["error"]["message"]
    assert "sk-upstream" not in str(caught.value.body)


def test_a_wrong_key_is_an_authentication_error(gateway):
    """In this client's shape, with the request's label."""
    with (
        open_client(gateway, "sk-ant-x") as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(model="claude-mock", **ASK)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "authentication_error"
    assert caught.value.body["request_id"] == caught.value.request_id


@pytest.mark.parametrize(
    "model",
    [
        "claude/mock-cut",
        "claude/mock-reset",
        "claude/mock-stall?after=2",
        "claude/mock-error-event",
    ],
)
def test_a_stream_that_breaks_raises_in_the_client(client, model):
    """A cut, reset, stalled or failing provider is an error inside the stream."""
    received = []
    with (
        pytest.raises(anthropic.APIError),
        client.messages.stream(model=model, **ASK) as stream,
    ):
        received.extend(stream.text_stream)
    assert received


def test_tokens_are_counted(gateway: Gateway, client):
    """By the provider where it has the route, by the gateway's own tokenizer elsewhere."""
    asked = client.messages.with_raw_response.count_tokens(model="claude-mock", messages=MESSAGES)
    assert asked.parse().input_tokens == 4
    assert "x-fastgw-estimate" not in asked.headers
    asked = client.messages.with_raw_response.count_tokens(model="mock", messages=MESSAGES)
    assert asked.headers["x-fastgw-estimate"] == "tokenizer"
    assert asked.parse().input_tokens == 3 + 4 + 4
