"""The mock as an aiohttp application: routes, credentials, delivery.

Run it in a runner with `handler_cancellation` (see `fastgw.mock.run`): a client that leaves is
noticed by the cancelled handler, within one turn of the loop.
"""

from __future__ import annotations

import asyncio
import hmac
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson
from aiohttp import HttpVersion11, web

from fastgw.mock import anthropic, openai
from fastgw.mock.answer import answer_chat, input_tokens, prompt_tokens
from fastgw.mock.behaviour import (
    NAMED,
    Behaviour,
    Fault,
    ModelNameError,
    base_name,
    read_model,
)
from fastgw.mock.event import Ended, Event, fail, spoil, spoil_whole
from fastgw.mock.exchange import Exchange
from fastgw.mock.log import Log, bare_credential
from fastgw.mock.openai import Refusal
from fastgw.mock.options import Options
from fastgw.mock.pacer import Pacer, Play
from fastgw.mock.wires import WIRES, Wire, refusal_body

MAX_BODY = 256 << 20
JSON = "application/json"
HTML = "text/html; charset=utf-8"
EVENTS = "text/event-stream; charset=utf-8"
FAILURES = (500, 503, 429)
EXCHANGE = web.RequestKey("exchange", Exchange)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Mock:
    """What the handlers share: options, log, clockwork, and the exchanges that are not over."""

    def __init__(self, options: Options, log: Log) -> None:
        self.options = options
        self.log = log
        self.pacer = Pacer()
        self.live: set[Exchange] = set()
        self.stopping = False
        self._draws = random.Random(options.seed)  # noqa: S311 - repeatable, not secret
        self._count = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Model names to list."""
        return self.options.models or tuple(NAMED)

    def open(self, request: web.BaseRequest) -> Exchange:
        """Begin the books of one request."""
        self._count += 1
        exchange = Exchange(self.log, self._count, request)
        self.live.add(exchange)
        return exchange

    def behaviour(self, model: str) -> Behaviour:
        """Give how to answer for a model; 404 for one that is not served, 400 for bad parameters.

        A share of requests fails whatever the model, when the options say so.
        """
        base = base_name(model)
        if self.options.models and base not in self.options.models and base not in NAMED:
            message = f"The model '{base}' does not exist or you do not have access to it."
            raise Refusal(404, message, code="model_not_found")
        try:
            behaviour = read_model(model, self.options)
        except ModelNameError as error:
            raise Refusal(400, str(error), param="model", code="bad_mock_model") from error
        if self._draws.random() < self.options.error_rate:
            raise openai.refusal(self._draws.choice(FAILURES))
        return behaviour

    def end(self, exchange: Exchange, ended: Ended) -> None:
        """Close the books of one exchange."""
        exchange.end(ended)
        self.live.discard(exchange)

    def keep(self, exchange: Exchange, play: Play) -> None:
        """Let a play end its exchange, now that the client has left."""
        exchange.kept = True
        play.done.add_done_callback(lambda _: self.end(exchange, Ended.CLIENT_GONE))

    def stop(self) -> None:
        """Cut every connection that is still served."""
        self.stopping = True
        self.pacer.stop()
        for exchange in tuple(self.live):
            if exchange.transport is not None:
                exchange.transport.abort()
            self.end(exchange, Ended.STOPPED)


MOCK = web.AppKey("mock", Mock)


def create_app(options: Options | None = None, *, log: Log | None = None) -> web.Application:
    """Give the application; its log is closed with it."""
    options = options or Options()
    mock = Mock(options, Log(options.log) if log is None else log)
    app = web.Application(middlewares=[keep_books], client_max_size=MAX_BODY)
    app[MOCK] = mock
    for wire in WIRES:
        app.router.add_post(wire.path, partial(generate, wire))
    app.router.add_post("/v1/embeddings", embeddings)
    app.router.add_post("/v1/messages/count_tokens", count_tokens)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/models/{name:.+}", model)
    app.router.add_get("/mock/log", show_log)
    app.router.add_delete("/mock/log", clear_log)
    app.on_shutdown.append(_stop)
    app.on_cleanup.append(_close)
    return app


async def _stop(app: web.Application) -> None:
    app[MOCK].stop()


async def _close(app: web.Application) -> None:
    app[MOCK].log.close()


# -- the frame around every handler -------------------------------------------------------------


@web.middleware
async def keep_books(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log the exchange whatever happens, and say no in the provider's shape."""
    if request.path == "/mock/log":
        return await handler(request)
    mock = request.app[MOCK]
    exchange = request[EXCHANGE] = mock.open(request)
    ended = Ended.FAILED
    try:
        exchange.begin(await request.read())
        return await _answer(request, handler)
    except asyncio.CancelledError:
        ended = Ended.STOPPED if mock.stopping else Ended.CLIENT_GONE
        exchange.leave()
        raise
    except ConnectionError:
        ended = Ended.CLIENT_GONE
        exchange.leave()
        # Nobody is there to get it; raising would make aiohttp log a defect of ours.
        return web.Response()
    finally:
        if not exchange.kept:
            mock.end(exchange, ended)


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        _check_credential(request)
        return await handler(request)
    except Refusal as error:
        refused = error
        headers = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:g}"}
    except web.HTTPException as error:
        refused = Refusal(error.status, f"{error.reason}: {request.method} {request.path}")
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    body = Event(refusal_body(request.path, refused))
    return await _send_whole(request, body, status=refused.status, headers=headers)


