"""One record a line, whatever stands in it; no secret, wherever it stands."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings

import pytest
import structlog

from fastgw import logs
from fastgw.config.schema import Logs
from fastgw.domain import Secret, UsageRecord
from tests.corpora import shared

CANARY = "fgw-Zq7canary0123456789abcdefghijklmnopqrstuv"


@pytest.fixture
def stream():
    """A stream for the log; logging is put back afterwards."""
    root = logging.getLogger()
    level = root.level
    yield io.StringIO()
    for handler in [each for each in root.handlers if type(each).__module__ == "fastgw.logs"]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def fail(text, cause=None):
    raise ValueError(text) from cause


def records(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# -- worst days ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "text",
    [
        'x\n{"level": "error", "event": "forged"}',
        "x\r\nforged",
        "x\x1b[2J\x1b]0;title\x07",
        "x\u2028forged\u2029\x85",
        "\u202eforged",
        "\x00",
        "\udcff",
    ],
)
def test_no_text_makes_a_second_line(stream, form, text):
    """Line ends and terminal controls from outside are written as escapes, in every place."""
    logs.configure(Logs(format=form, level="info"), stream)
    log = structlog.get_logger("t")
    log.info(text, field=text, nested=[{text: text}])
    logging.getLogger("lib").warning("said %s", text)
    try:
        fail(text)
    except ValueError:
        log.exception("failed")
    written = stream.getvalue()
    assert written.count("\n") == 3
    assert written.endswith("\n")
    body = written.replace("\n", "")
    assert all(char.isprintable() or char == " " for char in body), repr(body)
    written.encode()


@pytest.mark.parametrize("form", ["json", "console"])
def test_naughty_strings(stream, form):
    """515 hostile strings: as many lines, each readable."""
    strings = json.loads((shared("naughty_strings") / "blns.json").read_text())
    logs.configure(Logs(format=form, level="info"), stream)
    log = structlog.get_logger("t")
    for text in strings:
        log.info("said", text=text)
    lines = stream.getvalue().split("\n")[:-1]
    assert len(lines) == len(strings)
    if form == "json":
        assert all(json.loads(line)["event"] == "said" for line in lines)


class Leaky:
    def __repr__(self):
        return f"Leaky({CANARY})"


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": "9f8e7d6c-5b4a3210fedc"},
        {"x-api-key": "9f8e7d6c-5b4a3210fedc"},
        {"headers": {"Authorization": "9f8e7d6c-5b4a3210fedc"}},
        {"headers": [("a", {"cookie": "9f8e7d6c-5b4a3210fedc"})]},
        {"master_key": b"9f8e7d6c-5b4a3210fedc"},
        {"password": 3141592653589793},
        {"credentials": {"id": "9f8e7d6c-5b4a3210fedc"}},
        {"anything": Secret("9f8e7d6c-5b4a3210fedc")},
        {"anything": [Secret("9f8e7d6c-5b4a3210fedc")]},
        {"anything": {"deep": {"er": Secret("9f8e7d6c-5b4a3210fedc")}}},
        {"text": f"key {CANARY} refused"},
        {"text": CANARY.encode()},
        {"text": Leaky()},
        {"text": ValueError(CANARY)},
        {"text": {CANARY: 1}},
        {"text": f"Bearer {CANARY[4:]}"},
        {"text": "authorization: 9f8e7d6c-5b4a3210fedc"},
        {"text": '{"api_key": "9f8e7d6c-5b4a3210fedc"}'},
        {"text": "https://h/p?api_key=9f8e7d6c-5b4a3210fedc&x=1"},
        {"url": "postgresql://fastgw:9f8e7d6c-5b4a3210fedc@db:5432/x"},
        {"url": "redis://:9f8e7d6c-5b4a@3210fedc@h/0"},
        {"text": "sk-ant-api03-plainazure9f8e7d6c5b4a"},
        {"text": "AIzaSyPlainAzure9f8e7d6c5b4a0123456"},
        {"text": "eyJhbGciOiJIUzI1NiJ9.plainAzure9f8e7d6c5b4a.signature01234"},
    ],
    ids=str,
)
def test_secrets_never(stream, form, fields):
    """By the field's name, by the value's looks, by its type: nowhere are 8 characters of it."""
    logs.configure(Logs(format=form, level="info"), stream)
    structlog.get_logger("t").info("event", **fields)
    secrets = (CANARY[4:], "9f8e7d6c-5b4a3210fedc", "3141592653589793", "PlainAzure9f8e7d6c5b4a")
    secrets += (
        "plainazure9f8e7d6c5b4a",
        "plainAzure9f8e7d6c5b4a",
        "signature01234",
        "9f8e7d6c-5b4a",
    )
    written = stream.getvalue()
    assert "event" in written
    for secret in secrets:
        for start in range(len(secret) - 7):
            assert secret[start : start + 8] not in written


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_in_messages_and_exceptions(stream, form):
    """A secret in a library's message or in an exception's text and cause is taken out too."""
    logs.configure(Logs(format=form, level="info"), stream)
    logging.getLogger("lib").error("cannot use %s", CANARY)
    structlog.get_logger("t").error("cannot use %s", CANARY)
    try:
        fail(f"redis://u:{CANARY}@h failed", KeyError(CANARY))
    except ValueError:
        structlog.get_logger("t").exception("failed")
        logging.getLogger("lib").exception("failed")
    written = stream.getvalue()
    assert written.count("\n") == 4
    assert "canary" not in written
    assert "ValueError" in written


def test_unprintable_record_repeats_nothing(stream, capsys, monkeypatch):
    """A record whose arguments do not fit is told of, not printed with its arguments."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own would raise
    logs.configure(Logs(format="json", level="info"), stream)
    logging.getLogger("lib").info("%d", CANARY)
    assert "could not be written" in stream.getvalue()
    assert "canary" not in stream.getvalue() + capsys.readouterr().err


