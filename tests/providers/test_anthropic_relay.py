"""What the Anthropic relay sends, and what it knows of usage at each moment of a stream."""

from __future__ import annotations

import json

from fastgw._ext import scan
from fastgw.domain import Deployment, Provider, Secret, Usage
from fastgw.errors import UpstreamClosed
from fastgw.flow.account import count
from fastgw.flow.admit import POLICY_KEYS
from fastgw.flow.exchange import Exchange
from fastgw.flow.translate import Request, translate

PROVIDER = Provider(
    name="p", type="anthropic", base_url="https://a.test/x", credential=Secret("sk-ant-1")
)
BODY = b'{"model":"m","max_tokens":5,"messages":[]}'


def event(kind: str, **members: object) -> bytes:
    data = json.dumps({"type": kind, **members})
    return f"event: {kind}\ndata: {data}\n\n".encode()


START = event(
    "message_start",
    message={"usage": {"input_tokens": 3, "cache_read_input_tokens": 7, "output_tokens": 1}},
)
TEXT = event("content_block_delta", delta={"type": "text_delta", "text": "some text"})
DELTA = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9})
STOP = event("message_stop")


def sent(query: str = "", model: str = "m", **headers: str) -> tuple[Exchange, Request]:
    """Give an exchange that was sent upstream, and what was sent."""
    exchange = Exchange("id", "messages", "anthropic", headers)
    exchange.query, exchange.stream, exchange.prompt_estimate = query, True, 99
    exchange.body, exchange.spans = BODY, scan.top_level(BODY, POLICY_KEYS)
    exchange.requested_model = "m"
    return exchange, translate(exchange, Deployment(provider=PROVIDER, model=model))


def fields(request: Request) -> dict[str, str]:
    lines = request.head.decode().split("\r\n")[1:-2]
    pairs = [line.split(": ", 1) for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_the_credential_and_the_version():
    """x-api-key and no bearer; the version of the client, else the one all servers know."""
    _, request = sent()
    head = fields(request)
    assert (head["x-api-key"], head["anthropic-version"]) == ("sk-ant-1", "2023-06-01")
    assert "authorization" not in head
    _, request = sent(**{"anthropic-version": "2099-01-01", "x-api-key": "fgw-client"})
    head = fields(request)
    assert (head["x-api-key"], head["anthropic-version"]) == ("sk-ant-1", "2099-01-01")


def test_the_query_that_goes_along():
    """The beta query is known there; nothing else is passed on."""
    for query, target in (("beta=true", "/x/v1/messages?beta=true"), ("", "/x/v1/messages")):
        _, request = sent(query)
        assert request.head.startswith(f"POST {target} HTTP/1.1\r\n".encode())
    _, request = sent("a=b")
    assert request.head.startswith(b"POST /x/v1/messages HTTP/1.1\r\n")


def test_only_the_model_is_spliced():
    """Nothing is asked for: this API always reports."""
    _, request = sent()
    assert b"".join(request.parts) == BODY
    _, request = sent(model="claude")
    assert b"".join(request.parts) == BODY.replace(b'"m"', b'"claude"', 1)


def test_usage_is_told_in_two_events():
    """Complete with the second one; `message_stop` is the stream's own end."""
    exchange, _ = sent()
    relay = exchange.translator
    assert relay is not None
    assert relay.data(START) == START
    assert (relay.usage(), relay.prompt_usage()) == (
        None,
        Usage(input_tokens=10, cached_tokens=7, output_tokens=1),
    )
    relay.data(TEXT + DELTA)
    assert relay.usage() == Usage(input_tokens=10, cached_tokens=7, output_tokens=9)
    assert relay.prompt_usage() is None
    assert not relay.complete
    relay.data(STOP)
    assert relay.complete
    assert relay.fault is None


def test_a_stream_that_is_cut_before_its_end():
    """The prompt is billed as reported, the answer as far as it was delivered."""
    exchange, _ = sent()
    assert exchange.translator is not None
    exchange.translator.data(START + TEXT)
    exchange.first_content, exchange.error = 1, UpstreamClosed("cut")
    count(exchange)
    assert exchange.usage == Usage(input_tokens=10, cached_tokens=7, output_tokens=2)
    assert exchange.usage_source == "partial"


def test_a_whole_answer():
    """One object reports all; the body goes on untouched."""
    exchange, _ = sent()
    relay = exchange.translator
    assert relay is not None
    usage = {"input_tokens": 3, "cache_creation_input_tokens": 4, "output_tokens": 9}
    body = json.dumps({"type": "message", "usage": usage}).encode()
    assert relay.whole(body) is body
    assert relay.usage() == Usage(input_tokens=7, cache_write_tokens=4, output_tokens=9)
