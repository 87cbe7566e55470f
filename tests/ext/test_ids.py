"""Ids are short, url-safe, and never given twice, not even by a forked or restarted process."""

from __future__ import annotations

import os
import re

import pytest

SHAPE = re.compile(r"[0-9A-Za-z_-]{26}")

# The worst day: a fork that repeats its parent, a second source, a counter at its digit's end.


def test_a_fork_draws_anew(build):
    """Parent and child go on with ids of their own."""
    source = build.ids.Source("x")
    source.next()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "\n".join(source.next() for _ in range(100)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        theirs = lines.read().split("\n")
    os.waitpid(child, 0)
    ours = [source.next() for _ in range(100)]
    assert len(theirs) == 100
    assert not set(theirs) & set(ours)
    assert theirs[0][:18] != ours[0][:18]


def test_sources_do_not_share(build):
    """Each source has its own random text, as a restarted process has."""
    heads = {build.ids.Source("").next()[:18] for _ in range(200)}
    assert len(heads) == 200


def test_the_counter_carries(build):
    """Many ids, all different, all of one shape, in the order of the counter."""
    source = build.ids.Source("ex-")
    ids = [source.next() for _ in range(62 * 62 + 5)]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    assert all(SHAPE.fullmatch(made) and made.startswith("ex-") for made in ids)
    assert ids[0][-8:] == "00000000"
    assert ids[62][-8:] == "00000010"
    assert len({made[:18] for made in ids}) == 1


def test_prefixes_are_checked(build):
    """Only url-safe prefixes that leave room for enough random text."""
    for prefix in ("sevench", "a/b", "é", "a b"):
        with pytest.raises(ValueError, match="not a prefix"):
            build.ids.Source(prefix)
    assert SHAPE.fullmatch(build.ids.Source("").next())
    assert SHAPE.fullmatch(build.ids.Source("sixch_").next())
