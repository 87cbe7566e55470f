"""Request heads, in both builds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = (b"authorization", b"content-type", b"x-request-id", b"x-stainless-runtime-version")
HEAD = (
    b"POST /v1/chat/completions?a=b%20c HTTP/1.1\r\nHost: gw.test:8080\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
    b"Content-Type: application/json\r\n"
    b"X-Stainless-Runtime-Version:3.12.1\r\nAuthorization: \t Bearer fgw-abc \t\r\nX-Empty:\r\n"
    b"X-Text: caf\xc3\xa9\t!\r\nContent-Length: 0012\r\n\r\n"
)
FIRST = b"GET / HTTP/1.1\r\n"
HOST = b"Host: a\r\n"


def verdict(request, buf, wanted=NAMES):
    """Give what a build makes of one buffer, in a form that two builds can be compared by."""
    try:
        head = request.read(buf, request.Fields(wanted))
    except request.BadRequest as error:
        return error.status, error.message
    return head and facts(head, len(wanted))


def facts(head, wanted):
    return (
        (head.size, head.method, head.target, head.minor, head.length, head.chunked, head.close),
        (head.keep_alive, head.expect, head.upgrade, head.fields, head.repeated),
        [head.value(i) for i in range(wanted)],
    )


def status(build, buf):
    """Give the status of a refusal, True for a whole head, None for an incomplete one."""
    found = verdict(build.request, buf)
    return found if found is None else found[0] if isinstance(found[0], int) else True


# -- what is read --------------------------------------------------------------------------------


def test_a_head_is_read_whole(build):
    """Framing, target and the wanted values come out; white space around values is left out."""
    head = build.request.read(HEAD + b'{"model"', build.request.Fields(NAMES))
    assert (head.size, head.method, head.target) == (
        len(HEAD),
        b"POST",
        b"/v1/chat/completions?a=b%20c",
    )
    assert (head.minor, head.length, head.chunked, head.close) == (1, 12, False, False)
    assert (head.keep_alive, head.expect, head.upgrade, head.fields) == (False, False, False, 9)
    assert [head.value(i) for i in range(len(NAMES))] == [
        b"Bearer fgw-abc",
        b"application/json",
        None,
        b"3.12.1",
    ]
    assert head.repeated == 0


def test_a_repeated_field_shows(build):
    """The first value is given, and a bit says that there is another one."""
    head = build.request.read(
        FIRST + HOST + b"Authorization: one\r\nauthorization: two\r\nX-Request-ID:\r\n\r\n",
        build.request.Fields(NAMES),
    )
    assert (head.value(0), head.value(2), head.repeated) == (b"one", b"", 1)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"HTTP/1.1\r\nHost: a\r\n", (False, False, False, False)),
        (b"HTTP/1.1\r\nHost: a\r\nConnection: x , CLOSE\t,y\r\n", (True, False, False, False)),
        (b"HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n", (False, False, False, False)),
        (b"HTTP/1.0\r\n", (True, False, False, False)),
        (b"HTTP/1.0\r\nConnection: Keep-Alive\r\n", (False, True, False, False)),
        (b"HTTP/1.0\r\nConnection: keep-alive, close\r\n", (True, False, False, False)),
        (b"HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n", (False, False, True, False)),
        (b"HTTP/1.0\r\nExpect: anything\r\n", (True, False, False, False)),
        (b"HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n", (False, False, False, True)),
    ],
)
def test_what_becomes_of_the_connection(build, lines, expected):
    """Connection, Expect and Upgrade are understood, each in its version."""
    head = build.request.read(b"GET / " + lines + b"\r\n", build.request.Fields(()))
    assert (head.close, head.keep_alive, head.expect, head.upgrade) == expected


@pytest.mark.parametrize("method", b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH".split())
def test_methods(build, method):
    """The methods of RFC 9110 and PATCH are known, but for CONNECT."""
    head = build.request.read(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n", build.request.Fields(()))
    assert head.method == method


@pytest.mark.parametrize(
    "target",
    b"/ //a/../b /a%20b;c=d?e=%ff?&f[]=[/] http://a/ HTTP://A:80?b https://a:443/c/d".split(),
)
def test_targets(build, target):
    """Origin-form and absolute-form of the same host are taken, brackets in a query too."""
    head = build.request.read(
        b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target, build.request.Fields(())
    )
    assert head.target == target


@pytest.mark.parametrize(
    "host",
    b"a a.b-c_d~e A:80 a: a:0 a:65535 127.0.0.1:8080 0.0.0.0=5000 %41b [::1] [::1]:8080 [1::] "
    b"[::ffff:1.2.3.4] [1:2:3:4:5:6:7:8] [1:2:3:4:5:6:1.2.3.4] [1::3:4:5:6:7:8]".split(),
)
def test_hosts(build, host):
    """Names, addresses of both kinds, with and without a port."""
    assert status(build, FIRST + b"Host: %b\r\n\r\n" % host) is True


def test_empty_lines_before_the_request_are_passed(build):
    """Some clients send CR LF after a body; two are passed, a third is no request line."""
    assert status(build, b"\r\n\r\n" + FIRST + HOST + b"\r\n") is True
    assert status(build, b"\r\n\r\n\r\n") == 400


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "buf",
    [
        b"GET / HTTP/1.1\n",
        b"\n",
        b"GET / HTTP/1.1\rX",
        b"\x16\x03\x01",
        b"GET /\x00",
        FIRST + b"a: b\n",
        FIRST + b"a: b\rc",
        FIRST + b"a: b\x00",
        FIRST + b"a: \x7f",
        FIRST + b"Content\rLength: 1\r\n",
        FIRST + b" a: b\r\n",
        FIRST + b"a: b\r\n\tc\r\n",
        FIRST + b"a : b\r\n",
        FIRST + b"a\t: b\r\n",
        FIRST + b": b\r\n",
        FIRST + b"a\r\n",
        FIRST + b"a[: b\r\n",
        FIRST + b"caf\xc3\xa9: b\r\n",
        b"GET  / HTTP/1.1\r\n",
        b"GET /  HTTP/1.1\r\n",
        b"GET / HTTP/1.1 \r\n",
        b" GET / HTTP/1.1\r\n",
        b"GET\t/ HTTP/1.1\r\n",
        b"GET /\r\n",
        b"GET HTTP/1.1\r\n",
        b"GET / HTTP/1\r\n",
        b"GET / HTTP/1.10\r\n",
        b"GET / http/1.1\r\n",
        b"GET / HTTP/1,1\r\n",
        b"G[T / HTTP/1.1\r\n",
    ],
)
def test_lines_that_are_none(build, buf):
    """What two servers may read as different lines is refused as soon as it shows."""
    assert status(build, buf) == 400


@pytest.mark.parametrize(
    "target",
    b'/" /< /> /\\ /^ /` /{ /| /} /[ /] /# /a#b /%2 /%zz /a?% /\x80 a a/b ftp://a/ http:/a http:// '
    b"http://?a http://a:b/ http://u@a/ http://[a/ a:443 * *a http://b/ http://a:81/ https://a:80/ "
    b"//a?b| s://]a/".split(),
)
def test_bad_targets(build, target):
    """Only RFC 3986 characters, no fragment, no user information, no other host than Host's."""
    assert status(build, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target) == 400


