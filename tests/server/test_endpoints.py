"""Every error has the shape of the client API that the route belongs to, whoever found it."""

from __future__ import annotations

import asyncio
import json

import pytest

from fastgw.server.endpoints import MODEL_ENDPOINTS, client_api_of, hot_targets
from tests.scripted import Hold, Request, Scripted
from tests.server.conftest import REPLY

VERSION = {"anthropic-version": "2023-06-01"}


@pytest.mark.parametrize(
    ("target", "headers", "api"),
    [
        ("/v1/chat/completions", VERSION, "openai"),
        ("/v1/messages", {}, "anthropic"),
        ("/v1/messages?beta=true", {}, "anthropic"),
        ("/v1/messages/count_tokens", {}, "anthropic"),
        ("/at/p/v1/messages", {}, "anthropic"),
        ("/p/v1/messages?x=/v1/responses", {}, "anthropic"),
        ("/openai/v1/messages", {}, "openai"),
        ("/anthropic/v1/chat/completions", {}, "anthropic"),
        ("/anthropic/nothing", {}, "anthropic"),
        ("/v1/messagesx", {}, "openai"),
        ("/v1/models", {}, "openai"),
        ("/v1/models", VERSION, "anthropic"),
        ("/nothing", VERSION, "anthropic"),
        ("", {}, "openai"),
        ("*", {}, "openai"),
        ("/", {}, "openai"),
    ],
)
def test_whose_route_it_is(target, headers, api):
    """The path decides; what several APIs share is told by the headers."""
    assert client_api_of(target, headers) == api


def test_hot_targets():
    """Every model route goes straight to the lane, under its own prefix, with its own queries."""
    targets = hot_targets()
    assert {endpoint for endpoint, _ in targets.values()} == set(MODEL_ENDPOINTS)
    for target, (endpoint, query) in targets.items():
        assert client_api_of(target, {}) == endpoint.client_api
        assert target.endswith(endpoint.path + ("?" + query if query else ""))
    assert targets["/anthropic/v1/messages?beta=true"][1] == "beta=true"
    assert "/anthropic/v1/responses" not in targets
    assert "/openai/v1/messages" not in targets


async def raw(served, head: str, body: bytes = b"") -> tuple[int, bytes, dict]:
    """Send bytes; give status, head and body of the answer."""
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in (head.encode()[:9], head.encode()[9:], body):
        writer.write(piece)
        await asyncio.sleep(0)
    answer = await reader.readuntil(b"\r\n\r\n")
    size = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    told = json.loads(await reader.readexactly(size))
    writer.close()
    return int(answer.split()[1]), answer.lower(), told


def is_anthropic(told: dict) -> bool:
    """Check the error's shape and tell which it is."""
    if set(told) == {"error"}:
        assert set(told["error"]) == {"message", "type", "param", "code"}
        return False
    assert set(told) == {"type", "error", "request_id"}
    assert told["type"] == "error"
    assert set(told["error"]) == {"type", "message"}
    return True


@pytest.mark.parametrize("path", ["/v1/messages", "/anthropic/v1/messages", "/at/p/v1/messages"])
@pytest.mark.parametrize(
    ("line", "fields", "status"),
    [
        ("POST {} HTTP/1.1", "content-length: x\r\n", 400),
        ("POST {} HTTP/1.1", "bad field\r\n", 400),
        ("GET {} HTTP/1.1", "", 405),
        ("POST {}/nothing HTTP/1.1", "content-length: 0\r\n", 404),
        ("POST {} HTTP/1.1", "content-length: 0\r\n", 401),
        ("POST {} HTTP/1.1", "content-length: 0\r\nx-api-key: fgw-x\r\n", 401),
    ],
)
async def test_errors_of_messages(serve, sqlite_url, path, line, fields, status):
    """From the parser, the router and the flow alike, with the label under both its names."""
    served = await serve(sqlite_url)
    request = f"{line.format(path)}\r\nhost: x\r\n{fields}\r\n"
    seen, head, told = await raw(served, request)
    assert seen == status
    assert is_anthropic(told)
    label = told["request_id"].lower().encode()
    assert b"\r\nrequest-id: " + label + b"\r\n" in head
    assert b"\r\nx-request-id: " + label + b"\r\n" in head
    seen, head, told = await raw(served, request.replace("/v1/messages", "/v1/responses"))
    if path.startswith("/anthropic"):
        assert is_anthropic(told)
    else:
        assert seen == status
        assert not is_anthropic(told)
        assert b"\r\nrequest-id: " not in head


async def test_a_bad_request_behind_a_good_one(serve, sqlite_url):
    """On one connection each error has the shape of its own request."""
    served = await serve(sqlite_url)
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for request, anthropic in (
        ("POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", True),
        ("POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", False),
        ("POST /v1/messages HTTP/1.1\r\nhost : x\r\n\r\n", True),
    ):
        writer.write(request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        assert is_anthropic(json.loads(await reader.readexactly(size))) is anthropic
    assert await reader.read() == b""
    writer.close()


async def test_a_client_apis_name_never_pins(serve, sqlite_url):
    """`/anthropic/…` is that API's prefix even where a provider is called so; `/at/…` pins it."""
    async with Scripted([*(Request(), REPLY) * 2, Hold()]) as scripted:
        named = {
            "name": "anthropic",
            "type": "openai_compatible",
            "base_url": scripted.url + "/v1",
            "models": ["m"],
        }
        served = await serve(sqlite_url, providers=[named])
        headers = {"authorization": f"Bearer {await served.create_key()}"}
        body = {"model": "m", "messages": []}
        for path, status in (
            ("/anthropic/v1/chat/completions", 404),
            ("/at/anthropic/v1/chat/completions", 200),
            ("/openai/v1/messages", 404),
        ):
            async with served.client.post(served.url + path, json=body, headers=headers) as answer:
                assert answer.status == status, path


async def test_discovery_names_every_route(serve, sqlite_url):
    """`/gateways` tells client APIs with their paths, and what each provider speaks."""
    served = await serve(sqlite_url)
    status, told = await served.get("/gateways")
    assert status == 200
    assert "/v1/messages" in told["client_apis"]["anthropic"]
    assert "/openai/v1/responses" in told["client_apis"]["openai"]
    (provider,) = told["providers"]
    assert provider["client_apis"] == ["openai"]
    assert "embeddings" in provider["endpoints"]
