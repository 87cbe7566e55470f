"""Response heads and chunked bodies, in both builds."""

from __future__ import annotations

import importlib
import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw._ext.pure import http1 as pure


def load(build):
    """Give one build of the module; a missing compiled one is a failure in CI, else a skip."""
    if build == "pure":
        return pure
    try:
        return importlib.import_module("fastgw._ext._http1")
    except ImportError:
        if os.environ.get("CI"):
            raise
        return None


BUILDS = {build: module for build in ("compiled", "pure") if (module := load(build))}


@pytest.fixture(params=["compiled", "pure"])
def http1(request):
    if request.param not in BUILDS:
        pytest.skip("the extension is not built")
    return BUILDS[request.param]


HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Empty:\r\nX-Padded: \t a b \t \r\n"
    b"X-Text: caf\xc3\xa9\t!\r\ncontent-LENGTH: 12\r\nset-cookie: a\r\nSet-Cookie: b\r\n\r\n"
)


# -- heads ---------------------------------------------------------------------------------------


def test_a_head_is_read_whole(http1):
    """Names come in lower case, values without surrounding white space, all in order."""
    head = http1.parse_head(HEAD + b"body")
    assert (head.status, head.minor, head.length, head.chunked) == (200, 1, 12, False)
    assert head.size == len(HEAD)
    assert head.keep_alive is True
    assert head.idle_s == -1
    assert head.headers == [
        (b"content-type", b"application/json"),
        (b"x-empty", b""),
        (b"x-padded", b"a b"),
        (b"x-text", b"caf\xc3\xa9\t!"),
        (b"content-length", b"12"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
    ]
    assert head.headers is head.headers
    assert repr(head) == f"<Head 200, 7 fields, {len(HEAD)} bytes>"


def test_a_head_cut_anywhere_is_incomplete(http1):
    """No strict prefix of a good head is a verdict."""
    assert [http1.parse_head(HEAD[:cut]) for cut in range(len(HEAD))] == [None] * len(HEAD)


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 599 \xebdr\xe4t", b"HTTP/1.1 100  x\ty"]
)
def test_status_lines_that_servers_send(http1, line):
    """The reason phrase may be empty, missing or not ASCII."""
    head = http1.parse_head(line + b"\r\n\r\n")
    assert head.status == int(line[9:12])
    assert head.length == -1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" HTTP/1.1 200 OK",
        b"\rHTTP/1.1 200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/2 200",
        b"HTTP/0.9 200 OK",
        b"HTTP/11.1 200 OK",
        b"HTTP/1.01 200 OK",
        b"http/1.1 200 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 2 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1 999 OK",
        b"HTTP/1.1 2x0 OK",
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 O\x7fK",
        b"HTTP/1.1 200 O\x0bK",
        b"RTSP/1.0 200 OK",
        b"ICY 200 OK",
        b"<html>",
        b"HTTP/1.1",
    ],
)
def test_other_status_lines_are_refused(http1, line):
    """A line that is not exactly HTTP/1.0 or 1.1 with a status of 100 to 599 is no answer."""
    with pytest.raises(http1.BadHead):
        http1.parse_head(line + b"\r\n\r\n")


@pytest.mark.parametrize("start", [b"<", b"HTP/", b"\r", b"\x16\x03\x01", b"HTTP/2", b"220 smtp"])
def test_garbage_is_refused_before_its_line_ends(http1, start):
    """An upstream that speaks something else fails at once, not at a time-out."""
    with pytest.raises(http1.BadHead, match="not an HTTP/1 status line"):
        http1.parse_head(start)


@pytest.mark.parametrize(
    "line",
    [
        b"no colon",
        b": no name",
        b"name : x",
        b" name: x",
        b"\tfolded",
        b" folded",
        b"na me: x",
        b"na\0me: x",
        b"n\xc3\xa4me: x",
        b"name(: x",
        b"name\x7f: x",
        b"a: \0",
        b"a: x\0y",
        b"a: b\rc",
        b"a: \x1b[31m",
        b"a: x\x7f",
        b"a: 1234567\x01",
        b"n" * 257 + b": x",
    ],
)
def test_malformed_fields_are_refused(http1, line):
    """Names are tokens; values hold no control character but the tab."""
    with pytest.raises(http1.BadHead):
        http1.parse_head(b"HTTP/1.1 200 OK\r\nfirst: 1\r\n" + line + b"\r\n\r\n")


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\na: b\nc: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n\n",
        b"HTTP/1.1 200 OK\r\r\n\r\n",
        b"\nHTTP/1.1 200 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_lines_end_with_cr_lf(http1, raw):
    """A bare LF or CR ends no line."""
    with pytest.raises(http1.BadHead):
        http1.parse_head(raw)