@pytest.mark.parametrize(
    "host",
    [
        *b"u@a a/b a?b a#b a,b a:b a:80:80 a:65536 a:-1 :80 [::1 ::1 [::1]a [] [:] [:::] [1:2] %zz "
        b'a"b <a> a\\b {a} [1:2:3:4:5:6:7:8:9] [::1%25eth0] [::1.2.3] [::1.2.3.256] [12345::] '
        b"[1::2::3] [1:2:3:4:5:6:7::8] [v1.a] http://a [::01.2.3.4]".split(),
        b"",
        b"a b",
        b"a, b",
        b"caf\xc3\xa9",
    ],
)
def test_bad_hosts(build, host):
    """RFC 3986 host [":" port], and not empty."""
    assert status(build, FIRST + b"Host: %b\r\n" % host) == 400


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"Content-Length: \r\n", 400),
        (b"Content-Length: +1\r\n", 400),
        (b"Content-Length: 1_0\r\n", 400),
        (b"Content-Length: 0x1\r\n", 400),
        (b"Content-Length: 1, 1\r\n", 400),
        (b"Content-Length: 1234567890123456789\r\n", 400),
        (b"Content-Length: 1\r\nContent-Length: 1\r\n", 400),
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked, chunked\r\n", 400),
        (b"Transfer-Encoding: chunked, gzip\r\n", 400),
        (b"Transfer-Encoding: ,chunked\r\n", 400),
        (b"Transfer-Encoding: chunked,\r\n", 400),
        (b"Transfer-Encoding: chunked;a=b\r\n", 400),
        (b"Transfer-Encoding: \r\n", 400),
        (b"Transfer-Encoding: \xa0chunked\r\n", 400),
        (b"Transfer-Encoding: gzip\r\n", 501),
        (b"Transfer-Encoding: xchunked\r\n", 501),
        (b"Transfer-Encoding: gzip , chunked\r\n", 501),
        (b"Transfer-Encoding: chunked\r\n", None),
        (b"Transfer-Encoding:CHUNKED \t\r\n", None),
        (b"Host: a\r\nHost: a\r\n", 400),
        (b"\r\n", 400),
        (b"Content-Type: a\r\ncontent-type: a\r\n", 400),
        (b"Expect: 100\r\n", 417),
    ],
)
def test_framing_fields(build, fields, expected):
    """One plain framing field; each line is judged when it is complete, not at the end."""
    assert status(build, FIRST + fields) == expected


