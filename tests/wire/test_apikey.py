"""Keys: their shape is the contract's, and garbage is told from keys without a look-up."""

from __future__ import annotations

import hashlib
import re
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.wire import apikey

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def test_a_key_has_the_published_shape():
    """`fgw-`, 43 url-safe characters, 6 base62 characters of their CRC-32."""
    secret, digest, hint = apikey.make_key()
    token = secret.reveal()
    assert re.fullmatch(r"fgw-[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}", token)
    number = 0
    for character in token[-6:]:
        number = number * 62 + BASE62.index(character)
    assert number == zlib.crc32(token[4:47].encode())
    assert digest == hashlib.sha256(token.encode()).digest()
    assert hint == f"fgw-…{token[-4:]}"
    assert apikey.is_well_formed(token)


def test_keys_are_never_the_same():
    """Each key is made from 256 random bits."""
    assert len({apikey.make_key()[0].reveal() for _ in range(200)}) == 200


def test_the_secret_is_not_shown():
    """A key in a traceback or a log shows nothing."""
    secret, _, _ = apikey.make_key()
    assert secret.reveal() not in f"{secret!r}{secret}"


def test_any_single_changed_character_is_noticed():
    """CRC-32 catches every single error, wherever it is."""
    token = apikey.make_key()[0].reveal()
    for place in range(len(token)):
        other = "A" if token[place] != "A" else "B"
        assert not apikey.is_well_formed(token[:place] + other + token[place + 1 :])


@pytest.mark.parametrize(
    "token",
    [
        "",
        "fgw-",
        "sk-" + "a" * 50,
        "fgw-" + "a" * 49,
        "fgw-" + "é" * 49,
        "fgw-" + "٣" * 49,
        "FGW-" + "a" * 49,
    ],
)
def test_garbage_is_refused(token):
    """What cannot be a key of ours costs no look-up."""
    assert not apikey.is_well_formed(token)


def test_a_key_with_something_around_it_is_refused():
    """No white space, newline or NUL is overlooked."""
    token = apikey.make_key()[0].reveal()
    for around in (f"{token}\n", f" {token}", f"{token}\0", token + token):
        assert not apikey.is_well_formed(around)


@given(st.text(max_size=60))
def test_no_text_makes_the_check_fail(text):
    """The check answers for any text."""
    assert apikey.is_well_formed(text) in {True, False}


def test_digests_are_compared_whole():
    """Equal digests are equal, others are not, whatever their length."""
    assert apikey.same_digest(b"a" * 32, b"a" * 32)
    assert not apikey.same_digest(b"a" * 32, b"a" * 31 + b"b")
    assert not apikey.same_digest(b"a" * 32, b"a" * 31)