def fields(http1, *lines, status_line=b"HTTP/1.1 200 OK"):
    return http1.parse_head(b"\r\n".join([status_line, *lines, b"", b""]))


@pytest.mark.parametrize(
    "value", [b"", b"+1", b"-1", b"1 2", b"5, 5", b"0x10", b"1e3", b"1.0", b"9" * 19, b"\xb2"]
)
def test_content_length_is_a_number(http1, value):
    """Nothing but at most 18 digits."""
    with pytest.raises(http1.BadHead):
        fields(http1, b"content-length: " + value)


def test_content_length_values(http1):
    """Zeros in front and the largest number of 18 digits are fine."""
    assert fields(http1, b"Content-Length: 000").length == 0
    assert fields(http1, b"Content-Length:\t0042 ").length == 42
    assert fields(http1, b"Content-Length: " + b"9" * 18).length == 10**18 - 1


@pytest.mark.parametrize(
    "lines",
    [
        [b"content-length: 5", b"content-length: 5"],
        [b"content-length: 5", b"transfer-encoding: chunked"],
        [b"transfer-encoding: chunked", b"content-length: 5"],
        [b"transfer-encoding: chunked", b"transfer-encoding: chunked"],
        [b"transfer-encoding: chunked", b"transfer-encoding: identity"],
        [b"transfer-encoding: gzip, chunked"],
        [b"transfer-encoding: chunked, chunked"],
        [b"transfer-encoding: chunkedx"],
        [b"transfer-encoding: xchunked"],
        [b"transfer-encoding:"],
        [b"transfer-encoding: identity"],
        [b'transfer-encoding: "chunked"'],
    ],
)
def test_ambiguous_framing_is_refused(http1, lines):
    """One Content-Length, or one Transfer-Encoding that is exactly chunked, never both."""
    with pytest.raises(http1.BadHead):
        fields(http1, *lines)


def test_chunked(http1):
    """The coding's name has no case; HTTP/1.0 has no codings (RFC 9112 section 6.1)."""
    head = fields(http1, b"Transfer-Encoding: \tCHUNKED ")
    assert (head.chunked, head.length) == (True, -1)
    assert head.chunked is True
    with pytest.raises(http1.BadHead):
        fields(http1, b"Transfer-Encoding: chunked", status_line=b"HTTP/1.0 200 OK")


@pytest.mark.parametrize(
    ("version", "lines", "expected"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"connection: close"], False),
        (b"1.1", [b"Connection: x, \tCLOSE , y"], False),
        (b"1.1", [b"connection: keep-alive", b"connection: close"], False),
        (b"1.1", [b"connection: closed"], True),
        (b"1.1", [b"connection:"], True),
        (b"1.0", [], False),
        (b"1.0", [b"connection: Keep-Alive"], True),
        (b"1.0", [b"connection: keep-alive, close"], False),
        (b"1.0", [b"connection: xkeep-alive"], False),
    ],
)
def test_keep_alive(http1, version, lines, expected):
    """Persistence follows the version and the connection options (RFC 9112 section 9.3)."""
    head = fields(http1, *lines, status_line=b"HTTP/" + version + b" 200 OK")
    assert head.keep_alive is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"timeout=5", 5),
        (b"max=100, timeout=15", 15),
        (b"TimeOut=7,max=1", 7),
        (b"timeout=", -1),
        (b"timeout=x", -1),
        (b"xtimeout=5", -1),
        (b"timeout=5s", -1),
        (b"timeout=1234567", -1),
        (b"", -1),
        (b"timeout=x timeout=3", 3),
        (b"timeout=0", 0),
    ],
)
def test_keep_alive_timeout(http1, value, expected):
    """The time an upstream keeps an idle connection is read where it is said plainly."""
    assert fields(http1, b"keep-alive: " + value).idle_s == expected


