"""What is sent on one connection, and what came back, with everything that may differ masked."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any
from urllib.parse import urlsplit

from tests.answers import Answer, Answers

PATIENCE_S = 10.0
"""How long an answer may take before it counts as never given."""
PROBE = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
_MASKED = {"date", "x-fastgw-id", "x-fastgw-upstream-request-id"}
_SEGMENT_S = 0.0005
"""Between two pieces, so that the server is likely to read them apart."""


def placeholder(name: str) -> str:
    """Give the text that stands for a key until it has been created; it is as long as a key."""
    return f"fgw-{name:_<49}"


@dataclass(frozen=True)
class Turn:
    """Bytes to send, and how many answers to wait for before the next turn."""

    pieces: tuple[bytes, ...]
    answers: int = 1
    methods: tuple[str, ...] = ("POST",)
    interim: bool = False
    """Wait for a 100 after the first piece."""
    leave_after: bytes | None = None
    """Drop the connection as soon as the answer's body holds this."""


@dataclass(frozen=True)
class Case:
    """One connection's worth of turns; `statuses` is what the contract wants answered."""

    name: str
    turns: tuple[Turn, ...]
    statuses: tuple[int, ...] | None = None
    quiet_s: float = 0.0
    """For bytes that may get any number of answers: listen until nothing came for so long."""


@dataclass
class Outcome:
    """What a client saw. Two lanes must give equal outcomes."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)
    ending: str = ""
    """alive, closed, reset or silent: the connection after the last turn."""
    fault: str = ""

    def unlike(self, other: Outcome) -> str:
        """Say where another outcome differs, without what is equal."""
        told = [
            f"{name}: {getattr(self, name)!r} / {getattr(other, name)!r}"
            for name in ("statuses", "interim", "ending", "fault")
            if getattr(self, name) != getattr(other, name)
        ]
        for one, two in zip(self.answers, other.answers, strict=False):
            told += [f"{key}: {one[key]!r} / {two[key]!r}" for key in one if one[key] != two[key]]
        return "\n    ".join(told)

    @property
    def statuses(self) -> tuple[int, ...]:
        """The statuses of all answers but that of the probe."""
        return tuple(answer["status"] for answer in self.answers)


def masked(answer: Answer) -> dict[str, Any]:
    """Give an answer without ids and dates. Header order says nothing (RFC 9110 §5.3)."""
    ours = answer.header("x-fastgw-id")
    headers = []
    for name, value in answer.headers:
        made = name == "x-request-id" and (value == ours or value.startswith("req_"))
        headers.append((name, "*" if made or name in _MASKED else value))
    return {
        "status": answer.status,
        "headers": sorted(headers),
        "body": bytes(answer.body),
        "whole": answer.whole,
    }


class _Wire:
    """One client connection to the gateway."""

    def __init__(self, url: str, methods: Sequence[str], patience: float) -> None:
        parts = urlsplit(url)
        self.sock = socket.create_connection((parts.hostname, parts.port), timeout=patience)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = Answers(methods)
        self.patience = patience
        self.ending = ""

    def send(self, pieces: Sequence[bytes]) -> None:
        try:
            for number, piece in enumerate(pieces):
                if number:
                    time.sleep(_SEGMENT_S)
                self.sock.sendall(piece)
        except (ConnectionError, TimeoutError):
            pass  # the server answered and closed before it had read all: the answer tells

    def receive(self, timeout: float) -> bool:
        """Take what comes next; False when nothing will come or nothing came in time."""
        self.sock.settimeout(max(timeout, 0.001))
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            self.ending = "silent"
            return False
        except ConnectionError:
            self.ending = "reset"
            return False
        if not data:
            self.ending = "closed"
            self.reader.end()
            return False
        self.reader.feed(data)
        return True

    def until(self, count: int) -> bool:
        """Wait for so many complete answers."""
        deadline = time.monotonic() + self.patience
        while sum(answer.whole for answer in self.reader.answers) < count:
            if self.reader.fault or not self.receive(deadline - time.monotonic()):
                return False
        return True


def play(case: Case, url: str, patience: float = PATIENCE_S) -> Outcome:
    """Run a case on a connection of its own."""
    methods = [
        method for turn in case.turns for method in islice(cycle(turn.methods), turn.answers)
    ]
    wire = _Wire(url, [*methods, "GET"], patience)
    with wire.sock:
        going = all(_turn(case, wire, turn) for turn in case.turns)
        if going:
            _probe(case, wire)
        answers = wire.reader.answers
        if wire.ending == "alive":
            answers = answers[:-1]
        return Outcome(
            [masked(answer) for answer in answers],
            wire.reader.interim,
            wire.ending,
            wire.reader.fault,
        )


def _turn(case: Case, wire: _Wire, turn: Turn) -> bool:
    done = len(wire.reader.answers)
    if turn.interim:
        wire.send(turn.pieces[:1])
        deadline = time.monotonic() + wire.patience
        while not wire.reader.interim and not wire.reader.answers:
            if not wire.receive(deadline - time.monotonic()):
                return False
        wire.send(turn.pieces[1:])
    else:
        wire.send(turn.pieces)
    if case.quiet_s:
        while not wire.reader.fault and wire.receive(case.quiet_s):
            pass
        return False
    if turn.leave_after is not None:
        while not any(turn.leave_after in answer.body for answer in wire.reader.answers):
            if not wire.receive(wire.patience):
                return False
        wire.ending = "left"
        wire.reader.answers[-1].body[:] = b""  # how much had come by then is chance
        return False
    return wire.until(done + turn.answers)


def _probe(case: Case, wire: _Wire) -> None:
    """See whether the connection serves another request, as its last answer says."""
    answers = wire.reader.answers
    if answers and answers[-1].closes:
        while wire.receive(wire.patience):
            pass
        return
    wire.send([PROBE])
    if wire.until(len(answers) + 1):
        wire.ending = "alive"
    elif wire.ending == "reset":
        wire.ending = "closed"  # the probe met a connection that was ended before it came