def _check_credential(request: web.Request) -> None:
    if anthropic.owns(request.path) and "anthropic-version" not in request.headers:
        raise Refusal(400, "anthropic-version: header is required")
    key = request.app[MOCK].options.api_key
    if key is None:
        return
    native = anthropic.owns(request.path) or "anthropic-version" in request.headers
    given = request.headers.get("x-api-key" if native else "authorization")
    if given is None:
        message = "You didn't provide an API key. Provide it in an Authorization header."
        raise Refusal(401, message, code="invalid_api_key")
    if not hmac.compare_digest(bare_credential(given).encode(), key.encode()):
        raise openai.refusal(401)


# -- routes -------------------------------------------------------------------------------------


async def generate(wire: Wire, request: web.Request) -> web.StreamResponse:
    """`POST` on a route that generates text."""
    mock, exchange = request.app[MOCK], request[EXCHANGE]
    question = _question(exchange)
    behaviour = mock.behaviour(openai.read_name(question))
    asked = wire.read(question)
    as_chat = wire.as_chat(question)
    tool = openai.read_tool(as_chat, eager=behaviour.tools)
    answer = answer_chat(
        question,
        behaviour,
        seed=mock.options.seed,
        choices=asked.choices,
        maximum=asked.maximum,
        tool=tool,
        prompt=prompt_tokens(as_chat),
    )
    exchange.answer_id = wire.prefix + answer.mark
    events = wire.events(asked, answer, behaviour)
    await _hold(request, behaviour, events, answer.prompt)
    exchange.prompt(answer.prompt)
    if behaviour.fault in {Fault.GARBAGE_HTML, Fault.GARBAGE_JSON}:
        return await _send_garbage(request, behaviour, stream=asked.stream)
    if asked.stream:
        if behaviour.fault is Fault.ERROR_EVENT:
            events = fail(events, behaviour, answer.completion, wire.error)
        events = spoil(events, behaviour, answer.completion)
        return await _send_stream(request, events, behaviour)
    if behaviour.fault is Fault.ERROR_EVENT:
        return await _send_whole(request, Event(wire.failure))
    return await _send_body(request, wire.body(asked, answer, behaviour), behaviour)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """`POST /v1/embeddings`."""
    mock, exchange = request.app[MOCK], request[EXCHANGE]
    question = _question(exchange)
    behaviour = mock.behaviour(openai.read_name(question))
    items = openai.read_inputs(question)
    body = openai.embeddings_body(question, items, behaviour, mock.options.seed)
    prompt = sum(map(input_tokens, items))
    await _hold(request, behaviour, iter([body]), prompt)
    exchange.prompt(prompt)
    if behaviour.fault in {Fault.GARBAGE_HTML, Fault.GARBAGE_JSON}:
        return await _send_garbage(request, behaviour, stream=False)
    return await _send_body(request, body, behaviour)


async def count_tokens(request: web.Request) -> web.StreamResponse:
    """`POST /v1/messages/count_tokens`: what the same question would be told of its prompt."""
    mock, exchange = request.app[MOCK], request[EXCHANGE]
    question = _question(exchange)
    behaviour = mock.behaviour(openai.read_name(question))
    anthropic.read({"max_tokens": 1, **question})
    body = anthropic.count_body(prompt_tokens(anthropic.as_chat(question)))
    await _hold(request, behaviour, iter([body]), 0)
    return await _send_body(request, body, behaviour)


async def models(request: web.Request) -> web.StreamResponse:
    """`GET /v1/models`."""
    return await _send_whole(request, Event(openai.models_body(request.app[MOCK].names)))


async def model(request: web.Request) -> web.StreamResponse:
    """`GET /v1/models/{name}`."""
    name = request.match_info["name"]
    if name not in request.app[MOCK].names:
        message = f"The model '{name}' does not exist"
        raise Refusal(404, message, param="model", code="model_not_found")
    return await _send_whole(request, Event(orjson.dumps(openai.model_object(name))))


async def show_log(request: web.Request) -> web.StreamResponse:
    """`GET /mock/log`: what was asked and answered; needs no credential."""
    log = request.app[MOCK].log
    body = {"exchanges": list(log), "open": log.open, "dropped": log.dropped}
    return web.Response(body=orjson.dumps(body), content_type=JSON)


