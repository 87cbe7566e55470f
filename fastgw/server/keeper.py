"""Keeps limits and budgets in Redis: everything that waits in one turn of the loop is one call.

    AWAY --connected, what was lost is said again, reservations are open--> UP
    UP --an answer is late, or the connection ends--> AWAY

While it is away, nobody waits: `deny` refuses, `local` spends the escrow that this worker holds of
each limit and budget, and nothing else, so that together never more is let through than allowed.
What was settled meanwhile, and whatever has no answer, is told afterwards; everything goes by the
reservation's id, so that saying it twice does no harm.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

import structlog

from fastgw._ext import limits
from fastgw.errors import RateLimited, StoreUnavailable
from fastgw.flow.exchange import LoadSpend
from fastgw.flow.limits import Stands
from fastgw.flow.shared import (
    CLOSE,
    EXTEND,
    INHERIT,
    LEASES,
    LOOK,
    PREFIX,
    RENEW,
    RESERVE,
    RETURN,
    SPENT,
    STATE,
    Op,
    meters_of,
    share,
)
from fastgw.server.calls import Ask, Call, Outcome, Seen, undo
from fastgw.storage.redis import HELLO, Address, Link, LinkLost, Refused, find_link

log = structlog.get_logger(__name__)

PATIENCE_S = 0.04
"""How long a reservation waits for Redis: nobody hangs for more than 50 ms."""
_GLANCE_S = 0.004
"""The answer may be there, and it is we who were late: the loop looks once more."""
_DEAD_S = 1.0
"""A connection that says nothing for so long is given up."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_REMEMBERED_S = 5.0
"""Redis with `appendfsync everysec` loses one second; what was acknowledged is kept for this."""
_RENEW_S = 10.0
_ESCROW_S = 590.0
"""Escrow is ours for ten minutes after a renewal (`PLACE_LEASE` of tick.lua), less a margin."""
_WISH_S = 0.1
_SWEEP_S = 1.0
_SHARE = 16
_MOST_ESCROW = 9 * 10**14
_MOST_UNDER_WAY = 8
_MOST_REPLAYED = 500


