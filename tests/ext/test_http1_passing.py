"""What the lanes pass on: a head's fields under other labels, chunks that came whole."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["compiled", "pure"])
def http1(request):
    name = "fastgw._ext._http1" if request.param == "compiled" else "fastgw._ext.pure.http1"
    return pytest.importorskip(name, exc_type=ImportError)


HEAD = (
    b"HTTP/1.1 200 OK\r\nOpenAI-Version:  2020 \r\nContent-Type: a/b\r\nset-cookie: x=1\r\n"
    b"X-Request-ID: r\r\ncontent-type: text/event-stream; charset=utf-8\t\r\n\r\nbody"
)


class Labels(dict):
    """Renames by a rule, as the flow's labels do."""

    def __missing__(self, name):
        return b"" if name == b"set-cookie" else b"up-%b: " % name


def test_fields_pass_under_their_labels(http1):
    """Each field in order, its value trimmed, without those that have no label."""
    head = http1.parse_head(HEAD)
    assert head.relabel(Labels({b"openai-version": b"openai-version: "})) == (
        b"openai-version: 2020\r\nup-x-request-id: r\r\n"
    )
    assert head.content_type == b"text/event-stream; charset=utf-8"
    assert [name for name, _ in head.headers].count(b"content-type") == 2


def test_a_head_without_fields(http1):
    """Nothing to pass on is an empty text, no content type is an empty one."""
    head = http1.parse_head(b"HTTP/1.1 200 OK\r\n\r\n")
    assert head.relabel(Labels()) == b""
    assert head.content_type == b""


@pytest.mark.parametrize(
    ("feeds", "whole"),
    [
        ([b"3\r\nabc\r\n"], [True]),
        ([b"3\r\nabc\r\n1\r\nd\r\n"], [True]),
        ([b"3\r\nab", b"c\r\n", b"1\r\nd\r\n"], [False, False, True]),
        ([b"3\r\nabc\r\n1", b"\r\nd\r\n"], [False, False]),
        ([b"3;a=b\r\nabc\r\n", b"1\r\nd\r\n"], [False, True]),
        ([b"3\r\nabc\r\n0\r\n\r\n"], [False]),
    ],
)
def test_whole_chunks_are_told(http1, feeds, whole):
    """Bytes may go through with their framing only if they are whole plain chunks, not the last."""
    dechunker = http1.Dechunker()
    told = []
    for data in feeds:
        dechunker.feed(data)
        told.append(dechunker.was_whole())
    assert told == whole
