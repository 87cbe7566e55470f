"""The SSE tap passes bytes on unchanged, whole events at a time, and notes what was reported."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpora import recordings, shared


def chunk(**delta):
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}


def event(payload, end="\n\n"):
    text = payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":"))
    return f"data: {text}{end}".encode()


USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
EXTRA = event({"object": "chat.completion.chunk", "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"


def cut(data, sizes):
    """Cut bytes into pieces of the given sizes, in turn and over again."""
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        yield data[at : at + size]
        at += size
        turn += 1


def drain(tap, pieces):
    """Feed all pieces and the end; give what was passed on, joined."""
    passed = [tap.feed(piece) for piece in pieces]
    assert b"" not in passed
    return b"".join(part for part in passed if part) + tap.finish()


def noted(tap):
    """Give everything that a tap noted."""
    return (
        tap.usage,
        tap.first_usage,
        tap.error,
        tap.done,
        tap.content_events,
        tap.started,
        tap.text_tokens,
    )


SEGMENTATIONS = ([1], [2], [3], [7, 1, 2], [1500], [1 << 30])


# The worst day: text that looks like a report, a cut inside everything, an event without an end.


def test_text_that_quotes_usage_is_text(build):
    """The word "usage" inside a delta, escaped as JSON does, is never taken for a report."""
    for text in (
        '"usage": {"prompt_tokens": 1}',
        '{"choices": [], "usage": {"prompt_tokens": 999}}',
        '\\"usage":{',
        'data: {"usage": {}}',
        '"error": {"message": "no"}',
        "[DONE]",
    ):
        stream = event(chunk(content=text)) * 2 + EXTRA + DONE
        for sizes in SEGMENTATIONS:
            tap = build.sse.Tap(drop_usage=True)
            assert drain(tap, cut(stream, sizes)) == stream.replace(EXTRA, b"")
            assert tap.usage == EXTRA[6:-2]
            assert (tap.error, tap.content_events, tap.done) == (None, 2, True)


def test_any_cut_gives_the_same(build):
    """Every pair of cuts through a stream of all kinds gives the same bytes and notes."""
    stream = (
        b": ping\r\n\r\n"
        + event(chunk(role="assistant", content=""), "\r\n\r\n")
        + event(chunk(content='h\\u00e9l\n"lo"'), "\r\r")
        + b'event: x\r\ndata: {\r\ndata: "content": "two lines"}\r\n\r\n'
        + EXTRA.replace(b"\n", b"\r")
        + DONE.replace(b"\n", b"\r\n")
    )
    expected = None
    for first in range(len(stream)):
        for second in (first + 1, first + 2, first + 50):
            tap = build.sse.Tap(drop_usage=True)
            got = drain(tap, [stream[:first], stream[first:second], stream[second:]])
            expected = expected or (got, noted(tap))
            assert (got, noted(tap)) == expected
    assert expected[0] == stream.replace(EXTRA.replace(b"\n", b"\r"), b"")
    assert expected[1][3:6] == (True, 2, True)


def test_an_event_without_end_is_bounded(build):
    """The limit counts an event's lines, however they come; the tap is closed by it for good."""
    for sizes in ([1000], [1 << 20], [64, 1]):
        tap = build.sse.Tap(limit=5000)
        fine = b"data: " + b"x" * 4993 + b"\n"
        assert len(fine) == 5000
        assert b"".join(filter(None, (tap.feed(p) for p in cut(fine + b"\n", sizes)))) == (
            fine + b"\n"
        )
        passed = b""
        try:
            for piece in cut(b": a\n\n" + b"data: y" + fine + b"\n", sizes):
                passed += tap.feed(piece) or b""
        except build.sse.EventTooLarge as error:
            passed += error.passed + b"!"
        assert passed == b": a\n\n!"
        with pytest.raises(build.sse.EventTooLarge):
            tap.feed(b"\n")
        assert tap.finish() == b""


def test_a_megabyte_in_single_bytes(build):
    """A tail of a megabyte fed byte by byte is not read from its start each time."""
    size = 1 << (20 if build.name == "compiled" else 17)
    stream = event(chunk(content="x" * (size - 200)))
    tap = build.sse.Tap()
    for byte in stream[:-1]:
        assert tap.feed(bytes((byte,))) is None
    assert tap.feed(b"\n") == stream
    assert tap.content_events == 1


