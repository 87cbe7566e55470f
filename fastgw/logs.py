"""The process's own log: one record a line on stderr, JSON or for people, secrets never.

structlog and the libraries' stdlib logging go the same way: a record is joined with what is bound
to the context (`structlog.contextvars.bind_contextvars(request_id=...)`), cleaned, and written. No
text that came from outside can end a line or begin another record.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Protocol, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from fastgw.domain import Secret, UsageRecord, to_builtins, usd

Format = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]

HIDDEN = "…"
_LONGEST_TEXT = 16_384
_DEEPEST = 6
_MOST_ENTRIES = 100
_MOST_FRAMES = 40

_SECRET_NAME = re.compile(
    r"(^|[_.\-])(password|passwd|secret|api[_-]?key|master[_-]?key|private[_-]?key|authorization"
    r"|proxy-authorization|cookie|credentials?|access[_-]?key|token|jwt|dsn)$",
    re.IGNORECASE,
)
_SECRET_TEXT: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(fgw|sk|rk|pk|gsk|xai|hf|ghp|xox[abprs])([-_])[A-Za-z0-9_\-]{8,}"), r"\1\2…"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;]+"), r"\1 …"),
    (re.compile(r"://[^/\s\"'?#]*@"), "://…@"),
    (re.compile(r"\bAIza[0-9A-Za-z_\-]{16,}"), "AIza…"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}"), "AKIA…"),
    (re.compile(r"\beyJ[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*){0,4}"), "eyJ…"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END[A-Z \-]*|\Z)"), HIDDEN),
    (
        re.compile(
            r"(?i)\b((?:x-)?(?:goog-)?api[_-]?key|password|passwd|secret|token|authorization)"
            r"([\"']?\s*[=:]\s*[\"']?)(?!…)[^\s\"'&,;}\])]+"
        ),
        r"\1\2…",
    ),
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LEAST = {
    # Would say again, at 38 us a request, what the usage record says.
    "aiohttp.access": logging.CRITICAL,
    # Tells of every plug-in it loads.
    "alembic": logging.WARNING,
}
"""Loggers of libraries, and from which level on they are heard."""


class Wanted(Protocol):
    """What the configuration says of logs. `auto` writes for people on a terminal, else JSON."""

    @property
    def format(self) -> Format:
        """How a record is written."""

    @property
    def level(self) -> Level:
        """The least level that is written."""


def configure(wanted: Wanted, stream: TextIO | None = None) -> None:
    """Set up all logging of the process; once more for new settings."""
    stream = stream or sys.stderr
    as_json = wanted.format == "json" or (wanted.format == "auto" and not stream.isatty())
    number = logging.getLevelNamesMapping()[wanted.level.upper()]
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    last: Processor = structlog.processors.JSONRenderer() if as_json else _for_people
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _describe_exception if as_json else _summarise_exception,
                clean_event,
                last,
                _one_line,
            ],
        )
    )
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    for name, least in _LEAST.items():
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            *common,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # the level may change with the configuration
    )


def request_line(*, enabled: bool) -> Callable[[UsageRecord], None] | None:
    """Give what logs one line for each request, None unless it was asked for."""
    if not enabled:
        return None
    log = structlog.get_logger("fastgw.request")

    def write(record: UsageRecord) -> None:
        fields = to_builtins(record)
        fields["cost_usd"] = usd(fields.pop("cost_nano"))
        log.info("request", **fields)

    return write


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines; tells of a record that cannot be written without repeating what is in it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        with contextlib.suppress(OSError, ValueError):  # stderr itself is gone
            self.stream.write(f"a log record of {record.module} could not be written\n")


# -- cleaning -----------------------------------------------------------------------------------


def clean_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Take the secrets out of a record and make everything in it plain."""
    first = {
        name: event.pop(name) for name in ("time", "level", "logger", "event") if name in event
    }
    return {str(name): clean(value, str(name)) for name, value in {**first, **event}.items()}


def clean(value: Any, name: str = "", depth: int = 0) -> Any:
    """Give a value without secrets, as numbers, text, lists and maps; `name` is its field's."""
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_NAME.search(name) or isinstance(value, Secret) or depth > _DEEPEST:
        return HIDDEN
    if isinstance(value, Mapping):
        pairs = list(value.items())[:_MOST_ENTRIES]
        return {clean_text(str(key)): clean(each, str(key), depth + 1) for key, each in pairs}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(each, name, depth + 1) for each in list(value)[:_MOST_ENTRIES]]
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return clean_text(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return bytes(value[:_LONGEST_TEXT]).decode(errors="replace")
    return str(value) if isinstance(value, str | BaseException) else repr(value)


def clean_text(text: str) -> str:
    """Take the secrets out of a text by how they look."""
    if len(text) > _LONGEST_TEXT:
        text = text[:_LONGEST_TEXT] + HIDDEN
    for pattern, shown in _SECRET_TEXT:
        text = pattern.sub(shown, text)
    return text


# -- rendering ----------------------------------------------------------------------------------


def _exception_of(event: EventDict) -> BaseException | None:
    given = event.pop("exc_info", None)
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        found: BaseException | None = given[1]
        return found
    return sys.exception() if given else None


def _describe_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put an exception's whole traceback into one field."""
    error = _exception_of(event)
    if error is not None:
        lines = traceback.format_exception(error, limit=-_MOST_FRAMES)
        event["exception"] = "".join(lines)[-_LONGEST_TEXT:]
    return event


def _summarise_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put an exception on the line for people: what, and where, the innermost place first."""
    error = _exception_of(event)
    if error is not None:
        event["error"] = f"{type(error).__name__}: {error}"
        event["at"] = " < ".join(_places(error.__traceback__))
        if error.__cause__ is not None:
            event["because"] = f"{type(error.__cause__).__name__}: {error.__cause__}"
    return event


def _places(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace, limit=-_MOST_FRAMES)
    return [
        f"{'/'.join(frame.filename.rsplit('/', 2)[-2:])}:{frame.lineno} {frame.name}"
        for frame in reversed(frames)
    ]


def _for_people(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    time, level, name, text = (
        str(event.pop(key, "")) for key in ("time", "level", "logger", "event")
    )
    fields = "".join(f" {key}={_quoted(value)}" for key, value in event.items())
    return f"{time[11:23]} {level:<7} {text}{fields}  [{name}]"


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    if text and not re.search(r'[\s"=]', text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _one_line(_logger: WrappedLogger, _method: str, line: Any) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), line)