def test_transfer_encoding_is_not_part_of_http_1_0(build):
    """An HTTP/1.0 proxy in between would not have seen the framing."""
    assert status(build, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n") == 400


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/0.9", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"GET / RTSP/1.0", 400),
        (b"CONNECT a:443 HTTP/1.1", 501),
        (b"get / HTTP/1.1", 501),
        (b"FOOBAR / HTTP/1.1", 501),
    ],
)
def test_versions_and_methods(build, line, expected):
    """What is well-formed and not spoken here is told from what is malformed."""
    assert status(build, line + b"\r\n") == expected


# -- limits --------------------------------------------------------------------------------------


def test_a_line_has_8_kib(build):
    """CR LF included; one byte more is refused, whether its end has come or not."""
    fits = 8192 - len(b"GET / HTTP/1.1\r\n")
    line = b"GET /%b HTTP/1.1\r\n" % (b"a" * fits)
    assert status(build, line + HOST + b"\r\n") is True
    assert status(build, line[:-1]) is None
    assert status(build, line.replace(b"/a", b"/aa")) == 414
    assert status(build, b"a" * 8191) is None
    assert status(build, b"a" * 8192) == 414
    field = b"a:" + b"b" * 8188 + b"\r\n"
    assert status(build, FIRST + HOST + field + b"\r\n") is True
    assert status(build, FIRST + b"b" + field) == 431
    assert status(build, FIRST + b"b" * 8192) == 431


def test_a_head_has_64_kib_and_100_fields(build):
    """Sizes count from the first byte to the last of the empty line."""
    head = FIRST + HOST + b"".join(b"a:%b\r\n" % (b"b" * 1000) for _ in range(64))
    head += b"c:" + b"d" * (65536 - len(head) - 6) + b"\r\n\r\n"
    assert len(head) == 65536
    assert status(build, head) is True
    assert status(build, head[:-1]) is None
    assert status(build, head.replace(b"c:", b"c: ")) == 431
    fields = FIRST + HOST + b"a:\r\n" * 99
    assert status(build, fields + b"\r\n") is True
    assert status(build, fields + b"a:\r\n") == 431


def test_wanted_names_are_checked(build):
    """64 different lower-case names."""
    for names in (
        [b"A"],
        [b""],
        [b"a_b"],
        [b"a", b"a"],
        [b"a" * 65],
        [b"%d" % n for n in range(65)],
    ):
        with pytest.raises(ValueError, match=r"name|twice"):
            build.request.Fields(names)
    names = [b"x-%d" % n for n in range(64)]
    head = build.request.read(
        FIRST + HOST + b"".join(b"%b: %b\r\n" % (name.upper(), name) for name in names) + b"\r\n",
        build.request.Fields(names),
    )
    assert [head.value(i) for i in range(64)] == names


# -- cuts ----------------------------------------------------------------------------------------


def grow(request, buf):
    """Give the verdict over a buffer that grows by single bytes, and when it fell."""
    reader = request.Reader(request.Fields(NAMES))
    for size in range(1, len(buf) + 1):
        try:
            head = reader.read(buf[:size])
        except request.BadRequest as error:
            return size, error.status, error.message
        if head is not None:
            return facts(head, len(NAMES))
    return None


def test_single_bytes_make_the_same_head(build):
    """The reader remembers where it stands, and never waits for a byte it does not need."""
    assert grow(build.request, HEAD) == verdict(build.request, HEAD)
    for size in range(len(HEAD)):
        assert verdict(build.request, HEAD[:size]) is None


def test_a_long_line_of_single_bytes_is_read_once(build):
    """Work is linear in the bytes however they come: a head of 64 KiB in single bytes is quick."""
    reader = build.request.Reader(build.request.Fields(NAMES))
    head = FIRST + HOST + (b"a: " + b"b" * 8000 + b"\r\n") * 8
    for size in range(1, len(head) + 1, 7):
        assert reader.read(head[:size]) is None