def test_many_short_lines_in_one_event(build):
    """An event of CR lines only is read in one pass too."""
    count = 300_000 if build.name == "compiled" else 20_000
    stream = b"id\r" * count + b"data: [DONE]\r\r"
    tap = build.sse.Tap(limit=1 << 30)
    assert tap.feed(stream) is stream
    assert tap.done


# Passing on.


def test_a_read_that_ends_at_a_boundary_is_the_same_object(build):
    """Nothing is copied in the common case."""
    tap = build.sse.Tap()
    stream = event(chunk(content="a")) + event(chunk(content="b"))
    assert tap.feed(stream) is stream
    assert tap.feed(b": ping\n\n") == b": ping\n\n"


def test_nothing_complete_is_none(build):
    """Incomplete events wait; with their end they come out whole."""
    tap = build.sse.Tap()
    assert tap.feed(b"") is None
    assert tap.feed(b"data: {") is None
    assert tap.feed(b"}\n") is None
    assert tap.feed(b"\ndata: x") == b"data: {}\n\n"
    assert tap.finish() == b"data: x"
    assert tap.finish() == b""


def test_a_boundary_made_of_cr_does_not_wait(build):
    """A CR ends the event at once; the LF that belongs to it follows, or goes with its event."""
    tap = build.sse.Tap()
    assert tap.feed(b"data: a\r\n\r") == b"data: a\r\n\r"
    assert tap.feed(b"\n") == b"\n"
    tap = build.sse.Tap(drop_usage=True)
    assert tap.feed(EXTRA.replace(b"\n", b"\r\n")[:-1]) is None
    assert tap.feed(b"\n") is None
    assert tap.feed(b"\ndata: a\n\n") == b"\ndata: a\n\n"


def test_only_bytes_are_taken(build):
    """Buffers that could change under the tap are refused."""
    for data in (bytearray(b"x"), memoryview(b"x"), "x"):
        with pytest.raises(TypeError):
            build.sse.Tap().feed(data)
    with pytest.raises(ValueError, match="a byte"):
        build.sse.Tap(limit=0)


