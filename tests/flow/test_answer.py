"""What becomes of a provider's answer: how it is labelled, and what it leaves to be billed."""

from __future__ import annotations

import json

import pytest

from fastgw._ext import http1
from fastgw.domain import Deployment, Provider
from fastgw.errors import GatewayError, UpstreamProtocolError
from fastgw.flow.account import count
from fastgw.flow.exchange import Exchange
from fastgw.flow.relay import HELD, Answer
from fastgw.flow.translate import translate

PROVIDER = Provider(name="p", type="openai_compatible", base_url="http://p.test/v1")


def exchange(*, stream: bool = False) -> Exchange:
    """Give an exchange that was sent upstream."""
    sent = Exchange("id", "chat_completions", "openai", {})
    sent.body, sent.spans, sent.requested_model = b'{"model":"m"}', {b"model": (9, 12)}, "m"
    sent.stream, sent.prompt_estimate = stream, 7
    translate(sent, Deployment(provider=PROVIDER, model="m"))
    return sent


def answer(to: Exchange, *fields: str, status: int = 200) -> Answer:
    """Give an answer whose head has come."""
    lines = [f"HTTP/1.1 {status} X", "transfer-encoding: chunked", *fields]
    head = http1.parse_head("\r\n".join([*lines, "", ""]).encode())
    assert head is not None
    given = Answer(to)
    given.head(head)
    return given


@pytest.mark.parametrize(
    ("stream", "status", "label"),
    [
        (True, 200, "text/event-stream"),
        (True, 400, "application/json"),
        (False, 200, "application/json"),
    ],
)
def test_an_unlabelled_answer_is_what_was_asked_for(stream, status, label):
    """A provider that names no content type is read by the request, and the client gets a label."""
    given = answer(exchange(stream=stream), status=status)
    assert given.fields == f"content-type: {label}\r\n".encode()
    assert given.streams is (label == "text/event-stream")


def test_a_label_is_kept_as_it_is():
    """And decides, whatever was asked for."""
    given = answer(exchange(stream=True), "Content-Type: application/json; charset=UTF-8")
    assert given.fields == b"content-type: application/json; charset=UTF-8\r\n"
    assert not given.streams


def test_an_unlabelled_stream_goes_on_event_by_event():
    """Half an event waits, as in a labelled one."""
    given = answer(exchange(stream=True))
    assert given.data(b'data: {"choices":[]}\n\ndata: {') == b'data: {"choices":[]}\n\n'


def test_an_answer_that_is_no_json_costs_nothing():
    """The client gets a plain 502; the provider reported no tokens."""
    sent = exchange()
    given = answer(sent, "content-type: application/json")
    given.data(b"<html>")
    with pytest.raises(UpstreamProtocolError):
        given.end()
    count(sent)
    assert sent.usage is not None
    assert (sent.usage.input_tokens, sent.usage.output_tokens) == (0, 0)


@pytest.mark.parametrize("size", [10, HELD])
def test_a_whole_answer_without_usage_is_estimated(size):
    """Held until complete or passed on as it comes: what went to the client is counted."""
    sent = exchange()
    given = answer(sent, "content-type: application/json")
    message = {"role": "assistant", "content": "word " * size}
    given.data(json.dumps({"choices": [{"message": message}]}).encode())
    given.end()
    count(sent)
    assert sent.usage is not None
    assert (sent.usage_source, sent.usage.input_tokens) == ("estimated", 7)
    assert size * 0.8 <= sent.usage.output_tokens <= size * 1.5


@pytest.mark.parametrize("body", [b'{"error":{"message":"no"}}', b'[{"error":{"message":"no"}}]'])
def test_a_providers_4xx_is_passed_on_as_it_is(body):
    """Google's errors are arrays: byte for byte as well."""
    sent = exchange()
    given = answer(sent, status=400)
    given.data(body)
    assert given.end() is body
    assert sent.error is not None
    assert sent.error.message == "provider p answered 400: no"


@pytest.mark.parametrize(
    ("status", "body"), [(400, b"<html>no</html>"), (503, b'[{"error":{"message":"no"}}]')]
)
def test_other_errors_are_told_in_our_own_words(status, body):
    """HTML never reaches a client, and a 5xx is a 502 that keeps the message."""
    given = answer(exchange(), status=status)
    given.data(body)
    with pytest.raises(GatewayError) as caught:
        given.end()
    assert caught.value.status == (502 if status >= 500 else status)
    assert ("no" in caught.value.message) is (status == 503)
