"""The standard lane: drives the stages of the flow for one aiohttp request.

No policy lives here. What it adds is I/O: reading the body, fetching what a stage waits for, moving
the provider's bytes to the client, and noticing that the client has left.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from copy import copy
from typing import Any

import structlog
from aiohttp import web

from fastgw._ext import http1, limits, sse
from fastgw._ext.killpoints import reach
from fastgw.catalog import families
from fastgw.config.schema import Stream
from fastgw.domain import Deployment, Principal, Timeouts, usd
from fastgw.errors import (
    BodyTooLarge,
    ClientGone,
    Draining,
    GatewayError,
    InternalError,
    NoDeploymentAvailable,
    StoreUnavailable,
    UnsupportedMediaType,
    UpstreamFault,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from fastgw.flow.accept import accept
from fastgw.flow.account import account, close_line, count, is_dry, is_uncounted, open_line
from fastgw.flow.admit import admit
from fastgw.flow.authenticate import authenticate
from fastgw.flow.context import Context
from fastgw.flow.exchange import COUNT_TOKENS, Exchange, KeepDecision, Wait
from fastgw.flow.explain import asks_dry, begin, decide
from fastgw.flow.idempotency import HEADER, Claim, claim_of
from fastgw.flow.ledger import note_more
from fastgw.flow.plan import leave_plan, leave_refusal
from fastgw.flow.relay import SERVER, Answer, signature, visible
from fastgw.flow.route import route, serving
from fastgw.flow.translate import Request, translate
from fastgw.server.carry import Carry
from fastgw.server.idempotency import Idempotency
from fastgw.server.recording import Recording
from fastgw.server.replies import dry_reply, error_reply
from fastgw.server.reply import Answered, Reply
from fastgw.server.tasks import spawn
from fastgw.server.tokenizer import Tokenizer
from fastgw.server.tokenizing import Question
from fastgw.upstream import Pool, Sink
from fastgw.wire import json
from fastgw.wire.shapes import KEEP_ALIVE, shapes

_JSON = "application/json"
_EVENTS = b"content-type: text/event-stream; charset=utf-8\r\n"

_NO_STREAM = "the provider did not answer with a stream"

log = structlog.get_logger(__name__)


class StandardLane:
    """Serves model routes through aiohttp."""

    def __init__(
        self,
        context: Context,
        pool: Pool,
        load: Callable[[Wait], Awaitable[None]],
        *,
        tokenizer: Tokenizer,
        max_body_bytes: int,
        stream: Stream,
        idempotency: Idempotency,
    ) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._idempotency = idempotency
        self._pool = pool
        self._load = load
        self._max_body_bytes = max_body_bytes
        self.stream = stream
        """How silence on a stream is dealt with."""
        self._random = random.Random()  # noqa: S311 - weights, not secrets
        self._live: set[Call] = set()
        self.draining = False
        self.in_flight = 0
        """Exchanges accepted and not yet accounted."""

    def is_busy(self) -> bool:
        """Tell whether an exchange is under way."""
        return self.in_flight > 0

    def end_all(self, error: GatewayError) -> None:
        """End every live exchange with an error: the grace period is over."""
        for call in tuple(self._live):
            call.stop(error)

    async def serve(
        self,
        request: web.Request,
        endpoint: str,
        client_api: str,
        pinned: str | None = None,
        query: str = "",
    ) -> Answered:
        """Serve one model request, whatever becomes of it."""
        context = self._context
        exchange = self._accept(request, endpoint, client_api, pinned)
        exchange.query = query
        reply = Reply(request)
        protocol: Any = request.protocol
        carry: Carry | None = protocol.take_carry()
        if carry is not None:
            exchange.id, exchange.created_at = carry.id, carry.created_at
            exchange.started = carry.started
            exchange.tariff, exchange.reservation = carry.tariff, carry.reservation
            exchange.slices = carry.slices
            exchange.kept = carry.kept
            exchange.guard = carry.reservation.guard if carry.reservation is not None else None
        context.metrics.lane["standard", protocol.reason].add(1)
        serving: Coroutine[Any, Any, Any]
        if carry is None and HEADER in exchange.headers and not asks_dry(exchange.headers):
            serving = self._join(request, reply, exchange)
        else:
            serving = self._serve(request, reply, exchange, carry)
        answered: Answered = await self._see_through(exchange, reply, serving, carry)
        return answered

    async def _see_through(
        self,
        exchange: Exchange,
        reply: Reply | Recording,
        serving: Coroutine[Any, Any, Any],
        carry: Carry | None = None,
    ) -> Any:
        """Give what `serving` answers, or the error that it ends in, and account for it."""
        context = self._context
        self.in_flight += 1
        context.metrics.in_flight.add(1)
        try:
            return await serving
        except GatewayError as error:
            exchange.error = error
            if reply.started:
                close_line(exchange, context)
                return _break_off(reply, exchange, error)
            exchange.status = error.status
            leave_refusal(exchange, context)
            return error_reply(error, exchange)
        except (asyncio.CancelledError, ConnectionError):
            exchange.error = ClientGone("the client left")
            raise
        except Exception as exc:
            log.exception("exchange_failed", id=exchange.id)
            exchange.error = InternalError("something went wrong on our side")
            if exchange.status:  # the head is out: no error can be rendered
                raise ConnectionResetError from exc
            exchange.status = 500
            return error_reply(exchange.error, exchange)
        finally:
            if carry is not None:
                carry.drop()
            self.in_flight -= 1
            context.metrics.in_flight.add(-1)
            account(exchange, context)

    async def identify(self, request: web.Request) -> Principal:
        """Give who calls a route that reaches no model."""
        exchange = self._accept(request, "", "openai")
        await self._authenticate(exchange)
        assert exchange.principal is not None
        return exchange.principal

    def _accept(
        self, request: web.Request, endpoint: str, client_api: str, pinned: str | None = None
    ) -> Exchange:
        exchange = accept(self._context, endpoint, client_api, request.headers, pinned)
        if request.transport is not None:
            peer = request.transport.get_extra_info("peername")
            if peer is not None:  # else the client has left
                exchange.peer = peer[0] if isinstance(peer, tuple) else "unix"
        return exchange

    async def _authenticate(self, exchange: Exchange) -> None:
        while (wait := authenticate(exchange, self._context)) is not None:
            await self._load(wait)

    async def _receive(self, request: web.Request, exchange: Exchange) -> bytes:
        """Find out who calls, and read what they ask."""
        if self.draining:
            raise Draining("the server is shutting down", retry_after=1)
        await self._authenticate(exchange)
        return await self._read_body(request)

    async def _serve(
        self, request: web.Request, reply: Reply, exchange: Exchange, carry: Carry | None
    ) -> Reply | Recording | web.Response:
        body = await self._receive(request, exchange)
        return await self._answer(request, reply, exchange, body, carry)

    async def _join(self, request: web.Request, reply: Reply, exchange: Exchange) -> Reply:
        """Give the one answer there is under an Idempotency-Key; see to it that there is one."""
        body = await self._receive(request, exchange)
        claim = claim_of(exchange, body)
        recording, first = self._idempotency.join(claim)
        if first:
            # It goes on when this client leaves: others may wait for it, or this one ask again.
            spawn(self._record(request, copy(exchange), body, claim, recording), "idempotent")
        exchange.joined = "first" if first else "again"
        label_lines = shapes(exchange.client_api).label_lines(exchange.request_id)
        try:
            await recording.follow(reply, request, label_lines, first=first)
        except GatewayError:
            exchange.joined = ""
            raise
        finally:
            exchange.status = recording.status
            if recording.replayed:
                exchange.joined = "again"
        return reply

    async def _record(
        self,
        request: web.Request,
        exchange: Exchange,
        body: bytes,
        claim: Claim,
        recording: Recording,
    ) -> None:
        """Answer for all who ask under a claim."""
        once = self._idempotency
        try:
            if await once.open(claim, recording):
                answer = self._answer(request, recording, exchange, body, None)
                answered = await self._see_through(exchange, recording, answer)
                if isinstance(answered, web.Response):
                    recording.take(answered)
                await once.settle(claim, recording)
        except GatewayError as error:
            recording.fail(error)
        except ConnectionError:
            await once.settle(claim, recording)  # broken after the head was out, and logged
        finally:
            once.leave(claim, recording)

    async def _answer(
        self,
        request: web.Request,
        reply: Reply | Recording,
        exchange: Exchange,
        body: bytes,
        carry: Carry | None,
    ) -> Reply | Recording | web.Response:
        if begin(exchange) is None:
            await self._admit(exchange, body)
        else:
            decision = await self._explain(exchange, body)
            if is_dry(exchange):
                exchange.status = 200
                return dry_reply(decision, exchange)
        if carry is not None:
            exchange.candidates = first(carry.deployment, exchange.candidates)
        if exchange.endpoint == COUNT_TOKENS and not serving(exchange):
            return await self._count_tokens(exchange, reply)
        return await self._relay(request, reply, exchange, carry)

    async def _relay(
        self,
        request: web.Request,
        reply: Reply | Recording,
        exchange: Exchange,
        carry: Carry | None,
    ) -> Reply | Recording:
        """Ask one deployment after the other, until one answers."""
        context = self._context
        fault: UpstreamFault | None = None
        for deployment in exchange.candidates:
            if fault is not None:
                context.metrics.fallbacks.add(1)
            call = Call(exchange, context, request, reply, self._pool, self.stream)
            try:
                outgoing = translate(exchange, deployment)
                open_line(exchange, context)
                self._live.add(call)
                if carry is not None and carry.deployment == deployment:
                    call.take_over(carry)
                else:
                    call.send(outgoing, deployment.provider.timeouts)
                    if carry is None:  # else what was reserved was decided by an older plan
                        leave_plan(exchange, context, self._pool)
                return await call.answer()
            except UpstreamFault as exc:
                fault = exc
                context.metrics.upstream_error(deployment.provider.name, exc.code)
                if call.delivered or exc.billed:
                    raise
            finally:
                call.close()
                self._live.discard(call)
        raise fault or NoDeploymentAvailable("no deployment is available")

    async def _admit(self, exchange: Exchange, body: bytes) -> None:
        while (wait := admit(exchange, self._context, body)) is not None:
            await self._load(wait)
        route(exchange, self._random)

    async def _explain(self, exchange: Exchange, body: bytes) -> bytes:
        """Decide, and say what was decided; raises a refusal where it is not a dry run."""
        explanation, principal, refused = exchange.explanation, exchange.principal, None
        assert explanation is not None
        assert principal is not None
        try:
            await self._admit(exchange, body)
        except GatewayError as error:
            refused = error
        decision = decide(exchange, refused)
        if explanation.kept:
            try:
                await self._load(KeepDecision(exchange.id, principal.key_id, decision))
            except StoreUnavailable as exc:  # which is no reason to refuse the request
                explanation.kept = False
                log.warning("decision_not_kept", id=exchange.id, reason=exc.message)
        if refused is not None and not explanation.dry:
            raise refused
        return decision

    async def _count_tokens(
        self, exchange: Exchange, reply: Reply | Recording
    ) -> Reply | Recording:
        """Count a prompt for a provider that does not count itself, and say that we did."""
        model, family = exchange.candidates[0].model, exchange.family
        assert family is not None
        asked = families.known(model, exchange.requested_model)
        by = "tokenizer"
        tokens = await self._tokenizer.count(Question("prompt", asked, exchange.body))
        if tokens is None:
            by, tokens = "estimator", family.expect(exchange.prompt_estimate)
            self._context.metrics.dropped["token_counts"].add(1)
        exchange.status = 200
        shape = shapes(exchange.client_api, exchange.endpoint)
        fields = (
            f"server: {SERVER}\r\ncontent-type: {_JSON}\r\nx-fastgw-id: {exchange.id}\r\n"
            f"x-fastgw-model: {visible(model)}\r\nx-fastgw-estimate: {by}\r\n"
        )
        guard = exchange.guard
        limited = guard.fields(limits.now_us()) if guard is not None else b""
        lines = (fields.encode("ascii"), shape.label_lines(exchange.request_id), limited)
        reply.whole(200, b"".join(lines), json.dumps({"input_tokens": tokens}))
        return reply

    async def _read_body(self, request: web.Request) -> bytes:
        headers = request.headers
        if headers.get("content-type") != _JSON and request.content_type != _JSON:
            raise UnsupportedMediaType(f"the body must be {_JSON}")
        if headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedMediaType("the body must not be compressed")
        too_large = f"the body is larger than {self._max_body_bytes} bytes"
        if request.content.is_eof():  # all there: nothing to wait for, no deadline to arm
            body = request.content.read_nowait()
            if len(body) > self._max_body_bytes:
                raise BodyTooLarge(too_large)
            return body
        if (request.content_length or 0) > self._max_body_bytes:
            raise BodyTooLarge(too_large)
        pieces, size = [], 0
        while piece := await request.content.readany():
            size += len(piece)
            pieces.append(piece)
            if size > self._max_body_bytes:
                pieces.clear()  # the error keeps this frame alive for a while
                raise BodyTooLarge(too_large)
        return b"".join(pieces)


def first(wanted: Deployment, deployments: tuple[Deployment, ...]) -> tuple[Deployment, ...]:
    """Give the deployments with the wanted one, if it is still among them, before the others."""
    return tuple(sorted(deployments, key=lambda each: each != wanted))


def _break_off(
    reply: Reply | Recording, exchange: Exchange, error: GatewayError
) -> Reply | Recording:
    """End a stream that cannot go on: said in the client API's shape, and no clean end."""
    shape = shapes(exchange.client_api, exchange.endpoint)
    reply.write(shape.error_event(error, exchange.request_id, exchange.last_events))
    reply.break_off()
    return reply


