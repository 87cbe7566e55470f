"""Find top-level values of one JSON object without building it.

Twin of _scan.pyx, which says what is checked and why; here the same rules stand on methods of
`bytes` and regular expressions.
"""

from __future__ import annotations

import re

import orjson

MAX_NAMES = 64
MAX_NAME = 64
MAX_DEPTH = 100

_SPACE = re.compile(rb"[ \n\r\t]*+")
_NUMBER = re.compile(
    rb"-?+(?:0(?![0-9])|[1-9][0-9]*+)(?:\.[0-9]++|(?!\.))(?:[eE][+-]?+[0-9]++|(?![eE]))"
)
_WORDS = {b"t": b"true", b"f": b"false", b"n": b"null"}
_PLAIN = re.compile(rb"[ \t\n\r,:+\-.0-9a-zA-Z]*+")
_CLOSER = {b"[": b"]", b"{": b"}"}
_CONTROL = re.compile(rb"[\x00-\x1f]")
_FOLD = {0x17F: "s", 0x212A: "k"}
"""The two characters outside ASCII that fold to ASCII letters."""


class ScanError(ValueError):
    """The body is not one JSON object that can be read in one way only.

    `reason` is not_json, not_object, trailing, too_deep, duplicate or escaped; `key` is the wanted
    name at fault with the last two, else None.
    """

    def __init__(self, reason: str, key: bytes | None = None) -> None:
        super().__init__(reason if key is None else f"{reason}: {key.decode()}")
        self.reason = reason
        self.key = key


def close_quote(body: bytes, start: int) -> int:
    """Find the quote that closes the string whose text begins at `start`, or -1."""
    at = start
    while (quote := body.find(b'"', at)) >= 0:
        run = quote
        while run > start and body[run - 1] == 0x5C:
            run -= 1
        if (quote - run) % 2 == 0:
            return quote
        at = quote + 1
    return -1


def skip_space(body: bytes, at: int) -> int:
    """Pass JSON whitespace."""
    match = _SPACE.match(body, at)
    assert match is not None
    return match.end()


def _string_end(body: bytes, at: int) -> int:
    quote = close_quote(body, at + 1)
    if quote < 0:
        raise ScanError("not_json")
    return quote + 1


def skip_container(body: bytes, at: int, depth: int) -> int:
    """Pass the container that opens at `at`, itself `depth` deep."""
    closers: list[bytes] = []
    while True:
        match = _PLAIN.match(body, at)
        assert match is not None
        at = match.end()
        byte = body[at : at + 1]
        if byte == b'"':
            at = _string_end(body, at)
            continue
        if byte in _CLOSER:
            if depth + len(closers) > MAX_DEPTH:
                raise ScanError("too_deep")
            closers.append(_CLOSER[byte])
        elif byte and byte == closers[-1]:
            closers.pop()
            if not closers:
                return at + 1
        else:
            raise ScanError("not_json")
        at += 1


def _skip_value(body: bytes, at: int, depth: int) -> int:
    byte = body[at : at + 1]
    if byte == b'"':
        return _string_end(body, at)
    if byte in _CLOSER:
        return skip_container(body, at, depth)
    if byte in _WORDS:
        if not body.startswith(_WORDS[byte], at):
            raise ScanError("not_json")
        return at + len(_WORDS[byte])
    match = _NUMBER.match(body, at)
    if match is None:
        raise ScanError("not_json")
    return match.end()


def _look_alike(key: bytes, wanted: dict[bytes, bytes]) -> tuple[bytes | None, bool]:
    # The name that a top-level key is or looks like, and whether it is exactly that.
    if _CONTROL.search(key):
        raise ScanError("not_json")
    if b"\\" not in key and key.isascii():
        name = wanted.get(key.lower())
        return name, name == key
    try:
        text = orjson.loads(b'"' + key + b'"')
    except orjson.JSONDecodeError:
        raise ScanError("not_json") from None
    name = wanted.get(text.translate(_FOLD).encode().lower())
    if name is not None and b"\\" in key:
        raise ScanError("escaped", name)
    return name, False


def _by_lower_name(names: frozenset[bytes]) -> dict[bytes, bytes]:
    if len(names) > MAX_NAMES:
        raise ValueError(f"more than {MAX_NAMES} names")
    for name in names:
        if not 0 < len(name) <= MAX_NAME or not name.isascii():
            raise ValueError(f"not a name to look for: {name!r}")
    return {name.lower(): name for name in names}


def _object_spans(body: bytes, at: int, names: frozenset[bytes]) -> dict[bytes, tuple[int, int]]:
    wanted = _by_lower_name(names)
    found: dict[bytes, tuple[int, int]] = {}
    alike: set[bytes] = set()
    at = skip_space(body, at + 1)
    while body[at : at + 1] == b'"':
        start = at + 1
        at = _string_end(body, at)
        name, exact = _look_alike(body[start : at - 1], wanted)
        if name is not None:
            if name in found or (exact and name in alike):
                raise ScanError("duplicate", name)
            if not exact:
                alike.add(name)
        at = skip_space(body, at)
        if body[at : at + 1] != b":":
            raise ScanError("not_json")
        start = skip_space(body, at + 1)
        at = _skip_value(body, start, 2)
        if name is not None and exact:
            found[name] = (start, at)
        at = skip_space(body, at)
        if body[at : at + 1] == b"}":
            break
        if body[at : at + 1] != b",":
            raise ScanError("not_json")
        at = skip_space(body, at + 1)
        if body[at : at + 1] == b"}":
            raise ScanError("not_json")
    if body[at : at + 1] != b"}":
        raise ScanError("not_json")
    if skip_space(body, at + 1) != len(body):
        raise ScanError("trailing")
    return found


def top_level(body: bytes, names: frozenset[bytes]) -> dict[bytes, tuple[int, int]]:
    """Give the spans (start, end) of the values of the wanted top-level keys, or ScanError."""
    at = skip_space(body, 0)
    if body[at : at + 1] == b"{":
        return dict(sorted(_object_spans(body, at, names).items()))
    at = _skip_value(body, at, 1)
    raise ScanError("not_object" if skip_space(body, at) == len(body) else "trailing")
