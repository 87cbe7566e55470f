"""What is fuzzed: each compiled byte reader beside its plain twin, on the same bytes, cut alike.

A target takes bytes and raises `Disagreement` when the builds differ, when a cut changes what is
read, or when something is accepted that llhttp refuses. The twins are what a fuzzer can see the
inside of (it traces Python), and so they lead it through the compiled code as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType
from typing import Any

import httptools

from fastgw.flow.admit import POLICY_KEYS

Target = Callable[[bytes], None]
LIMIT = 2048
"""Of an SSE event, small enough to be reached."""
_FIELDS = (b"authorization", b"content-type", b"x-api-key", b"x-request-id", b"connection")


class Disagreement(AssertionError):
    """Two readers of the same bytes saw different things."""


def twins(name: str) -> tuple[ModuleType, ModuleType]:
    """Give the compiled module and the plain one."""
    return import_module(f"fastgw._ext._{name}"), import_module(f"fastgw._ext.pure.{name}")


def agree(what: str, one: Any, two: Any) -> None:
    """Raise unless two results are equal."""
    if one != two:
        raise Disagreement(f"{what}: {one!r} / {two!r}")


def cut(data: bytes) -> tuple[bytes, list[bytes]]:
    """Take the first two bytes as the way to cut the rest; give the rest, whole and in pieces."""
    sizes, rest = data[:2], data[2:]
    first = sizes[0] if sizes else 0
    step = (sizes[1] if len(sizes) > 1 else 0) or len(rest) or 1
    edges = [0, *range(first or step, len(rest), step), len(rest)]
    return rest, [rest[a:b] for a, b in pairwise(edges)]


def outcome(work: Callable[[], Any], *errors: type[Exception]) -> Any:
    """Give a result, or what is told by an error that may be raised."""
    try:
        return work()
    except errors as exc:
        told = [type(exc).__name__, str(exc)]
        return [*told, *(getattr(exc, name, None) for name in ("reason", "key", "status"))]


def json_scan(data: bytes) -> None:
    """`scan.top_level`: the same spans or the same refusal, and every span a value of its own."""
    told = [
        outcome(lambda m=module: m.top_level(data, POLICY_KEYS), module.ScanError)
        for module in twins("scan")
    ]
    agree("top_level", *told)


def sse_tap(data: bytes) -> None:
    """`sse.Tap`: the same bytes out and the same facts, in pieces and whole."""
    whole, pieces = cut(data)
    modules = twins("sse")
    for drops in (False, True):
        told = [_tapped(module, pieces, drops) for module in modules]
        agree(f"drop_usage={drops}", *told)
        once = _tapped(modules[0], [whole], drops)
        if "EventTooLarge" not in (once["ended"], told[0]["ended"]):
            agree(f"cut, drop_usage={drops}", once, told[0])
        if not drops and once["ended"] == "":
            agree("bytes", once["out"], whole)


def _tapped(module: ModuleType, pieces: list[bytes], drops: bool) -> dict[str, Any]:
    tap = module.Tap(drop_usage=drops, limit=LIMIT)
    out = b""
    ended = ""
    try:
        for piece in pieces:
            out += tap.feed(piece) or b""
        out += tap.finish()
    except module.EventTooLarge as exc:
        out += exc.passed
        ended = "EventTooLarge"
    names = ("usage", "first_usage", "error", "done", "content_events", "started", "text_tokens")
    return {"out": out, "ended": ended, **{name: getattr(tap, name) for name in names}}


def response_head(data: bytes) -> None:
    """`http1.parse_head`: the same head or both refuse; no head before its end is there."""
    names = ("status", "minor", "headers", "size", "length", "chunked", "keep_alive", "idle_s")
    told = []
    for module in twins("http1"):
        head = outcome(lambda m=module: m.parse_head(data), module.BadHead)
        if isinstance(head, list):
            told.append("refused")
        else:
            told.append(head and [getattr(head, name) for name in names])
    agree("parse_head", *told)
    if isinstance(told[0], list):
        size = told[0][3]
        early = outcome(lambda: twins("http1")[0].parse_head(data[: size - 1]), ValueError)
        agree("before its end", early, None)


def chunk_codec(data: bytes) -> None:
    """`http1.Dechunker`: the same payload, end and excess, however the framing is cut."""
    whole, pieces = cut(data)
    modules = twins("http1")
    told = [_dechunked(module, pieces) for module in modules]
    agree("pieces", *told)
    once = _dechunked(modules[0], [whole])
    if not once["bad"] or not told[0]["bad"]:
        agree("cut", once, told[0])
    if once["done"]:
        body = whole[: len(whole) - len(once["excess"])]
        agree("llhttp", _by_llhttp(body), once["out"])


def _dechunked(module: ModuleType, pieces: list[bytes]) -> dict[str, Any]:
    codec = module.Dechunker()
    out = b""
    bad = False
    excess = b""
    try:
        for piece in pieces:
            if codec.done:
                excess += piece
            else:
                out += b"".join(codec.feed(piece))
    except module.BadChunk:
        bad = True
    excess = (codec.excess if codec.done else b"") + excess
    return {"out": out, "bad": bad, "done": codec.done, "excess": excess}


class _Body:
    """httptools' callback."""

    def __init__(self) -> None:
        self.body = b""

    def on_body(self, data: bytes) -> None:
        self.body += data


def _by_llhttp(framed: bytes) -> bytes | str:
    """Give the payload as llhttp reads it."""
    found = _Body()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + framed
        )
    except httptools.HttpParserError as exc:
        return str(exc)
    return found.body


def request_head(data: bytes) -> None:
    """`request.read`: the same head or the same refusal; llhttp accepts what is accepted."""
    names = ("size", "method", "target", "minor", "length", "chunked", "close", "keep_alive")
    names += ("expect", "upgrade", "fields", "repeated")
    told = []
    for module in twins("request"):
        fields = module.Fields(_FIELDS)
        head = outcome(lambda m=module, f=fields: m.read(data, f), module.BadRequest)
        if head is None or isinstance(head, list):
            told.append(head)
        else:
            values = [head.value(index) for index in range(len(_FIELDS))]
            told.append({**{name: getattr(head, name) for name in names}, "values": values})
    agree("read", *told)
    if isinstance(told[0], dict):
        _check_llhttp(data[: told[0]["size"]], told[0])


def _check_llhttp(head: bytes, told: dict[str, Any]) -> None:
    parser = httptools.HttpRequestParser(_Body())
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as exc:
        raise Disagreement(f"llhttp refuses what was accepted: {exc}") from exc
    agree("method", parser.get_method(), told["method"])


def available() -> Iterator[Target]:
    """Give the targets whose modules are here."""
    yield from (json_scan, sse_tap, response_head, chunk_codec)
    if find_spec("fastgw._ext.pure.request") is not None:
        yield request_head


def named() -> dict[str, Target]:
    """Give the targets by name."""
    return {target.__name__: target for target in available()}