def test_only_the_extra_event_is_dropped(build):
    """Usage beside choices stays, empty choices without usage stay, null usage stays."""
    kept = [
        event({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),
        event({"choices": [], "usage": None}),
        event({**chunk(content="a"), "usage": USAGE}),
        event({"choices": [], "x_groq": {"usage": USAGE}}),
        event({"choices": None, "usage": USAGE}),
    ]
    for extra in (
        EXTRA,
        b"data:" + EXTRA[6:],
        b'data: {"usage":\ndata: {"a":1},\ndata: "choices": [ ]}\n\n',
        b'event: message\r\ndata: {"choices" : [\n] , "usage" : {}}\r\n\r\n'.replace(
            b"[\n]", b"[ ]"
        ),
    ):
        stream = b"".join(kept) + extra + DONE
        for sizes in SEGMENTATIONS:
            tap = build.sse.Tap(drop_usage=True)
            assert drain(tap, cut(stream, sizes)) == b"".join(kept) + DONE
            assert b"usage" in tap.usage
            assert tap.content_events == 1
            tap = build.sse.Tap()
            assert drain(tap, cut(stream, sizes)) == stream


def test_dropped_events_are_not_counted(build):
    """What was not passed on is not delivered text."""
    tap = build.sse.Tap(drop_usage=True)
    stream = event({"choices": [], "usage": USAGE, "text": "never seen"})
    assert tap.feed(stream) is None
    assert (tap.content_events, tap.text_tokens) == (0, 0)


# What is noted.


def test_usage_is_found_where_providers_put_it(build):
    """At the top, in x_groq, in response, in message; the last one and the first one."""
    payloads = [
        {"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 5}}},
        {"type": "message_delta", "usage": {"output_tokens": 7}},
        {"x_groq": {"usage": USAGE}, "choices": [{"delta": {}}]},
        {"type": "response.completed", "response": {"usage": USAGE, "output": []}},
        {"usage": None, "choices": [{"delta": {"content": "x"}}]},
    ]
    tap = build.sse.Tap()
    seen = []
    for payload in payloads:
        tap.feed(event(payload))
        seen.append(tap.usage)
    assert list(map(orjson.loads, seen)) == [*payloads[:4], payloads[3]]
    assert orjson.loads(tap.first_usage) == payloads[0]


def test_usage_in_bad_json_is_no_usage(build):
    """A payload that does not decode reports nothing, and passes."""
    for payload in (
        '{"usage":{',
        '{"usage":{}',
        "{'usage':{}}",
        '{"usage":{"a":1}} x',
        '"usage":{}',
    ):
        tap = build.sse.Tap(drop_usage=True)
        stream = event(payload)
        assert tap.feed(stream) is stream
        assert tap.usage is None


def test_errors_in_the_stream(build):
    """A top-level error, or an event named error; the first one is kept, text and null are none."""
    for stream, error in (
        (event({"error": {"message": "no"}}), b'{"error":{"message":"no"}}'),
        (event({"error": "no"}), b'{"error":"no"}'),
        (b"event: error\n" + event("overloaded"), b"overloaded"),
        (b"event:error\r\n" + event({"type": "error"}), b'{"type":"error"}'),
        (event({"type": "error", "code": "x"}), b'{"type":"error","code":"x"}'),
        (event({"type": "response.failed"}), b'{"type":"response.failed"}'),
        (event({"item": {"type": "error"}}), None),
        (event({"metadata": {"type": "response.failed"}, "type": "response.created"}), None),
        (event(chunk(content='"type":"error"')), None),
        (event({"error": None, "usage": USAGE}), None),
        (event({"error": ""}), None),
        (event({"response": {"error": {"code": 1}}}), None),
        (event(chunk(content='"error":{"a":1}')), None),
        (event('{"error":{'), None),
        (b"event: errors\n" + event("x"), None),
        (b"event: error\nevent: message\n" + event("x"), None),
    ):
        tap = build.sse.Tap()
        tap.feed(stream)
        assert tap.error == error
        tap.feed(event({"error": {"message": "later"}}))
        assert tap.error == (error or b'{"error":{"message":"later"}}')


def test_done(build):
    """[DONE] alone on a data line, with the space or without."""
    for stream in (DONE, b"data:[DONE]\r\n\r\n", b"data: [DONE] \n\n", b"id: 1\ndata: [DONE]\n\n"):
        tap = build.sse.Tap()
        assert tap.feed(stream) == stream
        assert tap.done
    for stream in (event("[DONE]!"), b": [DONE]\n\n", b"data : [DONE]\n\n", b"Data: [DONE]\n\n"):
        tap = build.sse.Tap()
        assert tap.feed(stream) == stream
        assert not tap.done


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "message_stop"])
def test_an_event_can_tell_the_end(build, kind):
    """Responses and Messages have no [DONE]: the type of an event says it, at the top only."""
    tap = build.sse.Tap()
    for payload in (
        {"type": kind + "s"},
        {"type": kind.upper()},
        {"type": "response.created", "response": {"metadata": {"type": kind}}},
        {"delta": f'"type":"{kind}"', "type": "response.output_text.delta"},
        f'{{"type":"{kind}"',
    ):
        tap.feed(event(payload))
        assert not tap.done
    for stream in (event({"response": {"x": [{"type": "message"}]}, "type": kind}),
                   b"event: %b\n" % kind.encode() + event({"type": kind})):  # fmt: skip
        tap = build.sse.Tap()
        assert tap.feed(stream) is stream
        assert tap.done
        assert tap.error is None


def test_a_tail_that_lacks_only_its_blank_line_counts(build):
    """Some providers end with a half-ended event: it is returned, and noted when it is whole."""
    for tail, note in (
        (b"data: [DONE]\n", "done"),
        (b"data: [DONE]", "done"),
        (EXTRA[:-1], "usage"),
        (EXTRA[:-2], "usage"),
        (event(chunk(content="hi"))[:-1], "started"),
    ):
        tap = build.sse.Tap()
        assert tap.feed(tail) is None
        assert not getattr(tap, note)
        assert tap.finish() == tail
        assert getattr(tap, note)
    for tail in (EXTRA[:-3], b"data: [DON", event(chunk(content="hi"))[:-4]):
        tap = build.sse.Tap()
        tap.feed(tail)
        assert tap.finish() == tail
        assert noted(tap) == (None, None, None, False, 0, False, 0)
    tap = build.sse.Tap(drop_usage=True)
    tap.feed(EXTRA[:-1])
    assert tap.finish() == b""
    assert tap.usage == EXTRA[6:-2]