def test_bounds_of_a_head(http1):
    """64 KiB and 100 fields, judged before the head is complete."""
    assert len(fields(http1, *[b"a: b"] * 100).headers) == 100
    with pytest.raises(http1.BadHead, match="100"):
        http1.parse_head(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101)
    start = b"HTTP/1.1 200 OK\r\na: "
    full = start + b"x" * (http1.MAX_HEAD - len(start) - 4) + b"\r\n\r\n"
    assert len(full) == http1.MAX_HEAD
    assert http1.parse_head(full).size == http1.MAX_HEAD
    assert http1.parse_head(full[:-1]) is None
    for more in (start + b"x" * http1.MAX_HEAD, full[:-2] + b"b: c\r\n\r\n"):
        with pytest.raises(http1.BadHead, match="64 KiB"):
            http1.parse_head(more)


def test_names_are_not_mixed_up(http1):
    """Many different names, met again and again, keep their spelling."""
    for turn in range(3):
        lines = [b"x-%d-%d: %d" % (turn, n, n) for n in range(100)]
        expected = [(b"x-%d-%d" % (turn, n), b"%d" % n) for n in range(100)]
        assert fields(http1, *lines).headers == expected


# -- chunks --------------------------------------------------------------------------------------

BODY = b'5\r\nhello\r\n6;a;b=c;d="e\\"; f"\r\n world\r\n00a\r\n0123456789\r\n0;last\r\n\r\n'
PAYLOAD = b"hello world0123456789"


def feed_bytewise(dechunker, raw):
    return [piece for at in range(len(raw)) for piece in dechunker.feed(raw[at : at + 1])]


def test_chunks_cut_anywhere(http1):
    """The payload and the end do not depend on how the bytes come."""
    for cut in range(len(BODY) + 1):
        dechunker = http1.Dechunker()
        pieces = dechunker.feed(BODY[:cut])
        assert dechunker.done is (cut == len(BODY))
        pieces += dechunker.feed(BODY[cut:])
        assert (b"".join(pieces), dechunker.done, dechunker.excess) == (PAYLOAD, True, b"")
    dechunker = http1.Dechunker()
    pieces = feed_bytewise(dechunker, BODY)
    assert (b"".join(pieces), dechunker.done) == (PAYLOAD, True)


def test_check_counts_what_feed_takes(http1):
    """`check` validates without taking apart; it counts the message's bytes only."""
    dechunker = http1.Dechunker()
    assert dechunker.check(BODY[:20]) == 20
    assert dechunker.done is False
    assert dechunker.check(BODY[20:] + b"HTTP/1.1") == len(BODY) - 20
    assert dechunker.done is True
    assert dechunker.check(b"more") == 0
    assert dechunker.excess == b""


def test_bytes_after_the_end_are_kept_apart(http1):
    """What follows the last chunk is excess, now and later."""
    dechunker = http1.Dechunker()
    assert dechunker.feed(b"1\r\nx\r\n0\r\n\r\nHTTP") == [b"x"]
    assert dechunker.feed(b"/1.1") == []
    assert dechunker.excess == b"HTTP/1.1"


def test_a_read_inside_a_chunk_is_not_copied(http1):
    """A read that is payload only comes out as the same object."""
    dechunker = http1.Dechunker()
    dechunker.feed(b"1000\r\n")
    data = b"x" * 2048
    assert dechunker.feed(data)[0] is data
    assert dechunker.feed(b"") == []


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"1\t\r\n",
        b";\r\n",
        b"1\n",
        b"1\rx",
        b"1\r\r\n",
        b"1\r\nxx",
        b"1\r\nx\n",
        b"1\r\nx\rx",
        b"1\r\nx\r\n\r\n",
        b"2 ext\r\n",
        b"2;\r\n",
        b"2;a;\r\n",
        b"2;a=\r\n",
        b"2;a=;b\r\n",
        b"2; a\r\n",
        b"2;a =b\r\n",
        b'2;a="b"c\r\n',
        b'2;a="b\r\n',
        b"2;a=b\0\r\n",
        b'2;a="\x01"\r\n',
        b'2;a="\\\n"\r\n',
        b"2;=b\r\n",
        b"2;a=b=c\r\n",
        b"2;a\n",
        b"2;" + b"a" * 256 + b"\r\n",
        b"1" * 16,
        b"0" * 16,
        b"0\r\nTrailer: x\r\n\r\n",
        b"0\r\n\n",
        b"0\r\n\rx",
        b"0\n\n",
        b"5\r\nhello0\r\n",
    ],
)
def test_bad_framing_is_refused_for_good(http1, raw):
    """Sizes, line ends, extensions and trailers that another reader could take otherwise."""
    whole = http1.Dechunker()
    with pytest.raises(http1.BadChunk):
        whole.feed(raw)
    with pytest.raises(http1.BadChunk):
        whole.feed(b"0\r\n\r\n")
    assert whole.done is False
    with pytest.raises(http1.BadChunk):
        http1.Dechunker().check(raw)
    with pytest.raises(http1.BadChunk):
        feed_bytewise(http1.Dechunker(), raw)


