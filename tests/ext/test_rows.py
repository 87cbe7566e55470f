"""Rows are made fit, summed and encoded alike in both builds, whatever is in them."""

from __future__ import annotations

import random
import struct
import sys

import pytest

from fastgw._ext.columns import AS_IT_IS, JSON, NUMBER

MOST = 10**15


def shape(build, *columns):
    return build.rows.Shape(columns, MOST, tuple, repr)


def test_what_fits_is_kept(build):
    """Values that need nothing are the same objects; None is kept in every column."""
    text, number, anything = "short", 12345, object()
    columns = (8, NUMBER, AS_IT_IS, JSON)
    (row,) = shape(build, *columns).fit([(text, number, anything, {})])
    assert row == (text, number, anything, "{}")
    assert row[0] is text
    assert row[1] is number
    empty = (None,) * 4
    assert shape(build, *columns).fit([empty, empty]) == [empty, empty]
    assert shape(build, *columns).fit([]) == []


@pytest.mark.parametrize(
    ("text", "fit"),
    [
        ("12345678", "12345678"),
        ("123456789", "12345678"),
        ("", ""),
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b"),
        ("\ud800", "?"),
        ("üüüüüüüüü", "üüüüüüüü"),
        ("ü\0", "ü\N{REPLACEMENT CHARACTER}"),
        ("\N{GRINNING FACE}" * 9, "\N{GRINNING FACE}" * 8),
    ],
)
def test_texts_are_cut_and_mended(build, text, fit):
    """NUL, lone surrogates and length are no reason for a database to refuse."""
    assert shape(build, 8).fit([(text,)]) == [(fit,)]


@pytest.mark.parametrize(
    ("number", "fit"),
    [
        (0, 0),
        (MOST, MOST),
        (MOST + 1, MOST),
        (2**63, MOST),
        (2**80, MOST),
        (-1, 0),
        (-(2**63), 0),
        (-(2**80), 0),
        (True, 1),
        (False, 0),
    ],
)
def test_numbers_are_bounded(build, number, fit):
    """Nonsense from a provider becomes a bound; truth values become numbers."""
    ((found,),) = shape(build, NUMBER).fit([(number,)])
    assert found == fit
    assert type(found) is int


def test_mappings_are_encoded(build):
    """By the shape's encoder, and only those that hold something."""
    assert shape(build, JSON).fit([({"a": 1},), ({},)]) == [("{'a': 1}",), ("{}",)]


def test_a_shared_mapping_is_encoded_once(build):
    """Equal ones that are not the same are encoded apart, and nothing is kept for the next time."""
    asked = []

    def encode(value):
        asked.append(value)
        return str(len(asked))

    made = build.rows.Shape((JSON,), MOST, tuple, encode)
    shared = {"a": 1}
    assert made.fit([(shared,), ({"a": 1},), (shared,)]) == [("1",), ("2",), ("1",)]
    assert made.fit([(shared,)]) == [("3",)]


def test_an_encoder_that_fails_leaves_nothing_behind(build):
    """The error comes through; what was begun is let go."""

    def fail(value):
        raise KeyError(value)

    marker = object()
    before = sys.getrefcount(marker)
    made = build.rows.Shape((AS_IT_IS, JSON), MOST, tuple, fail)
    with pytest.raises(KeyError):
        made.fit([(marker, {}), (marker, {"a": 1})])
    assert sys.getrefcount(marker) == before


def test_rows_of_another_shape_are_refused(build):
    """A missing column is a defect, not a NULL, and nothing is read past the end of a row."""
    for record in [(), (1,), (1, 2, 3)]:
        with pytest.raises(ValueError, match="width"):
            shape(build, NUMBER, NUMBER).fit([record])
    for columns in [(), (0,) * 65]:
        with pytest.raises(ValueError, match="columns"):
            shape(build, *columns)
    with pytest.raises(IndexError):
        build.rows.group([(1, 2)], 0, 10, (1,), (2,))
    with pytest.raises(IndexError):
        build.rows.group([(1, 2)], 0, 10, (-3,), ())


def test_groups_of_one_day(build):
    """Rows with equal keys become one: time cut, count, sums, latest time."""
    rows = [(12, "a", 3, 100), (19, "a", 4, 200), (11, None, 5, 300), (25, "a", 6, 400)]
    assert build.rows.group(rows, 0, 10, (1,), (2, 3)) == [
        (10, "a", 2, 7, 300, 19),
        (10, None, 1, 5, 300, 11),
        (20, "a", 1, 6, 400, 25),
    ]
    assert build.rows.group([], 0, 10, (1,), (2,)) == []
    assert build.rows.group(rows, 0, 1000, (), ()) == [(0, 4, 25)]


def test_many_groups_in_both_builds(twins):
    """Any rows give the same groups, however many there are."""
    source = random.Random(3)
    rows = [
        (source.randrange(10**13), source.choice("abc"), str(source.randrange(900)), number)
        for number in range(3000)
    ]
    ours, theirs = (build.rows.group(rows, 0, 10**9, (1, 2), (3,)) for build in twins)
    assert ours == theirs
    assert sum(row[3] for row in ours) == 3000


def test_a_sum_that_no_column_holds_is_refused(build):
    """An overflow is an error, never a negative sum."""
    rows = [(1, 2**62), (1, 2**62)]
    with pytest.raises(OverflowError):
        build.rows.group(rows, 0, 1, (), (1,))


def test_copy_is_encoded_as_postgresql_documents_it(build):
    """Signature, flags, extension, then width and lengths, then the end mark."""
    head = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
    assert build.rows.copy_binary([]) == head + b"\xff\xff"
    assert build.rows.copy_binary([("aü", -2, None), ("", True, "\0")]) == b"".join(
        (
            head,
            struct.pack("!hi3siqi", 3, 3, "aü".encode(), 8, -2, -1),
            struct.pack("!hiiqi1s", 3, 0, 8, 1, 1, b"\0"),
            b"\xff\xff",
        )
    )


def test_what_no_column_holds_is_not_encoded(build):
    """Numbers past 64 bits, lone surrogates and floats are refused."""
    for value, error in ((2**63, OverflowError), ("\ud800", UnicodeEncodeError), (1.5, TypeError)):
        with pytest.raises(error):
            build.rows.copy_binary([(value,)])