# Text.


def test_text_members_count(build):
    """Each of the members that carry text counts, at any depth, as the estimator counts."""
    text = 'Ein Gruß,\n"two" words 😀 and 12345.'
    assert len(build.sse.TEXT) == 8
    for key in build.sse.TEXT:
        for ensure_ascii in (True, False):
            body = json.dumps({"a": [{"b": {key.decode(): text}}]}, ensure_ascii=ensure_ascii)
            tap = build.sse.Tap()
            tap.feed(event(body))
            assert tap.text_tokens == build.estimate.text(text.encode())
            assert (tap.content_events, tap.started) == (1, True)


def test_text_that_comes_in_deltas_counts_as_a_whole(build):
    """A word cut into deltas is one word."""
    text = "Incomprehensibilities are counted once, not letter by letter."
    tap = build.sse.Tap()
    for letter in text:
        tap.feed(event(chunk(content=letter)))
    assert tap.text_tokens == build.estimate.text(text.encode())
    assert tap.content_events == len(text)


def test_what_is_no_text(build):
    """Roles, ids, empty and null deltas, signatures start nothing."""
    tap = build.sse.Tap()
    for payload in (
        chunk(role="assistant", content=""),
        chunk(content=None),
        {"id": "text", "content": []},
        {"logprobs": {"content": [{"token": "hi", "bytes": [1]}]}},
        {"delta": {"type": "signature_delta", "signature": "x"}},
    ):
        tap.feed(event(payload))
    assert noted(tap) == (None, None, None, False, 0, False, 0)


def test_repetitions_are_not_counted_twice(build):
    """Snapshots of the Responses API and OpenRouter's reasoning_details repeat delivered text."""
    tap = build.sse.Tap()
    for payload in (
        {"type": "response.output_text.delta", "delta": "one two"},
        {"delta": " three", "text": "nothing", "type": "response.output_text.delta"},
        {"type": "response.output_text.done", "text": "one two three"},
        {"response": {"output": [{"text": "one two three"}]}, "type": "response.completed"},
    ):
        tap.feed(event(payload))
    assert tap.text_tokens == build.estimate.text(b"one two three")
    assert tap.content_events == 2
    tap.feed(event({"type": "response.output_audio.delta", "delta": "QUJDRA=="}))
    assert tap.text_tokens == build.estimate.text(b"one two three")
    assert tap.content_events == 3
    for key in ("reasoning_details", "annotations", "executed_tools", "tools"):
        tap = build.sse.Tap()
        tap.feed(event({"reasoning": "a b", key: [{"text": "a b"}], "content": "c"}))
        assert tap.text_tokens == build.estimate.text(b"a bc")


def test_a_tool_call_is_content(build):
    """A call begins with its name, before any argument; name and call cost tokens."""
    call = {"index": 0, "function": {"name": "get_weather", "arguments": ""}}
    tap = build.sse.Tap()
    tap.feed(event(chunk(tool_calls=[call])))
    assert tap.started
    assert tap.text_tokens >= build.estimate.text(b"get_weather") + 5


def test_the_text_is_kept_for_who_counts_it(build):
    """As it stands in the JSON strings, without what repeats it; a tap without text keeps none."""
    tap = build.sse.Tap(drop_usage=True)
    assert (tap.kept_text, tap.kept_tokens, tap.calls) == (b"", 0, 0)
    for payload in (
        chunk(content='Grüße, "du"'),
        chunk(tool_calls=[{"function": {"name": "weather", "arguments": '{"a":'}}]),
        {"delta": " eins", "text": "nothing", "type": "response.output_text.delta"},
        {"response": {"output": [{"text": "eins"}]}, "type": "response.completed"},
        {"choices": [], "usage": USAGE, "content": "not passed on"},
    ):
        tap.feed(event(payload))
    text = json.loads(b'"%b"' % tap.kept_text)
    assert text == 'Grüße, "du"weather{"a": eins'
    assert (tap.calls, tap.kept_tokens) == (1, tap.text_tokens)
    whole = build.sse.read_text(json.dumps({"content": [{"text": "one two"}]}).encode())
    assert (whole.kept_text, whole.kept_tokens) == (b"one two", whole.text_tokens)


