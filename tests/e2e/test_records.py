"""Every accepted request leaves one record, and the record is true."""

from __future__ import annotations

import http.client
import json
import socket
import time
from urllib.parse import urlsplit

import pytest

from tests.e2e.test_relay import post
from tests.processes import Gateway, Mock
from tests.waiting import eventually_sync


def ask(gateway: Gateway, key: str, model: str, **fields) -> tuple[int, dict, bytes]:
    body = json.dumps(
        {"model": model, "messages": [{"role": "user", "content": "one two three"}], **fields}
    )
    return post(gateway.url + "/v1", body.encode(), key)


def record_of(gateway: Gateway, headers: dict):
    """Give the record of an answered exchange."""
    wanted = headers["x-fastgw-id"]
    return eventually_sync(
        lambda: next((r for r in gateway.records() if r.id == wanted), None), what=wanted
    )


def truth_of(mock: Mock, model: str) -> dict:
    """Give the mock's account of the last exchange with this upstream model."""
    return eventually_sync(
        lambda: next((e for e in reversed(mock.log()) if e["model"] == model), None)
    )


@pytest.mark.parametrize("stream", [False, True])
def test_reported_usage_is_the_truth(gateway, mock, key, stream):
    """Tokens of the record are those the provider reported, asked for or not."""
    model = f"mock?chunks={11 + stream}"
    _, headers, _ = ask(gateway, key, f"mock/{model}", stream=stream)
    record, truth = record_of(gateway, headers), truth_of(mock, model)
    assert record.usage_source == "reported"
    assert record.status == 200
    assert record.error_code is None
    assert record.stream is stream
    assert (record.input_tokens, record.output_tokens) == (
        truth["sent"]["prompt"],
        truth["sent"]["completion"],
    )
    assert record.provider == "mock"
    assert record.upstream_model == model
    assert record.attempts == 1
    assert record.ttft_ms is not None
    assert record.duration_ms >= record.ttft_ms


@pytest.mark.parametrize("lie", ["none", "null", "huge", "negative", "string"])
def test_nonsense_usage_is_estimated(gateway, key, lie):
    """What makes no sense is never money: we count ourselves and say so."""
    _, headers, _ = ask(gateway, key, f"mock/mock?usage={lie}&chunks=10", stream=True)
    record = record_of(gateway, headers)
    assert record.usage_source == "estimated"
    assert 3 <= record.input_tokens <= 30
    assert 5 <= record.output_tokens <= 60


def test_usage_inside_a_content_event_counts(gateway, mock, key):
    """Some providers report in the last event with choices; it stays in the stream."""
    _, headers, body = ask(gateway, key, "mock/mock?usage=in_content&chunks=9", stream=True)
    assert record_of(gateway, headers).usage_source == "reported"
    assert b'"usage":{' in body.replace(b'"usage": {', b'"usage":{')


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("mock/mock-500", 502, "upstream_error"),
        ("mock/mock-429", 429, "upstream_error"),
        ("nobody-has-this", 404, "model_not_found"),
        ("mock/mock-stall-head", 504, "upstream_timeout"),
        ("nowhere", 502, "upstream_error"),
    ],
)
def test_failures_are_on_record_and_free(gateway, key, model, status, code):
    """A provider's fault before anything was sent is billed only what it reported: nothing."""
    got, headers, _ = ask(gateway, key, model)
    record = record_of(gateway, headers)
    assert got == record.status == status
    assert record.error_code == code
    assert record.cost_nano == record.input_tokens == record.output_tokens == 0


def test_a_broken_stream_is_no_success_and_counts_what_was_delivered(gateway, key):
    """Status 502, partial, more than nothing."""
    with pytest.raises(http.client.IncompleteRead):
        ask(gateway, key, "mock/mock-cut?after=6&chunks=12", stream=True)
    record = eventually_sync(
        lambda: next(
            (r for r in gateway.records() if r.upstream_model == "mock-cut?after=6&chunks=12"),
            None,
        )
    )
    assert record.status == 502
    assert record.usage_source == "partial"
    assert 3 <= record.output_tokens <= 40


def test_a_client_that_leaves_cancels_the_provider_and_is_on_record(gateway, mock, key):
    """The mock sees the cancel within 200 ms; the record says 499 and partial."""
    model = "mock?chunks=500&delay_ms=20"
    message = {"role": "user", "content": "hi"}
    body = json.dumps({"model": f"mock/{model}", "messages": [message], "stream": True}).encode()
    url = urlsplit(gateway.url)
    with socket.create_connection((url.hostname, url.port)) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s"
            % (key.encode(), len(body), body)
        )
        received = b""
        while received.count(b"data: ") < 5:
            received += sock.recv(65536)
        left = time.time()
    line = truth_of(mock, model)
    assert line["ended"] == "client_gone"
    assert line["at"] + line["gone_ms"] - left * 1000 < 200
    record = eventually_sync(
        lambda: next((r for r in gateway.records() if r.upstream_model == model), None)
    )
    assert (record.status, record.error_code) == (499, "client_gone")
    assert record.usage_source == "partial"
    assert record.output_tokens > 0


def test_cost_is_exact_integer_nano_dollars(own_gateway):
    """A price set for a model shows in the header and in the record."""
    gateway = own_gateway
    key = gateway.create_key()
    gateway.set_price("mock", "mock?chunks=7", input_pico=2_500_000, output_pico=10_000_000)
    eventually_sync(lambda: "x-fastgw-cost" in ask(gateway, key, "smart")[1])
    _, headers, body = ask(gateway, key, "smart")
    usage = json.loads(body)["usage"]
    nano = (usage["prompt_tokens"] * 2_500_000 + 500) // 1000
    nano += (usage["completion_tokens"] * 10_000_000 + 500) // 1000
    assert record_of(gateway, headers).cost_nano == nano
    assert int(float(headers["x-fastgw-cost"]) * 1e9 + 0.5) == nano


def test_tags_of_alias_and_key_are_on_record(gateway):
    """The key's own tags win over the alias's."""
    tagged = gateway.create_key("tags", tags={"team": "a"}, client_tags=("job",))
    _, headers, _ = post(
        gateway.url + "/v1",
        b'{"model":"fast","messages":[{"role":"user","content":"hi"}]}',
        tagged,
        **{"x-fastgw-tags": "job=nightly"},
    )
    assert record_of(gateway, headers).tags == {"team": "a", "via": "fast", "job": "nightly"}