class Call(Sink):
    """One attempt, seen from the client's side: takes the provider's events, writes the answer.

    Stream bytes go from the upstream callback straight to the client; the coroutine wakes for the
    head, for a client that reads too slowly, and for the end. As a deadline it is the client's
    patience: with a provider that has not begun, then with a stream that says nothing.
    """

    def __init__(
        self,
        exchange: Exchange,
        context: Context,
        request: web.Request,
        reply: Reply | Recording,
        pool: Pool,
        stream: Stream,
    ) -> None:
        super().__init__()
        self._exchange = exchange
        self._context = context
        self._request = request
        self._answer = Answer(exchange)
        self._reply = reply
        self._pool = pool
        self._stream_settings = stream
        self._step_s = 0.0
        self._silent_s = 0.0
        self.delivered = False
        """Whether bytes of the answer are out, so that nobody else can answer any more."""
        self._attempt: Any = None
        self._wake: asyncio.Future[None] | None = None
        self._waiting: list[bytes] = []
        self._numbered = shapes(exchange.client_api, exchange.endpoint).numbered
        self._tail = b""
        self._ended = False
        self._error: GatewayError | None = None
        self._paused = False

    def send(self, outgoing: Request, timeouts: Timeouts) -> None:
        """Start the attempt."""
        record = self._exchange.provider_type
        assert record is not None
        self._attempt = self._pool.send(
            outgoing.target, outgoing.head, outgoing.parts, self, timeouts, record.replay
        )
        self._exchange.sent = time.monotonic_ns()
        if reach is not None:
            reach("after_send")
        self._be_patient()

    def take_over(self, carry: Carry) -> None:
        """Go on with an attempt that the fast lane has begun."""
        self._attempt = carry.attempt
        self._exchange.sent = carry.sent
        self._be_patient()
        carry.take_over(self)

    def close(self) -> None:
        """Let go of the provider; an attempt that has not ended is cancelled."""
        self._pool.deadlines.disarm(self)
        if self._attempt is not None and not self._ended:
            self._ended = True
            self._attempt.cancel()
        self._attempt = None

    def stop(self, error: GatewayError) -> None:
        """End the exchange from our side."""
        if not self._ended:
            if self._attempt is not None:
                self._attempt.cancel()
            self._finish(error)

    # -- silence ---------------------------------------------------------------------------------

    def expired(self) -> None:
        """Give the client a sign of life, or end a stream that was silent for too long."""
        reply, answer = self._reply, self._answer
        if self._ended or (answer.status and not answer.streams) or answer.raw:
            return  # what is not a stream of events is held, or goes through as it comes
        if not reply.started:
            self._exchange.status = answer.status or 200
            reply.begin(self._exchange.status, self._fields())
            self._write(KEEP_ALIVE)
        elif not self._paused:
            self._silent_s += self._step_s
            if self._silent_s >= self._stream_settings.idle_timeout_s:
                self.stop(UpstreamTimeout("the stream was silent for too long", billed=True))
                return
            self._write(KEEP_ALIVE)
        self._arm()

    def _be_patient(self) -> None:
        """Begin to wait for the provider's head."""
        exchange, after = self._exchange, self._stream_settings.commit_after_s
        if self._reply.started:  # an earlier attempt's silence began it
            self._arm()
        elif exchange.stream:
            waited = (time.monotonic_ns() - exchange.started) / 1e9
            self._pool.deadlines.arm(self, after if waited < after else 0.0)

    def _arm(self) -> None:
        """Wait for the next sign of life, or for the end of all patience if that comes first."""
        settings = self._stream_settings
        left = settings.idle_timeout_s - self._silent_s
        self._step_s = min(settings.keepalive_s or left, left)
        self._pool.deadlines.arm(self, self._step_s)

    # -- the sink: called by the upstream connection ---------------------------------------------

    def upstream_head(self, head: http1.Head) -> None:
        """Take the head."""
        self._answer.head(head)

    def upstream_data(self, data: bytes) -> None:
        """Take body bytes; pass on what is whole."""
        try:
            out = self._answer.data(data)
        except sse.EventTooLarge as exc:
            self._pass_on(exc.passed)
            self.stop(UpstreamProtocolError("the provider sent too large an event", billed=True))
        except GatewayError as exc:
            self.stop(exc)
        else:
            note_more(self._exchange, self._context)
            self._pass_on(out)
            if self._answer.cut and not self._ended:
                self._attempt.cancel()
                self._finish(None)

    def upstream_end(self) -> None:
        """Take the clean end."""
        try:
            self._tail = self._answer.end()
        except GatewayError as error:
            self._finish(error)
        else:
            self._finish(None)

    def upstream_failed(self, error: UpstreamFault) -> None:
        """Take the other end."""
        self._finish(error)

    def _pass_on(self, out: bytes | None) -> None:
        if not out:
            return
        if self._numbered:
            self._exchange.last_events = out
        if self.delivered:
            self._write(out)
            self._silent_s = 0.0
            self._arm()
        else:
            self._waiting.append(out)
            self._notify()

    # -- the coroutine ---------------------------------------------------------------------------

    async def answer(self) -> Reply | Recording:
        """Write the answer; raises the fault of an attempt that answered nothing."""
        while not self._ended and not self._waiting:
            await self._woken()
        if not self._waiting:
            if self._error is not None:
                raise self._error
            if not self._answer.streams:
                return self._whole()
        if self._answer.raw and self._reply.started:
            raise UpstreamProtocolError(_NO_STREAM, billed=True)
        return await self._stream()

    def _whole(self) -> Reply | Recording:
        exchange = self._exchange
        if self._reply.started:
            error, exchange.error = exchange.error, None
            raise error or UpstreamProtocolError(_NO_STREAM, billed=True)
        exchange.status = self._answer.status
        if not is_uncounted(exchange):  # else its cost is not known before it has been counted
            count(exchange)
        fields = self._fields()
        if exchange.cost_nano is not None and exchange.error is None:
            fields += b"x-fastgw-cost: %b\r\n" % usd(exchange.cost_nano).encode()
        close_line(exchange, self._context)
        self._reply.whole(exchange.status, fields, self._tail)
        return self._reply

    async def _stream(self) -> Reply | Recording:
        exchange, reply = self._exchange, self._reply
        if not reply.started:
            exchange.status = self._answer.status
            reply.begin(exchange.status, self._fields())
        self.delivered = True
        if not self._answer.raw and not self._ended:
            self._arm()
        for out in self._waiting:
            self._write(out)
        while not self._ended:
            if self._paused:
                await reply.drained(self._request)
                self._paused = False
                if not self._ended:
                    self._attempt.resume()
            else:
                await self._woken()
        if self._error is not None:
            raise self._error
        close_line(exchange, self._context)
        if self._tail:
            reply.write(self._tail)
        reply.end()
        return reply

    def _write(self, data: bytes) -> None:
        try:
            self._reply.write(data)
        except ConnectionResetError:  # aiohttp cancels the handler when it hears of it
            return
        if self._reply.blocked and not self._paused and not self._ended:
            self._paused = True
            self._attempt.pause()
            self._notify()

    def _fields(self) -> bytes:
        exchange = self._exchange
        deployment, explanation = exchange.deployment, exchange.explanation
        assert deployment is not None
        kept = explanation is not None and explanation.kept
        return b"".join(
            (
                self._answer.fields or _EVENTS,
                shapes(exchange.client_api).label_lines(exchange.request_id),
                f"x-fastgw-id: {exchange.id}\r\n".encode("ascii"),
                signature(deployment, exchange.attempts),
                exchange.guard.fields(limits.now_us()) if exchange.guard is not None else b"",
                b"x-fastgw-clamped: max_tokens=%d\r\n" % exchange.clamp
                if exchange.clamp >= 0
                else b"",
                f"x-fastgw-decision: {exchange.id}\r\n".encode("ascii") if kept else b"",
            )
        )

    def _finish(self, error: GatewayError | None) -> None:
        self._ended = True
        self._error = error
        self._pool.deadlines.disarm(self)
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _woken(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None