def test_no_more_text_is_kept_than_fits(build):
    """A long answer keeps its beginning, whole piece by whole piece, and what that counted."""
    tap = build.sse.Tap()
    piece = "a word of the answer, "
    for _ in range(build.sse.KEPT // len(piece) + 50):
        tap.feed(event(chunk(content=piece)))
    kept = tap.kept_text
    assert build.sse.KEPT - len(piece) < len(kept) <= build.sse.KEPT
    assert kept == piece.encode() * (len(kept) // len(piece))
    assert tap.kept_tokens == build.estimate.text(kept) < tap.text_tokens


def test_a_json_answer_is_metered_as_a_stream_is(build):
    """The text of an answer costs the same in one body and in deltas."""
    text = "An answer\nof two lines."
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}, indent=1)
    tap = build.sse.Tap()
    for letter in text:
        tap.feed(event(chunk(content=letter)))
    assert build.sse.text_tokens(body.encode()) == tap.text_tokens
    assert build.sse.text_tokens(b"<html>") == 0


# Corpora.


def test_public_cases_pass_unchanged(build):
    """38 streams of the parsers' own suites, in small segmentations: same bytes, same events."""
    cases = json.loads((shared("sse_public") / "cases.json").read_text())
    assert len(cases) == 38
    for case in cases:
        stream = base64.b64decode(case["bytes_b64"])
        notes = set()
        for sizes in SEGMENTATIONS:
            tap = build.sse.Tap(drop_usage=True)
            out = b""
            for piece in cut(stream, sizes):
                out += tap.feed(piece) or b""
                assert stream.startswith(out)
            # Whole events and nothing else was passed: those the case names.
            assert out + tap.finish() == stream
            assert complete_events(out) == len(case["events"]), case["id"]
            notes.add(noted(tap))
        assert len(notes) == 1


def complete_events(stream: bytes) -> int:
    """Count dispatched events as the standard does: data lines before a blank line."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    count = data = 0
    for line in re.split(r"\r\n|\n|\r", text)[:-1]:
        if not line:
            count += bool(data)
            data = 0
        elif line == "data" or line.startswith("data:"):
            data += 1
    return count


PROVIDERS = sorted(
    [
        "alibaba",
        "anthropic",
        "azure_openai",
        "bedrock_openai_compat",
        "cloudflare",
        "cohere",
        "databricks",
        "deepseek",
        "gemini",
        "gpustack",
        "groq",
        "huggingface",
        "mistral",
        "ollama_openai_compat",
        "openai",
        "openrouter",
        "perplexity",
        "snowflake",
        "together",
        "vertex",
        "vllm",
        "watsonx",
        "xai",
    ]
)


def usages(value):
    if isinstance(value, dict):
        if isinstance(value.get("usage"), dict):
            yield value["usage"]
        for item in value.values():
            yield from usages(item)
    elif isinstance(value, list):
        for item in value:
            yield from usages(item)


def payloads(stream: bytes):
    """Give (bytes of the event, its JSON value or None), by a plain split."""
    at = 0
    for match in re.finditer(rb"\r\n\r\n|\n\n|\r\r|\Z", stream):
        raw, at = stream[at : match.end()], match.end()
        lines = [x[5:].removeprefix(b" ") for x in raw.splitlines() if x.startswith(b"data:")]
        value = None
        with contextlib.suppress(ValueError):
            value = json.loads(b"\n".join(lines).decode())
        yield raw, value


@pytest.mark.parametrize("provider", PROVIDERS)
def test_recorded_streams(build, provider):
    """Recorded streams pass byte for byte, their usage is found, only the extra event can go."""
    rng = random.Random(provider)
    streams = 0
    for exchange in recordings(provider):
        if exchange["response"]["framing"] != "sse":
            continue
        stream = exchange["response"]["body"].encode()
        events = list(payloads(stream))
        reported = [value for _, value in events if value is not None and any(usages(value))]
        extra = [
            raw
            for raw, value in events
            if isinstance(value, dict)
            and value.get("choices") == []
            and isinstance(value.get("usage"), dict)
        ]
        segmentations = [[1 << 30], [1500], [rng.randint(1, 400) for _ in range(50)]]
        if build.name == "pure":
            del segmentations[:2]
        if len(stream) < (20_000 if build.name == "compiled" else 2_000):
            segmentations.append([1])
        notes = set()
        for sizes in segmentations:
            tap = build.sse.Tap()
            assert drain(tap, cut(stream, sizes)) == stream
            notes.add(noted(tap))
            assert (json.loads(tap.usage) if tap.usage else None) == (
                reported[-1] if reported else None
            )
            assert (json.loads(tap.first_usage) if tap.usage else None) == (
                reported[0] if reported else None
            )
            dropping = build.sse.Tap(drop_usage=True)
            kept = b"".join(raw for raw, _ in events if raw not in extra)
            assert drain(dropping, cut(stream, sizes)) == kept
            assert dropping.usage == tap.usage
        assert len(notes) == 1
        streams += 1
    assert streams


# Properties.

LINES = [
    *rb"""
