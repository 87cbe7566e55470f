"""One piece of an answer's body with what it is worth, and what faults do to a run of them. Pure.

Wire formats produce events; whoever sends them neither knows nor cares which format it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from itertools import chain
from typing import Any, NamedTuple

from fastgw.mock.behaviour import Behaviour, Fault, fault_after

BREAKS = frozenset({Fault.STALL, Fault.CUT, Fault.RESET})


class Ended(StrEnum):
    """How an exchange ended, as the log says it."""

    COMPLETE = "complete"
    CLIENT_GONE = "client_gone"
    CUT = "cut"
    RESET = "reset"
    STOPPED = "stopped"
    """The server was stopped."""
    FAILED = "failed"
    """A defect of the mock itself."""


class Event(NamedTuple):
    """Bytes that are written together.

    `tokens`: completion tokens they carry; more than none makes it a content chunk. `paced`: waits
    for the chunk delay. `usage`: what they report, as on the wire. `then`: what follows them when
    the answer does not simply go on; STALL is silence.
    """

    data: bytes
    tokens: int = 0
    paced: bool = False
    usage: Any = None
    then: Ended | Fault | None = None


def spoil(events: Iterator[Event], behaviour: Behaviour, chunks: int) -> Iterator[Event]:
    """Break a run of events where the behaviour says so; `chunks` is its number of content chunks.

    The last event of a run ([DONE]) never gets through, however late the fault. What is cut is
    worth no token: the client cannot have read it.
    """
    if behaviour.fault not in BREAKS:
        yield from events
        return
    left = fault_after(behaviour, chunks)
    held = next(events)
    for event in events:
        if left == 0:
            break
        yield held
        left -= 1 if held.tokens else 0
        held = event
    yield _last(held, behaviour.fault)


def fail(
    events: Iterator[Event], behaviour: Behaviour, chunks: int, error: bytes
) -> Iterator[Event]:
    """Let a stream end in an error event after some content; its last event follows on demand."""
    left = fault_after(behaviour, chunks)
    held = next(events)
    for event in events:
        if left == 0:
            break
        yield held
        left -= 1 if held.tokens else 0
        held = event
    yield Event(error)
    if behaviour.done:
        yield deque(chain((held,), events), maxlen=1).pop()


def spoil_whole(body: Event, behaviour: Behaviour) -> Event:
    """Break a body that is sent in one piece."""
    if behaviour.fault not in BREAKS:
        return body
    return _last(body, behaviour.fault)


def _last(event: Event, fault: Fault) -> Event:
    if fault is Fault.STALL:
        return Event(b"", then=Fault.STALL)
    then = Ended.CUT if fault is Fault.CUT else Ended.RESET
    return Event(event.data[: len(event.data) // 2], paced=event.paced, then=then)