class Keeper:
    """The keeper of one worker's shared meters."""

    def __init__(
        self,
        address: Address,
        *,
        instance: str,
        place: str,
        workers: int,
        on_failure: Literal["local", "deny"],
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        self._address = address
        self._instance = instance
        self._place = place
        self._workers = workers
        self.on_failure = on_failure
        self._flush_ledger = flush
        """Everything closed so far is in the store when it returns."""
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._up = False
        self._call = Call()
        self._flushing = False
        self._under_way: deque[Call] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._glanced = False
        self._seq = 0
        self._acked: deque[Call] = deque()
        self._owed: list[Op] = []
        """What Redis has to be told as soon as it is back."""
        self._open: dict[str, Op] = {}
        """Reservations, as they would have to be made again."""
        self._alone: set[str] = set()
        """Those made of escrow that Redis has not heard of."""
        self._unsure: set[str] = set()
        """Reservations that were extended, or not."""
        self._epoch = b""
        self.skew_us = 0
        """How far Redis' clock is ahead of ours."""
        self._wish_at = 0.0
        self._renewed_at = 0.0
        self._swept_at = 0.0
        self._lost = asyncio.Event()
        self._came_up = asyncio.Event()
        self._closing = False
        self.refused_alone = 0
        self.said_again = 0
        self.reserved_alone = 0
        self._escrowed: dict[limits.Shared, None] = {}

    # -- what the flow asks ---------------------------------------------------------------------

    @property
    def available(self) -> bool:
        """Whether Redis decides."""
        return self._up

    def reserve(
        self, guard: limits.Guard, id: str, tokens: int, nano: int,  # noqa: A002
        done: Callable[[Outcome | Stands], None],
    ) -> Ask:  # fmt: skip
        """Reserve from all meters of a guard; `done` hears what became of it, never at once."""
        ask = Ask(guard, id, tokens, nano, done)
        if not self._up:
            self._loop.call_soon(self._decide, ask)
            return ask
        call = self._call
        call.asks.append((len(call.ops), ask))
        call.ops.append((RESERVE, id, guard, tokens, str(nano)))
        self._soon()
        return ask

    async def wait(self, guard: limits.Guard, id: str, tokens: int, nano: int) -> Outcome | Stands:  # noqa: A002
        """Reserve, and wait for the outcome; who is cancelled holds nothing."""
        answer: asyncio.Future[Outcome | Stands] = self._loop.create_future()

        def done(outcome: Outcome | Stands) -> None:
            if not answer.done():
                answer.set_result(outcome)
            elif isinstance(outcome, limits.Reservation):
                outcome.release(limits.now_us())

        self.reserve(guard, id, tokens, nano, done)
        return await answer

    async def look(self, guard: limits.Guard, tokens: int = 0, nano: int = 0) -> list[Seen]:
        """Give what Redis knows of each meter of a guard; raises StoreUnavailable."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        if not self._up:
            raise _unavailable()

        def heard(found: Any) -> None:
            if not answer.done():
                answer.set_result(found)

        ask = Ask(guard, "", tokens, nano, heard)
        ask.at = -1
        call = self._call
        call.asks.append((len(call.ops), ask))
        call.ops.append((LOOK, guard, tokens, str(nano)))
        self._soon()
        found = await answer
        if found is None:
            raise _unavailable()
        return [
            Seen(int(left), int(reset), int(wait), int(used), int(taken), int(escrow))
            for left, reset, wait, used, taken, escrow, _ in found
        ]

    def extend(
        self, held: limits.Reservation, tokens: int, nano: int, done: Callable[[bool], None]
    ) -> None:
        """Take more for a reservation that is open; `done` hears whether there was room."""
        if not self._up or held.id in self._alone:
            self._loop.call_soon(self._extend_alone, held, tokens, nano, done)
            return

        def heard(result: Any) -> None:
            if isinstance(result, int) and held.open:
                self._grow(held, tokens, nano)
                done(True)
            else:
                done(False)

        call = self._call
        ask = Ask(held.guard, held.id or "", tokens, nano, heard)
        ask.at = -1
        call.asks.append((len(call.ops), ask))
        call.ops.append(
            (EXTEND, held.id, held.guard, held.at_us, held.tokens, str(held.nano), tokens,
             str(nano))
        )  # fmt: skip
        self._soon()

    def close(
        self, guard: limits.Guard, id: str, at: int, taken: int, taken_nano: int,  # noqa: A002
        requests: int, tokens: int, nano: int, forgone: int,
    ) -> None:  # fmt: skip
        """Take the end of a reservation; it goes out with the next batch, and nobody waits."""
        self._open.pop(id, None)
        if id in self._unsure:
            self._unsure.discard(id)
            at = 0  # Redis knows better how much it holds
        places: list[int] = []
        while forgone:
            lowest = forgone & -forgone
            places.append(lowest.bit_length() - 1)
            forgone ^= lowest
        if id in self._alone:
            self._give_unused(guard, taken - tokens, taken_nano - nano)
        op = (
            CLOSE, id, guard, at, taken, str(taken_nano), requests, tokens, str(nano), places,
        )  # fmt: skip
        if self._up:
            self._call.ops.append(op)
            self._soon()
        else:
            self._owed.append(op)

    def spent(self, meter: limits.Shared, start_us: int, nano: int) -> None:
        """Say what the store knows to be spent of a budget in the period that began then."""
        meter.loaded = True
        if self._up:
            self._call.ops.append((SPENT, meter, start_us, str(nano)))
            self._soon()

    def give_back(self, meter: limits.Meter) -> None:
        """Give back the escrow of a meter that nobody needs."""
        if isinstance(meter, limits.Shared) and self._up and meter.escrow:
            meter.escrow = 0
            self._escrowed.pop(meter, None)
            self._call.ops.append((RETURN, meter))
            self._soon()

    # -- batches --------------------------------------------------------------------------------

    def _soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if not self._up or len(self._under_way) >= _MOST_UNDER_WAY:
            return  # what is answered next sends it
        if self._call.ops:
            self._send_call()

    def _send_call(self) -> None:
        call, self._call = self._call, Call()
        now = self._loop.time()
        if call.asks and self.on_failure == "local" and now >= self._wish_at:
            self._wish_at = now + _WISH_S
            self._add_wishes(call)
        self._send(call, now)

    def _send(self, call: Call, now: float) -> None:
        assert self._link is not None
        self._seq += 1
        call.seq, call.sent_at = self._seq, now
        self._under_way.append(call)
        if self._timer is None:
            self._timer = self._loop.call_later(PATIENCE_S, self._look)
        sweep = now - self._swept_at > _SWEEP_S
        if sweep:
            self._swept_at = now
        self._link.call(
            call.pack(self._instance, self._place, call.seq, sweep=sweep),
            partial(self._heard, call),
        )

    def _heard(self, call: Call, reply: Any) -> None:
        """Take the answer to the oldest batch."""
        if not self._under_way or self._under_way[0] is not call:
            return  # the connection was given up before
        self._under_way.popleft()
        if isinstance(reply, Exception):
            self._doubt(call)
            if not isinstance(reply, LinkLost):
                log.warning("redis_refused", reason=str(reply)[:200])
                self._drop_link()
            return
        now_us = limits.now_us()
        wall_us, results = call.read(reply, now_us)
        self.skew_us = wall_us - now_us
        if call.renews:
            self._renewed_at = call.sent_at
        for place, ask in call.asks:
            self._tell(call, ask, results[place])
        call.reserved += [op for op in call.ops if op[0] == CLOSE]
        self._acked.append(call)
        oldest = call.sent_at - _REMEMBERED_S
        while self._acked[0].sent_at < oldest:
            self._acked.popleft()
        if self._up:
            if self._call.ops and not self._flushing:
                self._send_call()
        elif not self._under_way and self._came_up.is_set():
            self._rise()

    def _tell(self, call: Call, ask: Ask, result: Any) -> None:
        """Tell who waits what became of it."""
        done, ask.done = ask.done, None
        if ask.at < 0:  # an extension
            if done is not None:
                done(result)
            elif isinstance(result, int):
                self._unsure.add(ask.id)
            if isinstance(result, int):
                call.reserved += [op for op in call.ops if op[0] == EXTEND and op[1] == ask.id]
            return
        if not isinstance(result, int):
            if done is not None:
                done(self._why_not(ask, result))
            return
        op = (RESERVE, ask.id, ask.guard, ask.tokens, str(ask.nano), result)
        call.reserved.append(op)
        if done is None:  # decided without Redis meanwhile: what was let through stands here too
            if ask.id not in self._alone:
                self._owed.append(undo(ask))
            return
        self._open[ask.id] = op
        done(ask.guard.admit(ask.id, result, ask.tokens, ask.nano))

    def _why_not(self, ask: Ask, result: list[Any]) -> Any:
        meters = meters_of(ask.guard)
        what = result[0]
        if what == "refused":
            meter = meters[int(result[1])]
            meter.spent = int(result[3])
            return Stands(meter, int(result[2]))
        if what == "missing":
            return LoadSpend(tuple(meters[int(place)] for place in result[1:]))
        self._drop_link()  # it has lost its data, or others still say what they know
        return _unavailable()

    # -- time -----------------------------------------------------------------------------------

    def _look(self) -> None:
        """Look whether the oldest batch waits for too long."""
        self._timer = None
        if not self._under_way:
            return
        waited = self._loop.time() - self._under_way[0].sent_at
        if waited >= _DEAD_S:
            self._drop_link()
            return
        if waited < PATIENCE_S:
            self._glanced = False
            self._timer = self._loop.call_later(PATIENCE_S - waited, self._look)
            return
        if self._up and not self._glanced:
            self._glanced = True
            self._timer = self._loop.call_later(_GLANCE_S, self._look)
            return
        self._glanced = False
        if self._up:
            self._sink("it does not answer")
        self._timer = self._loop.call_later(PATIENCE_S, self._look)

    def _sink(self, why: str) -> None:
        """Do without Redis from now on."""
        self._up = False
        log.warning("redis_away", reason=why, on_failure=self.on_failure)
        for call in self._under_way:
            for _, ask in call.asks:
                self._decide(ask)
        call, self._call = self._call, Call()
        for _, ask in call.asks:
            self._decide(ask)
        self._owed += [op for op in call.ops if op[0] == CLOSE]

    def _rise(self) -> None:
        """Let Redis decide again, after what it has to hear first."""
        if self._owed:
            self._send_owed()
            return
        self._up = True
        log.info("redis_back")

    def _send_owed(self) -> None:
        owed, self._owed = self._owed, []
        for start in range(0, len(owed), _MOST_REPLAYED):
            call = Call()
            call.ops = owed[start : start + _MOST_REPLAYED]
            for op in call.ops:
                if op[0] == RESERVE:
                    call.reserved.append(op)
                    self._alone.discard(op[1])
            self._send(call, self._loop.time())

    def _doubt(self, call: Call) -> None:
        """Take care of a batch of which nobody knows whether it was done."""
        for _, ask in call.asks:
            if ask.at < 0:
                self._unsure.add(ask.id)
            elif ask.id not in self._alone:
                self._owed.append(undo(ask))
            self._decide(ask)
        self._owed += [
            op for op in call.ops if op[0] == CLOSE or (op[0] == RESERVE and len(op) > 5)
        ]

    # -- without Redis --------------------------------------------------------------------------

    def _decide(self, ask: Ask) -> None:
        """Decide for who waits, as far as that can be done here."""
        done, ask.done = ask.done, None
        if done is None:
            return
        if ask.at < 0:
            done(None)
            return
        done(self._reserve_alone(ask))

    def _may_spend(self) -> bool:
        return (
            self.on_failure == "local"
            and self._renewed_at > 0
            and self._loop.time() - self._renewed_at < _ESCROW_S
        )

    def _reserve_alone(self, ask: Ask) -> Outcome:
        if not self._may_spend():
            return _unavailable()
        meters = meters_of(ask.guard)
        for meter in meters:
            if meter.hard and share(meter, ask.tokens, ask.nano) > meter.escrow:
                self.refused_alone += 1
                return RateLimited(
                    "the store of limits is away, and what this server may let through without it"
                    " is used up",
                    retry_after=1.0,
                )
        for meter in meters:
            meter.escrow = max(meter.escrow - share(meter, ask.tokens, ask.nano), 0)
        self._alone.add(ask.id)
        self.reserved_alone += 1
        op = (RESERVE, ask.id, ask.guard, ask.tokens, str(ask.nano), 0)
        self._open[ask.id] = op
        self._owed.append((*op, True))
        return ask.guard.admit(ask.id, 0, ask.tokens, ask.nano)

    def _extend_alone(
        self, held: limits.Reservation, tokens: int, nano: int, done: Callable[[bool], None]
    ) -> None:
        """Extend a reservation of escrow by escrow; Redis hears of it as one with more."""
        counted = [meter for meter in meters_of(held.guard) if meter.metric in {1, 3}]
        if (
            held.id not in self._alone
            or not held.open
            or not self._may_spend()
            or any(m.hard and share(m, tokens, nano) > m.escrow for m in counted)
        ):
            done(False)
            return
        for meter in counted:
            meter.escrow = max(meter.escrow - share(meter, tokens, nano), 0)
        self._grow(held, tokens, nano)
        for place, op in enumerate(self._owed):
            if op[0] == RESERVE and op[1] == held.id:
                self._owed[place] = (*op[:3], held.tokens, str(held.nano), *op[5:])
        done(True)

    def _grow(self, held: limits.Reservation, tokens: int, nano: int) -> None:
        held.tokens += tokens
        held.nano += nano
        op = self._open.get(held.id or "")
        if op is not None:
            self._open[op[1]] = (*op[:3], held.tokens, str(held.nano), *op[5:])

    def _give_unused(self, guard: limits.Guard, tokens: int, nano: int) -> None:
        """Put what was not used of it back into the escrow."""
        for meter in meters_of(guard):
            if meter.metric == 2:
                meter.escrow += 1
            elif meter.metric in {1, 3}:
                meter.escrow = max(meter.escrow + (tokens if meter.metric == 1 else nano), 0)

    def _add_wishes(self, call: Call) -> None:
        """Ask for escrow of the meters that are needed and have little."""
        for _, ask in call.asks:
            for meter in meters_of(ask.guard):
                number = meter.burst or meter.limit
                least = share(meter, ask.tokens, ask.nano)
                wish = max(number // (_SHARE * self._workers), least, 1)
                meter.wish = min(wish, _MOST_ESCROW)
                if meter.escrow * 2 < meter.wish:
                    self._escrowed[meter] = None
                    call.wish(meter)

    # -- the connection -------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        pause = _FIRST_PAUSE_S
        try:
            while True:
                try:
                    await self._connect()
                except (OSError, LinkLost, Refused) as exc:
                    log.info("redis_unreachable", reason=str(exc)[:200] or type(exc).__name__)
                except Exception:
                    log.exception("redis_unreachable")
                else:
                    pause = _FIRST_PAUSE_S
                    await self._renew_until_lost()
                    continue
                self._drop_link()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
        finally:
            self._drop_link()

    async def wait_until_up(self, timeout_s: float) -> None:
        """Wait for the first connection, no longer than so."""
        end = self._loop.time() + timeout_s
        while not self.available and self._loop.time() < end:  # noqa: ASYNC110 - a start waits once
            await asyncio.sleep(0.005)

    async def _renew_until_lost(self) -> None:
        while not self._lost.is_set():
            try:
                async with asyncio.timeout(_RENEW_S):
                    await self._lost.wait()
            except TimeoutError:
                if self._up:
                    self._renew()

    def _renew(self) -> None:
        self._call.ops.append((RENEW,))
        self._call.renews = True
        self._soon()

    async def _connect(self) -> None:
        link = await find_link(self._address)
        self._lost.clear()
        self._came_up.clear()
        self._link = link
        link.lost = lambda: self._link_lost(link)
        hello = await link.ask(
            "EVALSHA", HELLO.sha, 3, STATE, LEASES, f"{PREFIX}open:{self._instance}",
            self._instance, self._place, link.run, "1" if self._epoch else "0",
        )  # fmt: skip
        epoch, seq, opens_us = hello
        self._renewed_at = self._loop.time()
        first, lost = not self._epoch, bool(self._epoch) and epoch != self._epoch
        if first or lost:
            # what is closed is in the store then, and what the store knows counts
            await self._flush_ledger()
            if self._link is not link:
                raise LinkLost("the connection to Redis was lost")
        await self._say_again(first=first, lost=lost, seq=seq)
        self._epoch = epoch
        if opens_us:
            await asyncio.sleep(opens_us / 1e6)
        if self._link is not link:
            raise LinkLost("the connection to Redis was lost")
        self._came_up.set()
        if not self._under_way:
            self._rise()

    async def _say_again(self, *, first: bool, lost: bool, seq: int) -> None:
        """Tell Redis what it does not know any more, or does not know yet."""
        said: list[Op] = []
        if first:
            said.append((INHERIT,))
        elif lost:
            log.warning("redis_lost_everything", open=len(self._open))
            said += [op for op in self._open.values() if op[1] not in self._alone]
            for meter in self._escrowed:
                meter.escrow = 0
        elif seq >= 0 or (self._acked and self._acked[0].seq == 1):
            missing = [call for call in self._acked if call.seq > seq]
            if missing:
                log.warning("redis_lost_batches", batches=len(missing))
            said += [op for call in missing for op in call.reserved]
        self._acked.clear()
        self.said_again += len(said)
        self._owed = said + self._owed
        self._send_owed()
        if self._escrowed and not lost:
            call = Call()
            for meter in self._escrowed:
                call.wish(meter)
            self._send(call, self._loop.time())

    def _link_lost(self, link: Link) -> None:
        if self._link is link:
            self._link = None
            self._lost.set()
            if self._up:
                self._sink("the connection was lost")

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if self._up:
            self._sink("the connection was given up")
        calls, self._under_way = self._under_way, deque()
        for call in calls:
            self._doubt(call)
        if link is not None:
            link.close()
        self._lost.set()

    async def leave(self) -> None:
        """Send what waits, give back all escrow, and wait for the answer."""
        if not self._up:
            return
        for meter in list(self._escrowed):
            self.give_back(meter)
        end = self._loop.time() + _DEAD_S
        while self.available and self._has_work() and self._loop.time() < end:  # noqa: ASYNC110 - an end waits once
            await asyncio.sleep(0.002)

    def _has_work(self) -> bool:
        return bool(self._call.ops or self._under_way)

    # -- telling --------------------------------------------------------------------------------

    def describe(self) -> dict[str, object]:
        """Give what an operator wants to know."""
        money = [meter for meter in self._escrowed if meter.metric == 3]
        return {
            "kept": "redis",
            "available": self._up,
            "on_failure": self.on_failure,
            "open": len(self._open),
            "owed": len(self._owed),
            "escrow_s": max(int(_ESCROW_S - (self._loop.time() - self._renewed_at)), 0)
            if self._renewed_at
            else 0,
            "escrow_meters": len(self._escrowed),
            "escrow_requests": sum(m.escrow for m in self._escrowed if m.metric == 0),
            "escrow_usd": sum(meter.escrow for meter in money) / 1e9,
            "reserved_alone": self.reserved_alone,
            "refused_alone": self.refused_alone,
            "said_again": self.said_again,
            "largest_overshoot_usd": 0,
        }


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("limits and budgets cannot be checked right now", retry_after=1)