def test_bounds_of_a_size_line(http1):
    """15 digits, and extensions of 256 bytes a chunk, are taken."""
    dechunker = http1.Dechunker()
    assert dechunker.check(b"f" * 15 + b"\r\n") == 17
    line = b"1;" + b"a" * 255 + b"\r\nx\r\n"
    assert http1.Dechunker().check(line * 3) == 3 * len(line)


# -- both builds say the same ----------------------------------------------------------------------

ALPHABET = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.0 204",
        b"\r\n",
        b"\n",
        b"\r",
        b"content-length",
        b":",
        b" ",
        b"\t",
        b"5",
        b"0",
        b"transfer-encoding: chunked",
        b"connection: close",
        b"Keep-Alive: timeout=3",
        b",",
        b"\0",
        b"\x7f",
        b"\xff",
        b"x-a: b\r\n",
        b"x" * 9,
        b"=",
        b"%",
        b"HTTP/1.",
        b"timeout=1",
        b"keep-alive",
    ]
)
CHUNKS = st.sampled_from(
    [
        b"0",
        b"1",
        b"a",
        b"F",
        b"\r\n",
        b"\r",
        b"\n",
        b";",
        b"=",
        b'"',
        b"\\",
        b"x",
        b" ",
        b"\0",
        b"5\r\nhello\r\n",
    ]
)


def head_verdict(http1, raw):
    try:
        head = http1.parse_head(raw)
    except http1.BadHead as bad:
        return str(bad)
    if head is None:
        return None
    return (
        head.status,
        head.minor,
        head.headers,
        head.size,
        head.length,
        head.chunked,
        head.keep_alive,
        head.idle_s,
    )


def chunk_verdict(http1, cuts):
    dechunker, seen = http1.Dechunker(), []
    try:
        seen.extend((dechunker.feed(piece), dechunker.done, dechunker.excess) for piece in cuts)
    except http1.BadChunk as bad:
        seen.append(str(bad))
    return seen


@pytest.mark.skipif(len(BUILDS) < 2, reason="the extension is not built")
@settings(max_examples=600, deadline=None)
@given(st.lists(ALPHABET, max_size=14).map(b"".join), st.booleans())
def test_builds_agree_on_heads(raw, started):
    """Same verdict, same fields, same words for any bytes."""
    raw = b"HTTP/1.1 200 OK\r\n" + raw + b"\r\n\r\n" if started else raw
    assert head_verdict(BUILDS["compiled"], raw) == head_verdict(BUILDS["pure"], raw)


@pytest.mark.skipif(len(BUILDS) < 2, reason="the extension is not built")
@settings(max_examples=600, deadline=None)
@given(st.lists(CHUNKS, max_size=14).map(b"".join), st.integers(0, 40), st.booleans())
def test_builds_agree_on_chunks(raw, cut, started):
    """Same pieces, same end, same words for any bytes in any cut."""
    raw = b"3;a\r\nabc\r\n" + raw if started else raw
    cuts = [raw[:cut], raw[cut:]]
    assert chunk_verdict(BUILDS["compiled"], cuts) == chunk_verdict(BUILDS["pure"], cuts)


@settings(max_examples=200, deadline=None)
@given(st.lists(ALPHABET, max_size=10).map(b"".join), st.integers(0, 200))
def test_a_verdict_stands_whatever_follows(raw, cut):
    """A head refused in part is refused whole, and a complete one does not change."""
    raw = b"HTTP/1.1 200 OK\r\n" + raw + b"\r\n\r\n"
    for module in BUILDS.values():
        early = head_verdict(module, raw[:cut])
        if early is not None:
            assert early == head_verdict(module, raw)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(0, 300)))
def test_any_payload_survives_any_cut(payloads, cuts):
    """What is chunked and cut comes back whole."""
    raw = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in payloads) + b"0\r\n\r\n"
    edges = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    for module in BUILDS.values():
        dechunker = module.Dechunker()
        pieces = []
        for start, end in itertools.pairwise(edges):
            pieces += dechunker.feed(raw[start:end])
        assert (b"".join(pieces), dechunker.done) == (b"".join(payloads), True)
