"""What a model name asks of the mock: faults, lies, and the shape of the answer. Pure.

A name is `base` or `base?parameter=value&...`. The base is looked up in `NAMED`; any other base is
an honest model. Parameters are read strictly: an unknown, repeated or malformed one is refused, so
that a test never runs against a fault it did not get.

    mock-cut?after=3&chunks=10        three whole content chunks, then half an event, then closed
    gpt-5?delay_ms=10&usage=none      an honest text, paced, that never reports usage

`PARAMETERS` and `NAMED` below are the whole list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from fastgw.mock.options import Options


class Fault(StrEnum):
    """How an answer goes wrong."""

    NONE = "none"
    STALL = "stall"
    """The head and `after` content chunks, then silence until the client leaves."""
    STALL_HEAD = "stall_head"
    """Nothing at all."""
    CUT = "cut"
    """Closed (FIN) inside an event or in the middle of a body, framing unfinished."""
    RESET = "reset"
    """The same by a TCP reset."""
    GARBAGE_HTML = "garbage_html"
    """200 and an HTML page."""
    GARBAGE_JSON = "garbage_json"
    """200 and the right content type, but what should be JSON is not."""
    ERROR_EVENT = "error_event"
    """A stream: `after` content chunks, then an error event, no [DONE]. Plain: 200, error body."""


class UsageMode(StrEnum):
    """What is said about tokens. Plain answers carry usage in every mode but `none`."""

    EXACT = "exact"
    MORE = "more"
    """Twice the truth, plus one."""
    LESS = "less"
    """Half the truth, rounded down."""
    NONE = "none"
    """No usage member anywhere, asked for or not."""
    IN_CONTENT = "in_content"
    """In the last event that has choices; no event of its own. Asked for or not."""
    NULL = "null"
    """`usage: null` everywhere, in the final event with empty choices too."""
    HUGE = "huge"
    """10**18 tokens of each kind."""
    NEGATIVE = "negative"
    """The truth with its sign changed."""
    STRING = "string"
    """The truth as decimal strings."""
    ALWAYS = "always"
    """Exact, in an event of its own even when nobody asked."""
    RUNNING = "running"
    """Exact so far in every content event, and in the final event when asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """One answer's instructions. Delays are milliseconds.

    `after`: whole content chunks before the fault; None means half of them (none for a stall).
    `chunk_bytes`: each word is at least that long. `cached`: prompt tokens reported as cached.
    `status` other than 200 is a refusal in the provider's error shape.
    """

    chunks: int = 20
    chunk_bytes: int = 0
    chunk_delay_ms: float = 0.0
    latency_ms: float = 0.0
    non_ascii: bool = False
    cached: int = 0
    status: int = 200
    retry_after: float | None = None
    fault: Fault = Fault.NONE
    after: int | None = None
    done: bool = False
    usage: UsageMode = UsageMode.EXACT
    ignore_max: bool = False
    late: bool = False
    tools: bool = False


NAMED: dict[str, dict[str, Any]] = {
    "mock": {},
    "mock-tools": {"tools": True},
    "mock-embedding": {},
    "mock-400": {"status": 400},
    "mock-401": {"status": 401},
    "mock-403": {"status": 403},
    "mock-404": {"status": 404},
    "mock-429": {"status": 429, "retry_after": 1.0},
    "mock-500": {"status": 500},
    "mock-502": {"status": 502},
    "mock-503": {"status": 503},
    "mock-stall": {"fault": Fault.STALL},
    "mock-stall-head": {"fault": Fault.STALL_HEAD},
    "mock-cut": {"fault": Fault.CUT},
    "mock-reset": {"fault": Fault.RESET},
    "mock-garbage": {"fault": Fault.GARBAGE_HTML},
    "mock-garbage-json": {"fault": Fault.GARBAGE_JSON},
    "mock-error-event": {"fault": Fault.ERROR_EVENT},
    "mock-slow": {"chunk_delay_ms": 1000.0},
    "mock-usage-more": {"usage": UsageMode.MORE},
    "mock-usage-less": {"usage": UsageMode.LESS},
    "mock-usage-none": {"usage": UsageMode.NONE},
    "mock-usage-in-content": {"usage": UsageMode.IN_CONTENT},
    "mock-usage-null": {"usage": UsageMode.NULL},
    "mock-usage-huge": {"usage": UsageMode.HUGE},
    "mock-usage-negative": {"usage": UsageMode.NEGATIVE},
    "mock-usage-string": {"usage": UsageMode.STRING},
    "mock-usage-always": {"usage": UsageMode.ALWAYS},
    "mock-usage-running": {"usage": UsageMode.RUNNING},
    "mock-ignore-max": {"ignore_max": True},
    "mock-late": {"late": True},
}


class ModelNameError(ValueError):
    """A model name whose parameters cannot be read."""


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
            raise ValueError(f"a whole number within {low}..{high}")
        return int(text)

    return read


def _amount(text: str) -> float:
    if not text.isascii() or not text.replace(".", "", 1).isdigit():
        raise ValueError("a decimal number that is not negative")
    return float(text)


def _flag(text: str) -> bool:
    if text not in {"0", "1"}:
        raise ValueError("0 or 1")
    return text == "1"


def _one_of(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    def read(text: str) -> StrEnum:
        if text not in list(kind):
            raise ValueError("one of " + ", ".join(kind))
        return kind(text)

    return read


PARAMETERS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "chunks": ("chunks", _whole(0, 100_000_000)),
    "chunk_bytes": ("chunk_bytes", _whole(0, 1 << 20)),
    "delay_ms": ("chunk_delay_ms", _amount),
    "latency_ms": ("latency_ms", _amount),
    "non_ascii": ("non_ascii", _flag),
    "cached": ("cached", _whole(0, 10**9)),
    "status": ("status", _whole(400, 599)),
    "retry_after": ("retry_after", _amount),
    "fault": ("fault", _one_of(Fault)),
    "after": ("after", _whole(0, 100_000_000)),
    "done": ("done", _flag),
    "usage": ("usage", _one_of(UsageMode)),
    "ignore_max": ("ignore_max", _flag),
    "late": ("late", _flag),
    "tools": ("tools", _flag),
}
"""Name in a model's parameters -> field of `Behaviour`, reader of its text."""


def base_name(model: str) -> str:
    """Give a model name without its parameters."""
    return model.partition("?")[0]


def read_model(model: str, options: Options) -> Behaviour:
    """Give what a model name asks for, on top of the server's options.

    ModelNameError says which parameter is at fault and what it may be.
    """
    base, mark, text = model.partition("?")
    behaviour = Behaviour(
        chunks=options.chunks,
        chunk_delay_ms=options.chunk_delay_ms,
        latency_ms=options.latency_ms,
    )
    changes = dict(NAMED.get(base, {}))
    seen: set[str] = set()
    for pair in text.split("&") if mark else ():
        name, equals, value = pair.partition("=")
        if name not in PARAMETERS or not equals:
            raise ModelNameError(f"{pair!r} is no parameter: there are {', '.join(PARAMETERS)}")
        if name in seen:
            raise ModelNameError(f"parameter {name} occurs twice")
        seen.add(name)
        field, read = PARAMETERS[name]
        try:
            changes[field] = read(value)
        except ValueError as error:
            raise ModelNameError(f"parameter {name} must be {error}, not {value!r}") from error
    return replace(behaviour, **changes)


def fault_after(behaviour: Behaviour, chunks: int) -> int:
    """Give how many whole content chunks of `chunks` precede the fault."""
    if behaviour.after is not None:
        return behaviour.after
    return 0 if behaviour.fault is Fault.STALL else max(1, chunks // 2)