def test_closed_stream_harms_nobody(stream):
    """When stderr is gone, logging goes quiet and the caller goes on."""
    logs.configure(Logs(format="json", level="info"), stream)
    stream.close()
    structlog.get_logger("t").info("event")


def test_endless_structures(stream):
    """Cycles, depth and size are bounded."""
    logs.configure(Logs(format="json", level="info"), stream)
    loop: list = []
    loop.append(loop)
    structlog.get_logger("t").info("x", loop=loop, many=list(range(10_000)), long="y" * 1_000_000)
    assert len(stream.getvalue()) < 20_000


# -- what a record holds ------------------------------------------------------------------------


def test_json_record(stream):
    """Time, level, logger and event come first; numbers stay numbers; JSON stays JSON."""
    logs.configure(Logs(format="json", level="info"), stream)
    structlog.get_logger("fastgw.flow").warning(
        "slow", ms=1.5, n=3, ok=True, none=None, nan=float("nan"), input_tokens=7, text="ü"
    )
    (record,) = records(stream)
    assert list(record)[:4] == ["time", "level", "logger", "event"]
    assert (record["level"], record["logger"], record["event"]) == (
        "warning",
        "fastgw.flow",
        "slow",
    )
    assert (record["ms"], record["n"], record["ok"], record["none"]) == (1.5, 3, True, None)
    assert (record["nan"], record["input_tokens"], record["text"]) == ("nan", 7, "ü")
    assert record["time"].endswith("Z")


def test_console_record(stream):
    """For people: time, level, event, fields, logger."""
    logs.configure(Logs(format="console", level="info"), stream)
    structlog.get_logger("fastgw.flow").info("slow", ms=3, text='a "b"', empty="")
    line = stream.getvalue()
    assert line[12:] == ' info    slow ms=3 text="a \\"b\\"" empty=""  [fastgw.flow]\n'


@pytest.mark.parametrize(("is_terminal", "form"), [(True, "console"), (False, "json")])
def test_auto(stream, monkeypatch, is_terminal, form):
    """`auto` writes for people on a terminal, JSON elsewhere."""
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    logs.configure(Logs(format="auto", level="info"), stream)
    structlog.get_logger("t").info("event")
    assert stream.getvalue().startswith("{") == (form == "json")


def test_level(stream):
    """Less than the level is not written, from structlog and stdlib alike; it can be changed."""
    logs.configure(Logs(format="json", level="warning"), stream)
    log = structlog.get_logger("t")
    log.info("no")
    logging.getLogger("lib").info("no")
    log.warning("yes")
    logs.configure(Logs(format="json", level="debug"), stream)
    log.debug("now")
    logging.getLogger("lib").debug("now")
    assert [record["event"] for record in records(stream)] == ["yes", "now", "now"]


def test_configured_twice_writes_once(stream):
    """Setting up again replaces, it does not add."""
    logs.configure(Logs(format="json", level="info"), stream)
    logs.configure(Logs(format="json", level="info"), stream)
    structlog.get_logger("t").info("event")
    assert len(records(stream)) == 1


async def test_request_id_is_bound_to_the_context(stream):
    """What is bound in one task stands on its records and on nobody else's, libraries' too."""
    logs.configure(Logs(format="json", level="info"), stream)

    async def serve(name):
        structlog.contextvars.bind_contextvars(request_id=name)
        await asyncio.sleep(0)
        structlog.get_logger("t").info("one")
        logging.getLogger("lib").warning("two")

    await asyncio.gather(serve("a"), serve("b"))
    structlog.get_logger("t").info("three", request_id="explicit")
    found = {(record["event"], record.get("request_id")) for record in records(stream)}
    assert found == {
        ("one", "a"), ("one", "b"), ("two", "a"), ("two", "b"), ("three", "explicit"),
    }  # fmt: skip


def test_libraries_and_warnings(stream):
    """Loggers of aiohttp, asyncio and alembic, and warnings, come through; access lines do not."""
    logs.configure(Logs(format="json", level="info"), stream)
    for name in ("aiohttp.server", "asyncio", "alembic.runtime.migration"):
        logging.getLogger(name).warning("from %s", name)
    logging.getLogger("aiohttp.access").info("GET /")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)
    found = [record["logger"] for record in records(stream)]
    assert found == ["aiohttp.server", "asyncio", "alembic.runtime.migration", "py.warnings"]


# -- one line a request -------------------------------------------------------------------------


def usage_record():
    return UsageRecord(
        id="fgx_1", request_id="r\n1", created_at=1, key_id="k", user_id=None, team_id=None,
        org_id=None, tags={"team": "a"}, endpoint="chat_completions", requested_model="m",
        provider="p", upstream_model="u", status=200, attempts=1, stream=True, input_tokens=1,
        output_tokens=2, cached_tokens=0, cache_write_tokens=0, reasoning_tokens=0,
        cost_nano=1_250_000, usage_source="reported", duration_ms=3, ttft_ms=1, overhead_us=20,
        error_code=None,
    )  # fmt: skip


def test_request_line(stream):
    """With `logs.requests`, one line with the usage record's fields."""
    logs.configure(Logs(format="json", level="info"), stream)
    write = logs.request_line(enabled=True)
    write(usage_record())
    (record,) = records(stream)
    assert record["event"] == "request"
    assert (record["id"], record["request_id"]) == ("fgx_1", "r\n1")
    assert (record["cost_usd"], record["status"], record["tags"]) == ("0.00125", 200, {"team": "a"})
    assert "cost_nano" not in record


def test_no_request_line_unless_asked():
    """Without it there is nothing to call."""
    assert logs.request_line(enabled=False) is None
