"""The top-level scan never reads a body in a way that another JSON reader could dispute."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpora import shared

NAMES = frozenset(
    b"model stream stream_options max_tokens n tools user metadata systemInstruction".split()
)


def scan(build, body, names=NAMES):
    return build.scan.top_level(body, names)


def outcome(build, body, names=NAMES):
    """Give spans or (reason, key): what the twins must agree on."""
    try:
        return list(scan(build, body, names).items())
    except ValueError as error:
        return error.reason, error.key


def refused(build, body):
    result = outcome(build, body)
    assert isinstance(result, tuple), result
    return result


# The worst day: three ways to make policy read one model and the provider another.


def test_an_escaped_model_key_is_refused(build):
    """A key that decodes to a wanted name is named, however it is escaped."""
    for key in (rb"mod\u0065l", rb"\u006dodel", rb"MOD\u0045L", rb"\u006D\u006F\u0064\u0065\u006C"):
        body = b'{"model": "cheap", "' + key + b'": "dear"}'
        assert refused(build, body) == ("escaped", b"model")
        assert refused(build, b'{"' + key + b'": 1}') == ("escaped", b"model")


def test_a_second_model_is_refused(build):
    """A wanted name twice, or beside a key that only differs in case, is a duplicate."""
    for first, second in (
        ("model", "model"),
        ("model", "Model"),
        ("MODEL", "model"),
        ("stream", "\u017ftream"),
        ("systemInstruction", "systeminstruction"),
    ):
        body = f'{{"{first}": 1, "x": {{"model": 3}}, "{second}": 2}}'.encode()
        reason, key = refused(build, body)
        assert reason == "duplicate"
        assert key.lower() == first.lower().encode()


def test_a_string_that_hides_a_second_key_does_not(build):
    """Quotes and brackets inside strings, and escapes before quotes, do not move the reading."""
    body = (
        rb'{"a": "\\", "model": "x\\\"", "b": "\",\"model\":\"y", "c": ["]", {"}": "{"}], "n": 1}'
    )
    spans = scan(build, body)
    assert {key: orjson.loads(body[s:e]) for key, (s, e) in spans.items()} == {
        b"model": 'x\\"',
        b"n": 1,
    }
    for hidden in (
        rb"""{"a": [/*"*/ 1], "model": "x" /*"]*/ }""",
        rb"""{"a": {'"': 1}, "model": 2, "b": {'"': 1}}""",
        b'{"a": [1 #"\n], "model": "x" #"]\n}',
        b'{"a": [\x00"], "model": 1, "b": "]"}',
        b'{"a": [\xef\xbb\xbf1]}',
    ):
        assert refused(build, hidden) == ("not_json", None)


def test_a_lone_look_alike_is_an_unknown_key(build):
    """Without the wanted name itself, another case is one of the keys that pass."""
    assert scan(build, b'{"Model": 1, "MODEL": 2, "mode": 3, "modell": 4}') == {}
    assert scan(build, '{"\u017ftream": 1, "naïve": 2, "n\\u00e4h": 3}'.encode()) == {}


def test_spans_are_the_values(build):
    """Spans cover exactly the value, without whitespace, in any layout."""
    value = {"model": "m", "stream": True, "n": -1.5e-7, "tools": [{"a": [None]}], "user": None}
    for indent in (None, 0, 3):
        body = b" \r\n\t" + json.dumps(value, indent=indent).encode() + b"\n "
        spans = scan(build, body)
        assert {k.decode(): orjson.loads(body[s:e]) for k, (s, e) in spans.items()} == value
        for start, end in spans.values():
            assert body[start:end].strip() == body[start:end]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b" \n", "not_json"),
        (b"\xef\xbb\xbf{}", "not_json"),
        (b"\x00{}", "not_json"),
        (b"{}\x00", "trailing"),
        (b"{}{}", "trailing"),
        (b"{} x", "trailing"),
        (b"[] []", "trailing"),
        (b"[]", "not_object"),
        (b'"model"', "not_object"),
        (b"null", "not_object"),
        (b" -0.5 ", "not_object"),
        (b"nul", "not_json"),
        (b"[}", "not_json"),
        (b"{", "not_json"),
        (b'{"a"', "not_json"),
        (b'{"a":', "not_json"),
        (b'{"a":1', "not_json"),
        (b'{"a":1,', "not_json"),
        (b'{"a":1,}', "not_json"),
        (b'{"a" 1}', "not_json"),
        (b'{"a":1 "b":2}', "not_json"),
        (b'{"a":1]', "not_json"),
        (b'{"a":[1}', "not_json"),
        (b'{"a":{"b":1]}', "not_json"),
        (b'{"a":"b}', "not_json"),
        (b'{"a":"b\\"}', "not_json"),
        (b"{a:1}", "not_json"),
        (b"{'a':1}", "not_json"),
        (b'{"a":tru}', "not_json"),
        (b'{"a":NaN}', "not_json"),
        (b'{"a":01}', "not_json"),
        (b'{"a":1.}', "not_json"),
        (b'{"a":.5}', "not_json"),
        (b'{"a":+1}', "not_json"),
        (b'{"a":1e}', "not_json"),
        (b'{"a":-}', "not_json"),
        (b'{"a\nb":1}', "not_json"),
        (b'{"a\x00b":1}', "not_json"),
        (b'{"\\x61":1}', "not_json"),
        (b'{"\\u12":1}', "not_json"),
        (b'{"mod\xffel":1}', "not_json"),
        (b'{"mod\xc0\xa5l":1}', "not_json"),
        (b'{"\xed\xa0\x80":1}', "not_json"),
        (b'{"\\ud800":1}', "not_json"),
        (b'{"\\udc00":1}', "not_json"),
        (b'{"\\ud800\\u0041":1}', "not_json"),
        (b"[" * 1_000_000, "too_deep"),
        (b'{"a":' * 1_000_000, "too_deep"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else value,
)
def test_reasons(build, body, reason):
    """Each fault has its reason; the first one from the left counts."""
    assert refused(build, body) == (reason, None)


def test_odd_keys_pass(build):
    """Surrogate pairs, other scripts, long and empty keys are unknown keys."""
    body = rb'{"\ud83d\ude00": 1, "": 2, "\u0000": 3, "' + b"k" * 100_000 + b'": 4, "model": 5}'
    assert set(scan(build, body)) == {b"model"}


def test_depth(build):
    """A hundred brackets are allowed, the object included; one more is not."""
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        inner = b"1" if opening != b"[" else b""
        body = b'{"model":' + opening * 99 + inner + closing * 99 + b"}"
        assert set(scan(build, body)) == {b"model"}
        body = b'{"model":' + opening * 100 + inner + closing * 100 + b"}"
        assert refused(build, body) == ("too_deep", None)


def test_text_below_is_not_judged(build):
    """What DESIGN leaves to the provider passes: grammar below the top level, text of strings."""
    for body in (b'{"model":[1 2,,]}', b'{"model":[nul 01 NaN]}', b'{"model":"\x00\n\xff\\q"}'):
        assert set(scan(build, body)) == {b"model"}


def test_huge_bodies_are_read_in_one_pass(build):
    """Megabytes of the most awkward bytes end like small ones; a body of 33 MiB is nothing new."""
    size = 1 << 20
    units = [b"\\\\", b"x", b"\\n", b"\xff\x00"]
    texts = [unit * (size // len(unit)) for unit in units]
    texts.append(b'\\"' * ((33 << 19) if build.name == "compiled" else size))
    for text in texts:
        body = b'{"user": "' + text + b'", "model": 1}'
        assert scan(build, body)[b"model"] == (len(body) - 2, len(body) - 1)
    body = b'{"user": "' + b"\\" * size + b'\\", "model": 1}'
    assert refused(build, body) == ("not_json", None)
    body = b'{"tools": [' + b'"a",' * (size // 8) + b'1], "model": 1}'
    assert scan(build, body)[b"model"] == (len(body) - 2, len(body) - 1)


def test_names_are_checked(build):
    """Only what can be compared bytewise can be looked for."""
    for bad in (b"", b"x" * 65, "é".encode()):
        with pytest.raises(ValueError, match="not a name"):
            scan(build, b"{}", frozenset([bad]))
    many = frozenset(b"k%d" % i for i in range(65))
    with pytest.raises(ValueError, match="more than 64"):
        scan(build, b'{"a":1}', many)
    body = json.dumps({f"k{i}": i for i in range(64)}).encode()
    assert len(scan(build, body, frozenset(b"k%d" % i for i in range(64)))) == 64


def test_the_error_says_which_key(build):
    """The message is fit for a log; reason and key are for the caller."""
    with pytest.raises(ValueError, match="duplicate: model") as caught:
        scan(build, b'{"model":1,"model":2}')
    assert (caught.value.reason, caught.value.key) == ("duplicate", b"model")


# The public corpus.

CASES = "test_parsing"
REPEATED = ("y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json")
"""Valid JSON, refused by contract."""


def corpus():
    return sorted((shared("json_test_suite") / CASES).iterdir())


def reference(body: bytes) -> tuple[list[str], dict[str, Any]] | None:
    """Read a top-level object with json: its keys, repeated ones too, and its values; or None."""
    keys: list[str] = []

    def note(pairs):
        keys[:] = [key for key, _ in pairs]  # the outermost object comes last
        return dict(pairs)

    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(body.decode(), object_pairs_hook=note)
        if isinstance(value, dict):
            return keys, value
    return None


def test_corpus_of_bodies(build):
    """Of the 318 cases as bodies, no valid object is refused and no accepted one misread."""
    names = frozenset([b"a", b"b", b"x", b"foo", b"min", b"title"])
    cases = corpus()
    assert len(cases) == 318
    for path in cases:
        body = path.read_bytes()
        result = outcome(build, body, names)
        expected = None if body.startswith(b"\xef\xbb\xbf") else reference(body)
        if path.name in REPEATED:
            assert result == ("duplicate", b"a")
        elif path.name.startswith("y_") and expected is not None:
            read = {key.decode(): json.loads(body[s:e]) for key, (s, e) in result}
            assert read == {k: v for k, v in expected[1].items() if k.encode() in names}, path.name
        elif isinstance(result, tuple):
            assert result[0] in ("not_json", "not_object", "trailing", "too_deep"), path.name


def test_corpus_accepts_no_broken_top_level(build):
    """An invalid case is accepted as a body only for what stands in its strings or below."""
    accepted = {
        path.name
        for path in corpus()
        if path.name.startswith("n_") and isinstance(outcome(build, path.read_bytes()), list)
    }
    assert accepted == set()


def test_corpus_of_values(build):
    """Every case as a value of a body: valid ones pass, and the key behind it is found."""
    for path in corpus():
        case = path.read_bytes()
        body = b'{"tools": ' + case + b', "model": "m"}'
        result = outcome(build, body)
        valid = False
        with contextlib.suppress(ValueError, RecursionError):
            json.loads(case.decode())
            valid = not case.startswith(b"\xef\xbb\xbf")
        if valid and path.name.startswith("y_"):
            assert isinstance(result, list), path.name
        if isinstance(result, list):
            spans = dict(result)
            start, end = spans[b"model"]
            assert body[start:end] == b'"m"', path.name
            start, end = spans[b"tools"]
            assert body[start:end] == case.strip(b" \t\r\n"), path.name


# Properties.

texts = st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=4
)
keys = st.sampled_from(sorted(name.decode() for name in NAMES)) | texts
objects = st.dictionaries(keys, values, max_size=8)
layouts = st.sampled_from([{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":")}])


def is_look_alike(key: str) -> bool:
    plain = key.replace("\u017f", "s").replace("\u212a", "k").lower().encode()
    return plain in {name.lower() for name in NAMES} and key.encode() not in NAMES


@settings(max_examples=50, deadline=None)
@given(objects.filter(lambda value: not any(map(is_look_alike, value))), layouts)
def test_any_object_is_read_right(build, value, layout):
    """What json writes, the scan finds again."""
    body = json.dumps(value, **layout).encode()
    read = {key.decode(): json.loads(body[s:e]) for key, (s, e) in scan(build, body).items()}
    assert read == {key: item for key, item in value.items() if key.encode() in NAMES}


PIECES = [
    b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"1", b"-", b".", b"e", b"true",
    b"null", b'"model"', b'"model":', b'"Model":', b'"mod\\u0065l":', b'"n":', b"\\u", b"\\ud83d",
    b"\x00", b"\xc3\xa9", b"\xff", b"x", b"/", b"'", b'{"model":', b'"a":1,', b"{}", b"0", b"E+5",
    b'"\xc5\xbftream":1,', b'"\\u017ftream":1,',
]  # fmt: skip
fragments = st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join)


@settings(max_examples=500, deadline=None)
@given(fragments | fragments.map(lambda text: b"{" + text + b"}") | st.binary(max_size=30))
def test_the_twins_agree(twins, body):
    """Same spans in the same order, same reason, same key, for any bytes."""
    compiled, pure = twins
    assert outcome(compiled, body) == outcome(pure, body)


@settings(max_examples=200, deadline=None)
@given(fragments.map(lambda text: b'{"model":' + text + b"}") | fragments)
def test_no_accepted_body_is_read_otherwise_by_a_parser(build, body):
    """If json can read an accepted body at all, it sees each wanted key once, with that value."""
    result = outcome(build, body)
    expected = reference(body)
    if isinstance(result, tuple):
        if result[0] in ("not_json", "trailing", "not_object"):
            # Lone surrogates in keys are what json takes and this does not.
            assert expected is None or b"\\ud83d" in body
        return
    if expected is None:
        return
    keys, value = expected
    wanted = [key for key in keys if key.encode("utf-8", "surrogatepass") in NAMES]
    assert sorted(wanted) == sorted(key.decode() for key, _ in result)
    assert all(json.loads(body[s:e]) == value[key.decode()] for key, (s, e) in result)