async def clear_log(request: web.Request) -> web.StreamResponse:
    """`DELETE /mock/log`: forget finished exchanges."""
    body = orjson.dumps({"forgotten": request.app[MOCK].log.clear()})
    return web.Response(body=body, content_type=JSON)


def _question(exchange: Exchange) -> Mapping[str, Any]:
    if exchange.question is None:
        return openai.read_object(exchange.body)
    return exchange.question


# -- delivery -----------------------------------------------------------------------------------


async def _hold(
    request: web.Request, behaviour: Behaviour, events: Iterator[Event], prompt: int
) -> None:
    """Wait as long as the behaviour says before the head; refuse if that is what it says.

    A late provider makes its answer all the same when the client leaves meanwhile.
    """
    mock, exchange = request.app[MOCK], request[EXCHANGE]
    loop = asyncio.get_running_loop()
    ready = loop.time() + behaviour.latency_ms / 1000
    try:
        if behaviour.fault is Fault.STALL_HEAD:
            await loop.create_future()
        if behaviour.latency_ms:
            await asyncio.sleep(behaviour.latency_ms / 1000)
    except asyncio.CancelledError:
        if behaviour.late and not mock.stopping:
            exchange.leave()
            exchange.prompt(prompt)
            play = Play(None, events, exchange, interval=behaviour.chunk_delay_ms / 1000)
            play.due = ready
            mock.keep(exchange, play)
            mock.pacer.start(play)
        raise
    if behaviour.status != 200:
        raise openai.refusal(behaviour.status, behaviour.retry_after)


def _head(exchange: Exchange, kind: str) -> dict[str, str]:
    return {"Content-Type": kind, "x-request-id": exchange.id}


async def _send_whole(
    request: web.Request,
    event: Event,
    *,
    status: int = 200,
    kind: str = JSON,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Send a body in one piece."""
    exchange = request[EXCHANGE]
    exchange.status = status
    head = _head(exchange, kind) | dict(headers or {})
    response = web.Response(body=event.data, status=status, headers=head)
    exchange.bill([event])
    await response.prepare(request)
    await response.write_eof()
    exchange.deliver([event])
    request.app[MOCK].end(exchange, Ended.COMPLETE)
    return response


async def _send_garbage(
    request: web.Request, behaviour: Behaviour, *, stream: bool
) -> web.StreamResponse:
    kind = EVENTS if stream else JSON
    if behaviour.fault is Fault.GARBAGE_HTML:
        kind = HTML
    return await _send_whole(request, openai.garbage(stream=stream, behaviour=behaviour), kind=kind)


async def _send_body(request: web.Request, body: Event, behaviour: Behaviour) -> web.StreamResponse:
    """Send a plain answer, broken if the behaviour says so."""
    spoilt = spoil_whole(body, behaviour)
    if spoilt is body:
        return await _send_whole(request, body)
    if spoilt.then is not Fault.STALL:
        # The answer was made, and costs, however little of it gets through.
        request[EXCHANGE].bill([body])
    response = web.StreamResponse(headers=_head(request[EXCHANGE], JSON))
    response.content_length = len(body.data)
    return await _play(request, response, iter([spoilt]), behaviour, chunked=False)


async def _send_stream(
    request: web.Request, events: Iterator[Event], behaviour: Behaviour
) -> web.StreamResponse:
    head = _head(request[EXCHANGE], EVENTS) | {"Cache-Control": "no-cache"}
    response = web.StreamResponse(headers=head)
    chunked = request.version >= HttpVersion11
    if chunked:
        response.enable_chunked_encoding()
    else:
        response.force_close()
    return await _play(request, response, events, behaviour, chunked=chunked)


async def _play(
    request: web.Request,
    response: web.StreamResponse,
    events: Iterator[Event],
    behaviour: Behaviour,
    *,
    chunked: bool,
) -> web.StreamResponse:
    """Send a head, then let the pacer write the body straight onto the connection.

    The framing is written there too: aiohttp's writer would take a coroutine for every chunk.
    """
    mock, exchange = request.app[MOCK], request[EXCHANGE]
    exchange.status = 200
    writer = await response.prepare(request)
    if writer is not None:
        writer.send_headers()
    play = Play(
        request.transport,
        events,
        exchange,
        interval=behaviour.chunk_delay_ms / 1000,
        chunked=chunked,
        late=behaviour.late,
    )
    mock.pacer.start(play)
    try:
        ended = await asyncio.shield(play.done) if behaviour.late else await play.done
    except asyncio.CancelledError:
        if behaviour.late and not mock.stopping:
            exchange.leave()
            mock.keep(exchange, play)
        raise
    if ended is Ended.COMPLETE:
        await response.write_eof()
    mock.end(exchange, ended)
    return response