data: {"choices":[{"delta":{"content":"Hi"}}]}
data: {"choices":[],"usage":{"a":1}}
data: {"usage":null,"text":"\u00e9\ud83d"}
data: {"error":{"a":1}}
data: {"name":"n"}
data: {"type":"message_stop"}
data: {"type":"error","x":{"type":"response.completed"}}
data: {"x":{"type":"message_stop"}}
data: {"type":"response.x","delta":"d","text":"t"}
data: {"text":"t","type":"response.x"}
data: {"annotations":[{"text":"x"}],
data: "usage":{
data: "content":"y\\\"z"}
data: "delta" : "a
data: [DONE]
data:
data
data: x
event: error
event:
id: 1
: c
""".strip().split(b"\n"),
    b"x" * 30,
    b"\xef\xbb\xbf",
    b"\x00",
    b'data: {"usage"\t:\r{}}',
]
ENDS = [b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r", b""]
streams = st.lists(
    st.tuples(st.sampled_from(LINES), st.sampled_from(ENDS)).map(b"".join), max_size=10
).map(b"".join)
sizes_of_cuts = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(
    streams | st.binary(max_size=60), sizes_of_cuts, st.booleans(), st.sampled_from([40, 10_000])
)
def test_the_twins_agree(twins, stream, sizes, drop, limit):
    """Piece by piece the same bytes, the same notes, the same refusal."""
    told = []
    for build in twins:
        tap = build.sse.Tap(drop, limit)
        passed = []
        try:
            passed.extend(tap.feed(piece) for piece in cut(stream, sizes))
            passed.append(tap.finish())
        except build.sse.EventTooLarge as error:
            passed.append(("too large", error.passed))
        told.append((passed, noted(tap)))
    assert told[0] == told[1]


@settings(max_examples=150, deadline=None)
@given(streams, sizes_of_cuts, sizes_of_cuts, st.booleans())
def test_the_cut_does_not_matter(build, stream, one, other, drop):
    """Two segmentations of a stream give the same bytes and notes; without dropping, the input."""
    told = []
    for sizes in (one, other):
        tap = build.sse.Tap(drop)
        told.append((drain(tap, cut(stream, sizes)), noted(tap)))
    assert told[0] == told[1]
    if not drop:
        assert told[0][0] == stream


@settings(max_examples=100, deadline=None)
@given(streams, sizes_of_cuts)
def test_only_whole_events_are_passed(build, stream, sizes):
    """What was passed at any time holds every event that is complete, and no part of another."""
    tap = build.sse.Tap()
    fed = passed = b""
    for piece in cut(stream, sizes):
        fed += piece
        passed += tap.feed(piece) or b""
        assert fed.startswith(passed)
        assert complete_events(passed) == complete_events(fed)
        assert not passed or passed[-1:] in b"\r\n"
