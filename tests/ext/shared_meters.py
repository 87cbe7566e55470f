"""The meters that Redis keeps, with the names and manners of `fastgw._ext.limits`.

One suite of properties so holds both to the same. Times are the test's: the scripts' clock is
replaced by what the batch says.
"""

from __future__ import annotations

import itertools
import socket
from types import SimpleNamespace
from urllib.parse import urlsplit

import hiredis

from fastgw._ext import estimate, limits
from fastgw.flow.rules import Rule
from fastgw.flow.shared import CLOSE, EXTEND, LOOK, RESERVE, SPENT, Batch, make_meter
from fastgw.storage.redis.scripts import TICK, Script

CLOCK = """  local time = call('TIME')
  return time[1] * 1000000 + time[2]
"""
SECOND = 1_000_000
numbers = itertools.count(1)


class Keeper:
    """Asks Redis one thing at a time, and waits."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        assert CLOCK in TICK.text
        self.script = Script(TICK.text.replace(CLOCK, "  return tonumber(ARGV[2])\n"))
        self._call(hiredis.pack_command(("SCRIPT", "LOAD", self.script.text)))
        self._call(hiredis.pack_command(("HSET", "{fgw}:state", "opens", "0")))
        self.now = 0
        self.name = f"i{next(numbers)}"

    def ask(self, now, *op, wishes=()):
        """Do one thing."""
        self.now = now
        batch = Batch()
        batch.ops.append(op)
        for meter in wishes:
            batch.wish(meter)
        command = batch.pack(self.name, "here", next(numbers), self.script)
        time = str(now).encode()
        count, rest = command.split(b"\r\n", 1)
        reply = self._call(b"*%d\r\n%b$%d\r\n%b\r\n" % (int(count[1:]) + 1, rest, len(time), time))
        _, (result,) = batch.read(reply, now)
        return result

    def leave(self):
        """Close the connection."""
        self._socket.close()

    def _call(self, command):
        self._socket.sendall(command)
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65536))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self, guard, name, at, taken, taken_nano, requests, tokens, nano, forgone):
        """Take the end of a reservation, as the compiled part says it."""
        if self._socket.fileno() < 0:
            return  # the test is over, and what it held goes
        places = [place for place in range(64) if forgone >> place & 1]
        self.ask(
            self.now, CLOSE, name, guard, at, taken, str(taken_nano), requests, tokens, str(nano),
            places,
        )  # fmt: skip


class Meter:
    """One meter, looked at through a guard of its own."""

    def __init__(self, keeper, rule):
        self.keeper = keeper
        self.shared = make_meter(rule, f"v{next(numbers)}")
        self.alone = limits.Guard((self.shared,))

    def _look(self, now, tokens=0, nano=0):
        (seen,) = self.keeper.ask(now, LOOK, self.alone, tokens, str(nano))
        return seen

    def remaining(self, now):
        return int(self._look(now)[0])

    def reset_us(self, now):
        return int(self._look(now)[1])

    def retry_us(self, now, amount):
        money = self.shared.metric == 3
        return int(self._look(now, 0 if money else amount, amount if money else 0)[2])

    def idle(self, now):
        _, reset, _, _, open_, _, _ = self._look(now)
        if self.shared.metric == 3:
            return open_ == "0"
        return not reset

    @property
    def limit(self):
        return self.shared.limit

    @limit.setter
    def limit(self, value):
        self.shared.limit = value

    @property
    def burst(self):
        return self.shared.burst

    @burst.setter
    def burst(self, value):
        self.shared.burst = value


class Slots(Meter):
    @property
    def taken(self):
        return int(self._look(self.keeper.now)[4])


class Budget(Meter):
    @property
    def spent(self):
        return int(self._look(self.keeper.now)[3])

    @spent.setter
    def spent(self, nano):
        start = int(self._look(self.keeper.now)[6])
        self.keeper.ask(self.keeper.now, SPENT, self.shared, start, str(nano))

    @property
    def reserved(self):
        return int(self._look(self.keeper.now)[4])

    def starts_us(self, now):
        return int(self._look(now)[6])


class Reservation:
    """As the flow holds it; time is told first."""

    def __init__(self, keeper, held):
        self._keeper = keeper
        self._held = held
        self.at_us = held.at_us

    @property
    def open(self):
        return self._held.open

    def settle(self, now, tokens, nano):
        self._keeper.now = now
        self._held.settle(now, tokens, nano)

    def release(self, now):
        self._keeper.now = now
        self._held.release(now)

    def forgo(self, index, now):
        self._held.forgo(index, now)

    def extend(self, now, tokens, nano):
        held = self._held
        if not held.open:
            return False
        result = self._keeper.ask(
            now, EXTEND, held.id, held.guard, held.at_us, held.tokens, str(held.nano),
            tokens, str(nano),
        )  # fmt: skip
        if not isinstance(result, int):
            return False
        held.tokens += tokens
        held.nano += nano
        return True


class Guard:
    """Asks for all its meters at once."""

    def __init__(self, meters):
        self.meters = tuple(dict.fromkeys(meters))
        self.guard = limits.Guard(tuple(meter.shared for meter in self.meters))
        self.wants_tokens, self.wants_money = self.guard.wants_tokens, self.guard.wants_money
        self.keeper = self.meters[0].keeper if self.meters else None
        self.guard.keeper = self.keeper

    def reserve(self, now, tokens, nano):
        if self.keeper is None:
            return Reservation(SimpleNamespace(), self.guard.reserve(now, tokens, nano))
        name = f"r{next(numbers)}"
        result = self.keeper.ask(now, RESERVE, name, self.guard, tokens, str(nano))
        if isinstance(result, list) and result[0] == "missing":
            for index in result[1:]:
                self.meters[index].spent = 0  # what the store would say
            result = self.keeper.ask(now, RESERVE, name, self.guard, tokens, str(nano))
        if not isinstance(result, int):
            assert result[0] == "refused", result
            return None
        return Reservation(self.keeper, self.guard.admit(name, result, tokens, nano))

    def refusal(self, now, tokens, nano):
        if self.keeper is None:
            return None, 0
        seen = self.keeper.ask(now, LOOK, self.guard, tokens, str(nano))
        worst, longest = None, 0
        for meter, (_, _, wait, *_) in zip(self.meters, seen, strict=True):
            if wait and longest != -1 and (wait == -1 or wait > longest):
                worst, longest = meter, wait
        return worst, longest

    def fields(self, now):
        if self.keeper is not None:
            self.keeper.ask(now, LOOK, self.guard, 0, "0")
        return self.guard.fields(now)


class Build:
    """What the suite calls a build."""

    name = "redis"

    def __init__(self, url):
        self.keeper = keeper = Keeper(url)
        self.estimate = estimate
        rules = itertools.count(1)

        def rule(metric, limit, **fields):
            return Rule(
                id=f"lim_{next(rules)}", scope="global", metric=metric, limit=limit, **fields
            )

        def window(limit, window_us, metric="requests"):
            return Meter(keeper, rule(metric, limit, window_s=window_us / SECOND))

        def bucket(rate, window_us, burst, metric="requests"):
            made = rule(
                metric, rate, window_s=window_us / SECOND, algorithm="token_bucket", burst=burst
            )
            return Meter(keeper, made)

        def slots(limit):
            return Slots(keeper, rule("concurrent", limit))

        def budget(limit, period, hard=True):
            return Budget(keeper, rule("money", limit, period=period, hard=hard))

        self.limits = SimpleNamespace(
            Window=window, Bucket=bucket, Slots=slots, Budget=budget, Guard=Guard,
            Tariff=limits.Tariff, now_us=limits.now_us,
        )  # fmt: skip

    def __repr__(self):
        return self.name
