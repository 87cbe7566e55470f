"""Bad input gets a clear error in OpenAI's shape, reaches no provider, and nothing is lost."""

from __future__ import annotations

import http.client
import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.processes import Gateway


def ask(
    gateway: Gateway,
    body: bytes | None,
    *,
    key: str | None,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    content_type: str = "application/json",
    headers: dict[str, str] | None = None,
):
    url = urlsplit(gateway.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    sent = {"content-type": content_type, **(headers or {})}
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    try:
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def check(answer, status: int, code: str, *words: str) -> None:
    got, headers, body = answer
    assert got == status, body
    headers = {name.lower(): value for name, value in headers.items()}
    assert headers["content-type"].startswith("application/json")
    assert headers["x-request-id"]
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    for word in words:
        assert word in f"{error['message']} {error['param']}"


OK = {"model": "mock", "messages": [{"role": "user", "content": "hi"}]}

BODIES = [
    (b"", 400, "invalid_json", ""),
    (b"{", 400, "invalid_json", "valid JSON"),
    (b"[]", 400, "invalid_json", "object"),
    (b"null", 400, "invalid_json", "object"),
    (json.dumps(OK).encode() + b"{}", 400, "invalid_json", "after"),
    (b"\xef\xbb\xbf" + json.dumps(OK).encode(), 400, "invalid_json", ""),
    (b'{"messages":[]}', 400, "invalid_request", "model"),
    (b'{"model":""}', 400, "invalid_request", "model"),
    (b'{"model":7}', 400, "invalid_request", "model"),
    (b'{"model":null}', 400, "invalid_request", "model"),
    (b'{"model":"mock","model":"smart"}', 400, "invalid_request", "more than once"),
    (b'{"mod\\u0065l":"mock","messages":[]}', 400, "invalid_request", "escaped"),
    (b'{"model":"mock","stream":"yes"}', 400, "invalid_request", "stream"),
    (b'{"model":"mock","stream":1}', 400, "invalid_request", "stream"),
    (b'{"model":"mock","stream_options":[]}', 400, "invalid_request", "stream_options"),
    (b'{"model":"mock","max_tokens":-1}', 400, "invalid_request", "max_tokens"),
    (b'{"model":"mock","max_tokens":"many"}', 400, "invalid_request", "max_tokens"),
    (b'{"model":"mock","n":1.5}', 400, "invalid_request", "n must"),
    (b'{"model":"mock","x":' + b"[" * 200 + b"]" * 200 + b"}", 400, "invalid_json", "deep"),
    (b'{"model":"mcok","messages":[]}', 404, "model_not_found", "did you mean 'mock'"),
    (b'{"model":"mock","messages":[]}', 200, "", ""),
]


@pytest.mark.parametrize(("body", "status", "code", "word"), BODIES)
def test_bodies(gateway, key, body, status, code, word):
    """Each says what is wrong and names the field."""
    answer = ask(gateway, body, key=key)
    if status == 200:
        assert answer[0] in {200, 400}  # whether messages may be empty is the provider's to judge
    else:
        check(answer, status, code, word)


def test_a_body_over_the_limit(gateway, key):
    """Refused by its announced length, and by what really comes when chunked."""
    big = b'{"model":"mock","messages":[],"x":"' + b"a" * (1 << 20) + b'"}'
    check(ask(gateway, big, key=key), 413, "body_too_large", "1048576")
    chunked = (big[i : i + 65536] for i in range(0, len(big), 65536))
    check(ask(gateway, chunked, key=key), 413, "body_too_large")  # type: ignore[arg-type]


def test_other_media(gateway, key):
    """Forms, text and compressed bodies are not read."""
    body = json.dumps(OK).encode()
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        answer = ask(gateway, body, key=key, content_type=content_type)
        check(answer, 415, "unsupported_media_type", "application/json")
    answer = ask(gateway, body, key=key, headers={"content-encoding": "gzip"})
    assert answer[0] in {400, 415}
    assert json.loads(answer[2])["error"]["code"]


def test_routes_that_are_not(gateway, key):
    """An unknown route is 404, a wrong method 405 with Allow, an unknown provider 404."""
    check(ask(gateway, b"{}", key=key, path="/v1/nothing"), 404, "not_found")
    check(ask(gateway, b"{}", key=key, path="/nobody/v1/chat/completions"), 404, "not_found")
    answer = ask(gateway, None, key=key, method="DELETE")
    check(answer, 405, "method_not_allowed", "POST")
    assert "POST" in {k.lower(): v for k, v in answer[1].items()}["allow"]


def test_keys(gateway, key):
    """No key, two keys, a malformed, unknown, disabled, expired one; a model it may not use."""
    body = json.dumps(OK).encode()
    check(ask(gateway, body, key=None), 401, "invalid_api_key", "no key")
    check(ask(gateway, body, key="fgw-short"), 401, "invalid_api_key")
    two = ask(gateway, body, key=key, headers={"x-api-key": "fgw-other"})
    check(two, 401, "invalid_api_key", "two different")
    expired = gateway.create_key("expired", expires_at=1)
    check(ask(gateway, body, key=expired), 401, "expired_api_key")
    narrow = gateway.create_key("narrow", allowed_models=("smart", "gpt-*"))
    check(ask(gateway, body, key=narrow), 403, "model_not_allowed", "mock")
    assert ask(gateway, json.dumps({**OK, "model": "smart"}).encode(), key=narrow)[0] == 200


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "x-goog-api-key"])
def test_every_clients_header_carries_the_key(gateway, key, header):
    """Anthropic's, Azure's and Gemini's way of sending a key work as well."""
    assert ask(gateway, json.dumps(OK).encode(), key=None, headers={header: key})[0] == 200


def test_a_key_in_the_query_is_no_key(gateway, key):
    """Credentials come from headers only: query strings end up in logs."""
    path = f"/v1/chat/completions?key={key}"
    check(ask(gateway, json.dumps(OK).encode(), key=None, path=path), 401, "invalid_api_key")


def test_tags_only_by_leave(gateway):
    """A caller sets the tags its key allows, and no others."""
    tagged = gateway.create_key("tagged", client_tags=("job",), tags={"team": "a"})
    body = json.dumps(OK).encode()
    assert ask(gateway, body, key=tagged, headers={"x-fastgw-tags": "job=7"})[0] == 200
    answer = ask(gateway, body, key=tagged, headers={"x-fastgw-tags": "team=b"})
    check(answer, 400, "invalid_request", "team")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    ],
)
def test_what_is_not_http_is_answered_in_json(gateway, request_bytes):
    """The parser's own refusal has our shape, and no traceback goes to the log."""
    url = urlsplit(gateway.url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as sock:
        sock.sendall(request_bytes)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.split(b"\r\n")[0]
    assert json.loads(body)["error"]["code"] == "invalid_request"
    assert "Traceback" not in gateway.text