PARTS = [b":", b"::", b"1", b"ffff", b".", b"1.2.3.4", b"0", b"12345"]
PIECES = [
    *HEAD.splitlines(keepends=True),
    *(HOST, b"Host: b:80\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"GET ", b"OPTIONS ", b"/", b"*", b"http://a/", b" HTTP/1.1", b" HTTP/1.0", b"\r", b"\n"),
    *(b": ", b"\t", b"\x00", b"[::1]", b"[", b"]", b"%", b"%41", b":80", b",", b"chunked", b"\xff"),
    *(b"Connection: close, keep-alive\r\n", b"x-request-id: 1\r\n", b"Content-Length: 1\r\n"),
]


@given(
    st.one_of(
        st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
        st.tuples(st.integers(0, len(HEAD)), st.sampled_from(PIECES), st.integers(0, 3)).map(
            lambda edit: HEAD[: edit[0]] + edit[1] + HEAD[edit[0] + edit[2] :]
        ),
        st.lists(
            st.sampled_from([b":", b"::", b"1", b"ffff", b".", b"1.2.3.4", b"0", b"12345"])
        ).map(lambda parts: FIRST + b"Host: [%b]\r\n\r\n" % b"".join(parts)),
    )
)
@settings(max_examples=400, deadline=None)
def test_both_builds_agree(twins, buf):
    """Same verdict, same message, and with single bytes at the same byte."""
    compiled, pure = (build.request for build in twins)
    expected = verdict(pure, buf)
    assert verdict(compiled, buf) == expected
    one_by_one = grow(pure, buf)
    assert grow(compiled, buf) == one_by_one
    if expected is not None and isinstance(expected[0], int):
        assert one_by_one[1:] == expected
    else:
        assert one_by_one == expected


# -- the requests of a connection ----------------------------------------------------------------

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
GET = b"GET /g HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'2;a="b"\r\nab\r\n0\r\nX-Sum: 1\r\nX-Other:\r\n\r\n'
)


def follow(request, pieces):
    """Give what goes on of the pieces, and what is known then."""
    framing = request.Framing()
    passed = b"".join([framing.take(piece) for piece in pieces])
    fault = framing.fault and (framing.fault.status, framing.fault.message)
    return (
        passed,
        (framing.requests, framing.target, fault, framing.last),
        (framing.remaining, framing.midway),
    )


def test_what_is_well_framed_goes_on(build):
    """Whole heads and body bytes pass as they come, the beginning of a head is kept back."""
    whole = POST + GET + CHUNKED + b"\r\n" + GET
    facts = (whole, (4, b"/g", None, False), (0, False))
    assert follow(build.request, [whole]) == facts
    assert follow(build.request, [bytes([byte]) for byte in whole]) == facts
    assert follow(build.request, [whole, GET[:-1]])[0] == whole
    assert follow(build.request, [GET[:-1]]) == (b"", (0, b"/g", None, False), (0, True))
    assert follow(build.request, [POST[:-2]])[2] == (2, False)
    assert follow(build.request, [CHUNKED[:-1]])[2] == (-1, False)
    data = POST[-3:]
    framing = build.request.Framing()
    framing.take(POST[:-3])
    assert framing.take(data) is data


def test_nothing_goes_on_after_the_last_request(build):
    """`Connection: close` ends with its body; what comes after it is nobody's."""
    last = POST.replace(b"Host", b"Connection: close\r\nHost")
    assert follow(build.request, [last[:-1], b"c" + GET, GET])[:2] == (last, (1, b"/", None, True))


@pytest.mark.parametrize(
    ("bad", "passed"),
    [
        (b"GET /x HTTP/1.1\n", b""),
        (CHUNKED.replace(b"2;", b"0x2;"), CHUNKED[: CHUNKED.index(b"2;")]),
        (CHUNKED.replace(b"X-Sum", b"Host"), CHUNKED[: CHUNKED.index(b"2;")]),
        (CHUNKED.replace(b"X-Sum:", b"X-Sum"), CHUNKED[: CHUNKED.index(b"2;")]),
        (CHUNKED.replace(b"X-Sum: 1", b"X-Sum: " + b"1" * 8192), CHUNKED[: CHUNKED.index(b"2;")]),
        (CHUNKED.replace(b"a=", b"a" * 300 + b"="), CHUNKED[: CHUNKED.index(b"2;")]),
    ],
)
def test_a_fault_ends_it(build, bad, passed):
    """Requests before it go on, nothing after it does."""
    framing = build.request.Framing()
    assert framing.take(POST + bad + POST) == POST + passed
    assert framing.fault.status == 400
    assert framing.take(POST) == b""


def test_chunk_extensions_are_bounded_together(build):
    """Many short ones are an attack as well: 16 KiB in a body."""
    framing = build.request.Framing()
    framing.take(CHUNKED[: CHUNKED.index(b"2;")])
    for _ in range(65):
        framing.take(b"1;" + b"x" * 250 + b"\r\na\r\n")
    assert framing.fault is None
    framing.take(b"1;" + b"x" * 250 + b"\r\na\r\n")
    assert "extensions" in framing.fault.message


@given(
    st.lists(st.sampled_from([*PIECES, POST, GET, CHUNKED, CHUNKED[:-9]]), max_size=6), st.data()
)
@settings(max_examples=200, deadline=None)
def test_both_builds_follow_alike(twins, parts, data):
    """Whatever comes, however it is cut."""
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if a < b]
    compiled, pure = (follow(build.request, pieces) for build in twins)
    assert compiled == pure
