"""The set of cases that both lanes are held to: more than two hundred connections.

Keys are placeholders of a key's length: the runner puts in those it created. Every request that
reaches the flow carries its case's name as `x-request-id`, so that its record is found again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from fastgw.wire import apikey
from tests.contract.case import Case, Turn, placeholder

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "one two three"}]
MODEL = "mock/mock?chunks=3"
UNKNOWN = apikey.make_key()[0]
COUNTS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of")
POLICY = (*COUNTS, "model", "stream", "stream_options", "service_tier", "tools", "store")
POLICY += ("background", "metadata", "user")
USAGES = ("exact", "more", "less", "none", "in_content", "null", "huge", "negative", "string")
USAGES += ("always", "running")

Headers = tuple[tuple[str, str], ...]
ALL, NARROW, TAGGED, EXPIRED, DISABLED = map(
    placeholder, ("all", "narrow", "tagged", "expired", "disabled")
)
CLOSE: Headers = (("connection", "close"),)
KEY: Headers = (("authorization", f"Bearer {ALL}"),)
JSON: Headers = (("content-type", "application/json"),)


def chat(model: str = MODEL, **fields: Any) -> bytes:
    """Give a chat request's body."""
    return json.dumps({"model": model, "messages": HI, **fields}).encode()


def head(
    name: str,
    headers: Headers,
    *,
    method: str = "POST",
    path: str = CHAT,
    version: str = "HTTP/1.1",
) -> bytes:
    """Give a request head, named after its case."""
    fields = [("host", "gateway.test"), *headers, ("x-request-id", name)]
    lines = [f"{method} {path} {version}", *(f"{key}: {value}" for key, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


def ask(
    name: str,
    body: bytes,
    *,
    key: Headers = KEY,
    more: Headers = (),
    kind: Headers = JSON,
    **line: str,
) -> bytes:
    """Give a whole request with a plainly framed body."""
    framing = (("content-length", str(len(body))),)
    return head(name, (*key, *kind, *more, *framing), **line) + body


def one(name: str, status: int, body: bytes | None = None, **request: Any) -> Case:
    """Give a case of one request in one piece."""
    method = request.get("method", "POST")
    sent = ask(name, chat() if body is None else body, **request)
    return Case(name, (Turn((sent,), methods=(method,)),), (status,))


def keys() -> Iterator[Case]:
    """Who may call: where a key stands, whose it is, what it may."""
    for header in ("x-api-key", "api-key", "x-goog-api-key", "X-Api-Key"):
        yield one(f"key-in-{header}", 200, key=((header, ALL),))
    good = {"lower": f"bearer {ALL}", "upper": f"BEARER {ALL}", "spaces": f"Bearer   {ALL}"}
    for word, value in good.items():
        yield one(f"key-{word}", 200, key=(("authorization", value),))
    bad = {
        "none": (),
        "empty": (("authorization", ""),),
        "bare": (("authorization", ALL),),
        "basic": (("authorization", "Basic e2FsbH06"),),
        "no-token": (("authorization", "Bearer "),),
        "short": (("authorization", "Bearer fgw-short"),),
        "foreign": (("authorization", "Bearer sk-proj-abcdefghijklmnopqrstuvwxyz"),),
        "checksum": (("authorization", f"Bearer {ALL}x"),),
        "flipped": (("authorization", "Bearer fgw-" + "a" * 49),),
        "unknown": (("authorization", f"Bearer {UNKNOWN}"),),
        "disabled": (("authorization", f"Bearer {DISABLED}"),),
        "umlaut": (("authorization", "Bearer fgw-ä"),),
        "two": (*KEY, ("x-api-key", TAGGED)),
        "two-other": (("api-key", ALL), ("x-goog-api-key", UNKNOWN)),
        "expired": (("authorization", f"Bearer {EXPIRED}"),),
        "cookie": (("cookie", f"key={ALL}"),),
    }
    for word, headers in bad.items():
        yield one(f"key-{word}", 401, key=headers)
    yield one("key-twice-the-same", 200, key=(*KEY, ("x-api-key", ALL)))
    yield one("key-in-the-query", 401, key=(), path=f"{CHAT}?key={ALL}")
    narrow: Headers = (("authorization", f"Bearer {NARROW}"),)
    yield one("key-narrow-refused", 403, key=narrow)
    yield one("key-narrow-alias", 200, chat("fast"), key=narrow)
    yield one("key-narrow-allowed", 200, chat("smart"), key=narrow)


def bodies() -> Iterator[Case]:
    """What is read of a body, and what is not judged."""
    inside = chat()[:-1]
    bad = {
        "empty": b"",
        "open": b"{",
        "array": b"[]",
        "null": b"null",
        "text": b"hello",
        "bom": b"\xef\xbb\xbf" + chat(),
        "trailing-object": chat() + b"{}",
        "trailing-comma": chat() + b",",
        "nul": b"\0" + chat(),
        "cut": chat()[:-5],
        "no-model": b'{"messages":[]}',
        "model-empty": chat(""),
        "too-deep": inside + b',"x":' + b"[" * 100 + b"]" * 100 + b"}",
        "mismatch": inside + b',"x":[}]}',
        "single-quotes": b"{'model':'mock'}",
        "escaped-model": b'{"mod\\u0065l":"mock","messages":[]}',
        "escaped-stream": inside + b',"str\\u0065am":true}',
        "escaped-n": inside + b',"\\u006e":2}',
        "model-bad-escape": b'{"model":"\\x","messages":[]}',
        "utf16": chat().decode().encode("utf-16-le"),
    }
    for word, body in bad.items():
        yield one(f"body-{word}", 400, body)
    for word, value in (("number", 7), ("null", None), ("list", ["mock"]), ("true", True)):
        yield one(f"body-model-{word}", 400, json.dumps({"model": value}).encode())
    for key in POLICY:
        twice = f',"{key}":null,"{key}":null}}'.encode()
        yield one(f"body-twice-{key}", 400, inside + twice)
    for key, (word, value, right) in itertools.product(
        COUNTS,
        (
            ("text", '"4"', False),
            ("float", "1.5", False),
            ("negative", "-1", False),
            ("true", "true", False),
            ("null", "null", True),
            ("two", "2", True),
        ),
    ):
        body = inside + f',"{key}":{value}}}'.encode()
        yield one(f"body-{key}-{word}", 200 if right else 400, body)
    for word, value in (("text", '"yes"'), ("one", "1"), ("list", "[]"), ("broken", "tru")):
        yield one(f"body-stream-{word}", 400, inside + f',"stream":{value}}}'.encode())
    for word, value in (("list", "[]"), ("text", '"x"'), ("true", "true")):
        yield one(f"body-options-{word}", 400, inside + f',"stream_options":{value}}}'.encode())
    fine = {
        "spaced": b' {\n "model" :\t"%b" , "messages":[{"role":"user","content":"x"}] } \r\n'
        % MODEL.encode(),
        "unicode": chat(user="ÄÖÜ 東京 👩‍👩‍👧"),
        "escapes": inside + b',"user":"\\ud83d\\ude00\\n\\"\\\\"}',
        "deep": inside + b',"x":' + b"[" * 98 + b"]" * 98 + b"}",
        "numbers": inside + b',"temperature":1e0,"top_p":0.10,"seed":-0}',
        "model-last": b'{"messages":[{"role":"user","content":"x"}],"model":"%b"}' % MODEL.encode(),
        "nested-model": chat(metadata={"model": "other", "stream": "no"}),
        "model-escaped-value": b'{"model":"mock\\/mock?chunks=3","messages":[{"role":"user"}]}',
        "kilobytes": chat(user="x" * 20_000),
        "tools": chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        "duplicate-below": inside + b',"metadata":{"a":1,"a":2}}',
    }
    for word, body in fine.items():
        yield one(f"body-{word}", 200, body)
    yield one("body-over-the-limit", 413, chat(user="x" * (1 << 20)))


def models() -> Iterator[Case]:
    """How names are resolved, and what a deployment that fails leads to."""
    for word, name, status in (
        ("config", "smart", 200),
        ("alias", "fast", 200),
        ("plain", "mock", 200),
        ("pinned-by-name", "mock/mock", 200),
        ("foreign-name", "other/name", 200),
        ("fallback", "sturdy", 200),
        ("priced", "priced", 200),
        ("down", "nowhere", 502),
        ("unknown", "nobody-has-this", 404),
        ("near", "smatr", 404),
        ("unknown-provider", "nobody/mock", 404),
        ("line-end", "smart\r\nx: y", 404),
        ("unicode", "schlau-ü", 404),
        ("long", "m" * 5000, 404),
    ):
        for stream in (False, True):
            kind = "stream" if stream else "plain"
            yield one(f"model-{word}-{kind}", status, chat(name, stream=stream))
    for word, path, status in (
        ("openai-prefix", "/openai/v1/chat/completions", 200),
        ("at-provider", "/at/mock/v1/chat/completions", 200),
        ("short-pin", "/mock/v1/chat/completions", 200),
        ("pin-unknown", "/nobody/v1/chat/completions", 404),
        ("pin-down", "/at/down/v1/chat/completions", 502),
        ("query", CHAT + "?beta=true", 200),
        ("encoded", "/v1/chat%2Fcompletions", 404),
        ("encoded-letter", "/v1/chat/%63ompletions", 200),
        ("trailing-slash", CHAT + "/", 404),
        ("two-slashes", "//v1/chat/completions", 404),
        ("dots", "/v1/./chat/completions", None),
        ("nothing", "/v1/nothing", 404),
        ("absolute", "http://gateway.test" + CHAT, None),
    ):
        pinned = "mock/v1" in path or "at/down" in path
        case = one(f"path-{word}", status or 0, chat("mock" if pinned else MODEL), path=path)
        yield case if status else Case(case.name, case.turns)


def answers() -> Iterator[Case]:
    """Everything a provider does, asked plainly and as a stream."""
    for options in (None, True, False):
        fields = {} if options is None else {"stream_options": {"include_usage": options}}
        word = {None: "unasked", True: "asked", False: "declined"}[options]
        for usage in USAGES:
            body = chat(f"mock/mock?chunks=4&usage={usage}", stream=True, **fields)
            yield one(f"stream-usage-{usage}-{word}", 200, body)
    yield one("stream-options-null", 200, chat(stream=True, stream_options=None))
    yield one("stream-options-empty", 200, chat(stream=True, stream_options={}))
    yield one("stream-false", 200, chat(stream=False))
    yield one("stream-null", 200, chat(stream=None))
    yield one("plain-with-options", 400, chat(stream_options={"include_usage": True}))
    for usage in USAGES:
        yield one(f"plain-usage-{usage}", 200, chat(f"mock/mock?chunks=4&usage={usage}"))
    for status in (400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 529):
        told = 502 if status in {401, 403} or status >= 500 else status
        for stream in (False, True):
            kind = "stream" if stream else "plain"
            body = chat(f"mock/mock?status={status}&retry_after=7", stream=stream)
            yield one(f"provider-{status}-{kind}", told, body)
    yield from faults()
    for word, model in (
        ("empty", "mock/mock?chunks=0"),
        ("long", "mock/mock?chunks=2000"),
        ("wide", "mock/mock?chunks=5&chunk_bytes=70000"),
        ("unicode", "mock/mock?chunks=30&non_ascii=1"),
        ("cached", "mock/mock?chunks=3&cached=2"),
        ("tools", "mock/mock-tools?chunks=3"),
        ("huge", "mock/mock?chunks=9&chunk_bytes=100000"),
    ):
        for stream in (False, True):
            kind = "stream" if stream else "plain"
            yield one(f"answer-{word}-{kind}", 200, chat(model, stream=stream))


def faults() -> Iterator[Case]:
    """Providers that stall, break off, or send what is no answer."""
    for stream, after in itertools.product((False, True), (0, 1, 3)):
        kind = "stream" if stream else "plain"
        for fault in ("cut", "reset", "error_event"):
            # Before the first whole event nothing is committed: a plain error is still possible.
            body = chat(f"mock/mock?chunks=6&fault={fault}&after={after}", stream=stream)
            yield _open(one(f"fault-{fault}-{after}-{kind}", 0, body))
    for stream in (False, True):
        kind = "stream" if stream else "plain"
        for fault in ("stall", "stall_head", "garbage_html", "garbage_json"):
            body = chat(f"mock/mock?chunks=6&fault={fault}&after=2", stream=stream)
            yield _open(one(f"fault-{fault}-{kind}", 0, body))


def _open(case: Case) -> Case:
    """Leave the status to the lanes to agree on."""
    return Case(case.name, case.turns)


def tags() -> Iterator[Case]:
    """Tags by leave of the key."""
    tagged: Headers = (("authorization", f"Bearer {TAGGED}"),)
    for word, value, status in (
        ("one", "job=7", 200),
        ("two", "job=7, step=b", 200),
        ("empty", "", 200),
        ("own", "team=b", 400),
        ("unknown", "x=1", 400),
        ("no-value", "job", 400),
        ("no-name", "=1", 400),
        ("twice", "job=1,job=2", 200),
        ("spaces", " job = 7 ", 200),
        ("commas", ",,job=7,,", 200),
    ):
        more = (("x-fastgw-tags", value),)
        yield one(f"tags-{word}", status, key=tagged, more=more)
    yield one("tags-none-allowed", 400, more=(("x-fastgw-tags", "job=7"),))
    yield one("tags-and-alias", 200, chat("fast"), key=tagged, more=(("x-fastgw-tags", "job=1"),))


def methods() -> Iterator[Case]:
    """Methods, media, encodings, versions."""
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
        yield one(f"method-{method}", 405, method=method)
    yield _open(one("method-BREW", 0, method="BREW"))
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/v1/models", 200)):
        for method in ("GET", "HEAD"):
            yield one(
                f"{method}-{path[1:].replace('/', '-')}", status, b"", method=method, path=path
            )
    for word, value, status in (
        ("charset", "application/json; charset=utf-8", 200),
        ("upper", "Application/JSON", 200),
        ("text", "text/plain", 415),
        ("form", "application/x-www-form-urlencoded", 415),
        ("nearly", "application/jsonp", 415),
        ("empty", "", 415),
    ):
        yield one(f"media-{word}", status, kind=(("content-type", value),))
    yield one("media-none", 415, kind=())
    for coding, status in (("identity", 200), ("gzip", 415), ("br", 415), ("x", 415)):
        yield one(f"coding-{coding}", status, more=(("content-encoding", coding),))
    for word, headers in (
        ("close", (("connection", "close"),)),
        ("keep-alive", (("connection", "keep-alive"),)),
        ("upgrade", (("connection", "upgrade"), ("upgrade", "h2c"))),
        ("websocket", (("connection", "Upgrade"), ("upgrade", "websocket"))),
        ("te", (("te", "trailers"), ("connection", "te"))),
        ("cookies", (("cookie", "a=b; c=d"),)),
        ("forwarded", (("x-forwarded-for", "10.0.0.1"), ("x-forwarded-host", "evil"))),
        ("override", (("x-http-method-override", "DELETE"),)),
        ("trace", (("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"),)),
        ("openai", (("openai-beta", "x"), ("openai-organization", "o"), ("openai-project", "p"))),
        ("long-value", (("x-long", "v" * 4000),)),
        ("many", tuple((f"x-{number}", "v") for number in range(60))),
        ("tabs", (("x-tabs", "\ta\tb\t"),)),
        ("latin", (("x-name", "Müller"),)),
        ("strict", (("x-fastgw-strict", "1"),)),
    ):
        yield _open(one(f"header-{word}", 0, more=headers))
        yield _open(one(f"header-{word}-stream", 0, chat(stream=True), more=headers))
    body = chat()
    for word, label in (("long", "l" * 129), ("spaces", "a b"), ("empty", ""), ("latin", "é")):
        sent = ask("label", body).replace(
            b"x-request-id: label", b"x-request-id: " + label.encode()
        )
        yield Case(f"label-{word}", (Turn((sent,)),), (200,))
    for word, headers in (("bare", ()), ("kept", (("connection", "keep-alive"),))):
        for stream in (False, True):
            kind = "stream" if stream else "plain"
            case = one(f"http10-{word}-{kind}", 200, chat(stream=stream), more=headers)
            old = case.turns[0].pieces[0].replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
            yield Case(case.name, (Turn((old,)),), (200,))


def framing() -> Iterator[Case]:
    """Lengths and chunks, right and wrong."""
    body = chat()
    size = len(body)
    for word, lines, status in (
        ("zeros", (f"content-length: 000{size}",), None),
        ("plus", (f"content-length: +{size}",), 400),
        ("negative", ("content-length: -1",), 400),
        ("hex", (f"content-length: 0x{size:x}",), 400),
        ("space", (f"content-length: {size} ",), None),
        ("twice-same", (f"content-length: {size}",) * 2, None),
        ("twice-other", (f"content-length: {size}", "content-length: 3"), 400),
        ("list", (f"content-length: {size}, {size}",), None),
        ("both", (f"content-length: {size}", "transfer-encoding: chunked"), 400),
        ("identity", ("transfer-encoding: identity", f"content-length: {size}"), None),
        ("gzip-chunked", ("transfer-encoding: gzip, chunked",), None),
        ("chunked-gzip", ("transfer-encoding: chunked, gzip",), 400),
        ("none", (), None),
        ("fold", (f"content-length:\r\n {size}",), 400),
        ("colon-space", (f"content-length : {size}",), 400),
        ("bare-lf", (f"x: y\ncontent-length: {size}",), None),
        ("nul", (f"x: a\0b\r\ncontent-length: {size}",), 400),
        ("bad-name", (f"x y: z\r\ncontent-length: {size}",), 400),
    ):
        head_bytes = head(f"framing-{word}", (*KEY, *JSON))[:-2]
        sent = head_bytes + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body
        statuses = (status,) if status else None
        quiet = 0.0 if status else 0.3
        yield Case(f"framing-{word}", (Turn((sent,)),), statuses, quiet)
    chunked = (*KEY, *JSON, ("transfer-encoding", "chunked"))
    whole = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
    bytewise = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    for word, data, status in (
        ("one", whole, 200),
        ("bytes", bytewise, 200),
        ("upper", whole.replace(b"%x" % size, b"%X" % size, 1), 200),
        ("zeros", b"000" + whole, 200),
        ("extension", whole.replace(b"\r\n", b";a=b\r\n", 1), 200),
        ("bad-size", b"zz\r\n" + whole, 400),
        ("negative", b"-1\r\n" + whole, 400),
        ("overflow", b"f" * 20 + b"\r\n" + whole, 400),
        ("no-line-end", whole.replace(b"\r\n0\r\n", b"0\r\n"), 400),
        ("empty", b"0\r\n\r\n", 400),
        ("trailer", whole[:-2] + b"x-trailer: 1\r\n\r\n", None),
    ):
        sent = head(f"chunked-{word}", chunked) + data
        statuses = (status,) if status else None
        yield Case(f"chunked-{word}", (Turn((sent,)),), statuses, 0.0 if status else 0.3)


def connections() -> Iterator[Case]:
    """Several requests on one connection, whole, in pieces, and after errors."""
    hot, stream = ask("hot", chat()), ask("stream", chat(stream=True))
    listing = head("listing", KEY, method="GET", path="/v1/models")
    wrong = {
        "no-key": ask("no-key", chat(), key=()),
        "no-model": ask("no-model", chat("nobody-has-this")),
        "bad-json": ask("bad-json", b"{"),
        "media": ask("media", chat(), kind=(("content-type", "text/plain"),)),
        "route": ask("route", chat(), path="/v1/nothing"),
        "method": ask("method", chat(), method="PUT"),
        "provider": ask("provider", chat("mock/mock-500")),
        "refused": ask("refused", chat("mock/mock-429")),
    }
    for word, request in wrong.items():
        yield Case(f"after-{word}", (Turn((request,)), Turn((hot,)), Turn((stream,)), Turn((hot,))))
        yield Case(f"piped-after-{word}", (Turn((hot + request + stream + hot,), 4),))
    for word, requests, asked in (
        ("hot", hot * 3, ("POST",) * 3),
        ("hot-listing-hot", hot + listing + hot, ("POST", "GET", "POST")),
        ("streams", stream * 3, ("POST",) * 3),
        ("stream-listing-stream", stream + listing + stream, ("POST", "GET", "POST")),
        ("twelve", hot * 12, ("POST",) * 12),
    ):
        count = len(asked)
        yield Case(f"piped-{word}", (Turn((requests,), count, asked),), (200,) * count)
    big = ask("big", chat(user="x" * 200_000))
    yield Case("piped-big", (Turn((big + big + hot,), 3),), (200,) * 3)
    yield Case("bytewise", (Turn(_bytes(hot)), Turn(_bytes(stream)), Turn((hot,))), (200,) * 3)
    for word, request in (("hot", hot), ("stream", stream)):
        turns = tuple(Turn((request[:at], request[at:])) for at in range(1, len(request)))
        yield Case(f"split-{word}", turns, (200,) * len(turns))
    pair = hot + stream
    turns = tuple(Turn((pair[:at], pair[at:]), 2) for at in range(1, len(pair), 7))
    yield Case("split-pair", turns, (200, 200) * len(turns))
    parts = tuple(big[at : at + 10_000] for at in range(0, len(big), 10_000))
    yield Case("big-in-parts", (Turn(parts), Turn((hot,))), (200, 200))
    yield Case("blank-lines-first", (Turn((b"\r\n\r\n" + hot,)),))
    body = chat()
    length = (("content-length", str(len(body))),)
    for word, value in (("100", "100-continue"), ("100-upper", "100-Continue")):
        expecting = head(f"expect-{word}", (*KEY, *JSON, ("expect", value), *length))
        yield Case(
            f"expect-{word}", (Turn((expecting, body), interim=True), Turn((hot,))), (200,) * 2
        )
        yield Case(f"expect-{word}-at-once", (Turn((expecting + body,)), Turn((hot,))), (200,) * 2)
    unknown = head("expect-other", (*KEY, *JSON, ("expect", "200-ok"), *length)) + body
    yield Case("expect-other", (Turn((unknown,)),))
    slow = ask("leaves", chat("mock/mock?chunks=5&fault=stall&after=3", stream=True))
    yield Case("leaves", (Turn((slow,), leave_after=b"data: "),))
    yield Case("closes", (Turn((hot,)), Turn((ask("closes", chat(), more=CLOSE),))), (200, 200))
    yield Case("mix", tuple(Turn((each,)) for each in (hot, listing, stream, hot)))


def _bytes(data: bytes) -> tuple[bytes, ...]:
    return tuple(data[at : at + 1] for at in range(len(data)))


def all_cases() -> list[Case]:
    """Give every case, in an order that never changes."""
    makers = (keys, bodies, models, answers, tags, methods, framing, connections)
    cases = [case for make in makers for case in make()]
    names = [case.name for case in cases]
    assert len(names) == len(set(names)), "two cases share a name"
    return cases
