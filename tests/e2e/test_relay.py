"""The relay rule: bytes go through untouched, but for what the contract names."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from fastgw.mock import credential_mark
from tests.processes import Gateway, Mock
from tests.waiting import eventually_sync

HI = [{"role": "user", "content": "hi"}]


def post(base_url: str, body: bytes, key: str, **headers: str):
    url = urlsplit(base_url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    try:
        connection.request(
            "POST",
            f"{url.path}/chat/completions",
            body,
            {"authorization": f"Bearer {key}", "content-type": "application/json", **headers},
        )
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, answer.read()
    finally:
        connection.close()


def both(gateway: Gateway, mock: Mock, key: str, body: bytes):
    """Ask the mock directly and through the gateway."""
    direct = post(mock.base_url, body, "sk-upstream-credential-1234")
    return direct, post(gateway.url + "/v1", body, key)


def seen(mock: Mock, request_id: str) -> dict:
    """Give what the mock wrote down of the request that carried this trace header."""
    return eventually_sync(
        lambda: next(
            (
                line
                for line in mock.log()
                if any(n == "traceparent" and v == request_id for n, v in line["headers"])
            ),
            None,
        )
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"n": 2, "unknown_field": {"x": [1, 2.50, "é"]}},
    ],
)
def test_answers_are_the_providers_bytes(gateway, mock, key, options):
    """Body and content type come through as they are."""
    body = json.dumps(
        {"model": "mock", "messages": [{"role": "user", "content": "hi"}], **options}
    ).encode()
    direct, through = both(gateway, mock, key, body)
    assert through[0] == direct[0] == 200
    assert through[2] == direct[2]
    assert through[1]["content-type"] == direct[1]["content-type"]


def test_an_unasked_usage_event_is_taken_out_again(gateway, mock, key):
    """The client that did not ask sees exactly the stream it would have seen."""
    body = b'{"model":"mock","messages":[{"role":"user","content":"hi"}],"stream":true}'
    direct, through = both(gateway, mock, key, body)
    assert b'"usage":{' not in direct[2]
    assert through[2].replace(b'"usage":null,', b"").replace(b',"usage":null', b"") == direct[
        2
    ].replace(b'"usage":null,', b"").replace(b',"usage":null', b"")


def test_the_request_is_the_clients_but_for_the_model(gateway, mock, key):
    """Spacing, key order, unknown fields and number spelling reach the provider unchanged."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = (
        b'  { "zeta" : 1.00 , "model" : "fast","messages":[ {"role":"user","content":"h\\u00e9"} ]'
        b' , "a":[1e2] }\n'
    )
    assert post(gateway.url + "/v1", body, key, traceparent=trace, cookie="a=b")[0] == 200
    line = seen(mock, trace)
    assert line["body"].encode() == body.replace(b'"fast"', b'"mock?chunks=7"')
    headers = dict(line["headers"])
    assert headers["authorization"].endswith(credential_mark("sk-upstream-credential-1234"))
    assert "cookie" not in headers
    assert key not in json.dumps(line)


@pytest.mark.parametrize("asked", [None, {}, {"include_usage": False}, {"x": 1}])
def test_usage_is_asked_for_without_touching_anything_else(gateway, mock, key, asked):
    """`stream_options` is added or completed; the rest of the body stays."""
    trace = f"00-{uuid4().hex}-b7ad6b7169203331-01"
    fields = {"model": "mock", "messages": HI, "stream": True}
    if asked is not None:
        fields["stream_options"] = asked
    post(gateway.url + "/v1", json.dumps(fields).encode(), key, traceparent=trace)
    sent = json.loads(seen(mock, trace)["body"])
    assert sent.pop("stream_options") == {**(asked or {}), "include_usage": True}
    fields.pop("stream_options", None)
    assert sent == fields


def test_a_providers_own_4xx_keeps_status_and_bytes(gateway, mock, key):
    """429 with its retry-after, 400 with its message."""
    for model, status in (("mock/mock-429", 429), ("mock/mock-400", 400), ("mock/mock-404", 404)):
        got, headers, body = post(
            gateway.url + "/v1", json.dumps({"model": model, "messages": HI}).encode(), key
        )
        bare = json.dumps({"model": model.removeprefix("mock/"), "messages": HI}).encode()
        direct = post(mock.base_url, bare, "sk-upstream-credential-1234")
        assert (got, body) == (status, direct[2])
        if status == 429:
            assert headers["retry-after"] == direct[1]["retry-after"]


def test_a_5xx_becomes_a_502_that_says_what_the_provider_said(gateway, key):
    """Its status and message are kept in ours."""
    status, _, body = post(
        gateway.url + "/v1", json.dumps({"model": "mock/mock-503", "messages": HI}).encode(), key
    )
    error = json.loads(body)["error"]
    assert status == 502
    assert error["code"] == "upstream_error"
    assert "503" in error["message"]


BROKEN = ["mock-cut", "mock-reset", "mock-stall?after=3"]


@pytest.mark.parametrize("model", BROKEN)
def test_a_broken_stream_ends_in_an_error_event_and_no_clean_end(gateway, key, model):
    """Whole events, then the error, no [DONE], and the chunked body is not completed."""
    body = json.dumps({"model": f"mock/{model}", "messages": HI, "stream": True}).encode()
    url = urlsplit(gateway.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    connection.request(
        "POST",
        "/v1/chat/completions",
        body,
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    with pytest.raises(http.client.IncompleteRead) as caught:
        connection.getresponse().read()
    connection.close()
    events = caught.value.partial.decode().split("\n\n")
    assert events[-1] == ""
    assert "error" in json.loads(events[-2].removeprefix("data: "))
    for event in events[:-2]:
        assert json.loads(event.removeprefix("data: "))["choices"]
    assert "[DONE]" not in caught.value.partial.decode()
