"""Estimate tokens by runs of character kinds. Twin of _estimate.pyx; the data is weights.py."""

from __future__ import annotations

import re
from bisect import bisect_left

from fastgw._ext import weights
from fastgw._ext.pure.scan import MAX_DEPTH, close_quote, skip_space
from fastgw._ext.weights import (
    AFTER,
    DIGIT,
    LATIN,
    LOWER,
    NEWLINE,
    NONE,
    PUNCT,
    SPACE,
    UPPER,
)

_BULK = 64
"""Longer texts are costed by looking whole runs up, not run by run."""
_LABEL = 0x40
"""A run of spaces is marked with what follows, so that the bytes of a run alone tell its cost."""
_SPACES = re.compile(b"\x04++(?=([%s]))" % re.escape(bytes(weights.SPACE_BEFORE)))
_SOLE = (LOWER, DIGIT, SPACE, NEWLINE, *range(LATIN + 1, weights.KINDS))
_TOKENS = re.compile(
    b"\x02+\x01*|\x07+\x05*|"
    + b"|".join(
        re.escape(bytes((kind,))) + b"+"
        for kind in (*_SOLE, *(_LABEL + kind for kind in weights.SPACE_BEFORE))
    )
)
_LATIN_AS_LOWER = bytes.maketrans(bytes((LATIN,)), bytes((LOWER,)))
_NO_CHARACTER = bytes(byte for byte in range(256) if weights.KIND[byte] == NONE)
_RUNS = re.compile(rb"(.)\1*+", re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|(.?))", re.DOTALL)
_SIMPLE = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_MARK = re.compile(rb'["{}\[\]]|[0-9]++')
_HIGH = bytes(range(128, 256))
_LOWERS = bytes(range(ord("a"), ord("z") + 1))
_EMOJI_LEAD = b"\xf0"


class Meter:
    """Counts hundredths of tokens over text that comes in pieces."""

    __slots__ = ("kind", "run", "units")

    def __init__(self) -> None:
        self.units = 0
        self.kind = NONE
        self.run = 0

    def copy(self) -> Meter:
        """Give another meter in the same state."""
        other = Meter()
        other.units, other.kind, other.run = self.units, self.kind, self.run
        return other

    def _end_run(self, following: int, run: int) -> None:
        if self.kind == NONE:
            return
        if self.kind == SPACE:
            one, more = weights.SPACE_BEFORE.get(following, weights.SPACE_BEFORE_WORD)
            self.units += more if run > 1 else one
            return
        row, slope = weights.RUN[self.kind]
        known = min(run, weights.CAP - 1)
        self.units += row[known] + (run - known) * slope

    def text(self, data: bytes) -> None:
        """Take UTF-8 text; it may be cut anywhere."""
        kinds = data.translate(weights.KIND, _NO_CHARACTER)
        if len(kinds) > _BULK:
            kinds = self._take_inner(kinds)
        for match in _RUNS.finditer(kinds):
            self._take(match[1][0], match.end() - match.start())

    def _take_inner(self, kinds: bytes) -> bytes:
        # All but the first and the last token, which may join what was before and comes behind;
        # gives what is left to take.
        marked = _SPACES.sub(_mark, kinds.translate(_LATIN_AS_LOWER))
        tokens = _TOKENS.findall(marked)
        if len(tokens) < 3:
            return kinds
        self.units += kinds.count(LATIN) * weights.LATIN_EXTRA
        first = tokens[0].translate(_UNMARKED)
        for match in _RUNS.finditer(first):
            self._take(match[1][0], match.end() - match.start())
        self._end_run(tokens[1][0], self.run)
        self.units += sum(map(_COSTS.__getitem__, tokens[1:-1]))
        self.kind = NONE
        return bytes(tokens[-1])

    def _take(self, kind: int, count: int) -> None:
        if kind == LATIN:
            self.units += weights.LATIN_EXTRA * count
            kind = LOWER
        if kind == self.kind or (kind == NEWLINE and self.kind == AFTER):
            self.run += count
            return
        if kind == NEWLINE and self.kind == PUNCT:
            kind = AFTER
        if kind == LOWER and self.kind == UPPER:
            # "Word" is one run; of "HTTPServer" the last capital goes with the word behind it.
            self.run -= 1
            count += 1
        following = NEWLINE if kind == AFTER else kind
        self._end_run(following, self.run)
        self.kind = kind
        self.run = count

    def json(self, data: bytes) -> None:
        """Take the text between the quotes of a JSON string, escapes undone."""
        self.text(_ESCAPE.sub(_unescape, data) if b"\\" in data else data)

    def string(self, data: bytes) -> None:
        """Take what stands between the quotes of a whole JSON string; of a long one, samples.

        Unless the rest is another kind of text, of which counting a few characters tells.
        """
        size = len(data)
        if size >= weights.LONG:
            windows = [data[at : at + weights.WINDOW] for at in range(0, size, weights.STRIDE)]
            sample = Meter()
            for window in windows:
                sample.json(window)
                sample.close()
            part = b"".join(windows)
            if _is_even(part, data):
                self.units += sample.units * size // len(part)
                return
        self.json(data)
        self.close()

    def close(self) -> None:
        """End the open run, so that the next text does not join it."""
        self._end_run(NONE, self.run)
        self.kind = NONE
        self.run = 0

    def tokens(self) -> int:
        """Give whole tokens, rounded up, the open run included."""
        end = self.copy()
        end.close()
        return -(-end.units // 100)


def _is_even(part: bytes, whole: bytes) -> bool:
    """Tell whether a text is mixed like the part of it that was seen, give or take."""
    scale, slack = len(whole) / len(part), len(whole) // 50
    high, space, lower = _tally(part)
    all_high, all_space, all_lower = _tally(whole)
    return (
        all_high <= high * scale * 1.25 + slack
        and space * scale * 0.75 - slack <= all_space <= space * scale * 1.33 + slack
        and lower * scale * 0.85 - slack <= all_lower
    )


def _tally(data: bytes) -> tuple[int, int, int]:
    return (
        len(data) - len(data.translate(None, _HIGH)),
        data.count(b" "),
        len(data) - len(data.translate(None, _LOWERS)),
    )


def _mark(match: re.Match[bytes]) -> bytes:
    return bytes((_LABEL + match[1][0],)) * len(match[0])


_UNMARKED = bytes(SPACE if kind > _LABEL else kind for kind in range(256))


class _TokenCosts(dict[bytes, int]):
    """What tokens cost that do not depend on their neighbours; filled as they are met."""

    def __missing__(self, token: bytes) -> int:
        meter = Meter()
        if token[0] > _LABEL:
            one, more = weights.SPACE_BEFORE[token[0] - _LABEL]
            meter.units = more if len(token) > 1 else one
        else:
            for match in _RUNS.finditer(token):
                meter._take(match[1][0], match.end() - match.start())  # noqa: SLF001
            meter.close()
        if len(token) < _BULK:
            self[token] = meter.units
        return meter.units


_COSTS = _TokenCosts()


def _unescape(match: re.Match[bytes]) -> bytes:
    # Only the kind matters, so the first byte of the character's UTF-8 form is enough.
    if match[1] is None:
        return _SIMPLE.get(match[2], b"\\")
    point = int(match[1], 16)
    if point < 0x80:
        return bytes((point,))
    if 0xD800 <= point <= 0xDFFF:
        return _EMOJI_LEAD if point < 0xDC00 else b""
    return bytes((0xC0 | point >> 6 if point < 0x800 else 0xE0 | point >> 12,))


def text(data: bytes) -> int:
    """Estimate the tokens of UTF-8 text."""
    meter = Meter()
    meter.text(data)
    return meter.tokens()


def _is_data_url(data: bytes) -> bool:
    if len(data) < 6 or not data.startswith(b"data:"):
        return False
    comma = data.find(b",", 0, 128)
    return comma >= 0 and b" " not in data[:comma]


class _Walk:
    """Where in the body the walk is."""

    def __init__(self, rates: weights.Overheads) -> None:
        self.rates = rates
        self.units = 0
        """Ten-thousandths of a token."""
        self.section = 0
        self.name = b""
        self.medium = 0
        """How deep the medium's key stands that is being read, or 0."""
        self.arrays = [False]
        self.seen: set[int] = set()

    @property
    def depth(self) -> int:
        return len(self.arrays) - 1

    def _once(self, section: int, units: int) -> None:
        if section not in self.seen:
            self.seen.add(section)
            self.units += 100 * units

    def key(self, name: bytes) -> None:
        rates = self.rates
        if self.depth == 1:
            self.section = weights.SECTIONS.get(name, 0)
            self.name = b""
            if self.section == weights.TALK:
                self._once(weights.TALK, rates.prompt)
        elif self.section == weights.TALK:
            self.name = name
            if name == weights.CALL:
                self.units += 100 * rates.call
            if name in weights.MEDIA and (not self.medium or self.depth <= self.medium):
                # Inside of one, the same names tell more of it.
                self.units += 100 * rates.medium
                self.medium = self.depth
        elif self.section == weights.TOOLS:
            self._once(weights.TOOLS, rates.toolset)
            self.units += 100 * rates.tool_key
        elif self.section == weights.SCHEMA and self.depth >= weights.SCHEMA_DEPTH:
            self._once(weights.SCHEMA, rates.schema)
            self.units += 100 * rates.schema_key

    def string(self, data: bytes) -> None:
        rates = self.rates
        rate = rates.text
        if self.section == 0:
            return
        if self.section == weights.SCHEMA and self.depth < weights.SCHEMA_DEPTH:
            return
        if self.section == weights.TALK:
            if self.depth == 1:
                self.units += 100 * rates.message
            if self.name in weights.OPAQUE:
                self.units += 100 * rates.opaque * len(data)
                return
            if self.name in weights.UNCOUNTED or _is_data_url(data):
                return
        else:
            rate = rates.tool_text if self.section == weights.TOOLS else rates.schema_text
        meter = Meter()
        meter.string(data)
        self.units += meter.units * rate

    def enter(self, is_array: bool) -> None:
        self.arrays.append(is_array)
        if not is_array and self.depth == weights.MESSAGE_DEPTH and self.section == weights.TALK:
            self.units += 100 * self.rates.message

    def leave(self) -> None:
        if self.depth:
            self.arrays.pop()
        self.name = b""
        if self.depth < self.medium:
            self.medium = 0


_OPENAI = weights.Overheads()


def prompt(body: bytes) -> int:
    """Estimate the prompt tokens of a JSON request body by the rules of OpenAI's models."""
    return _prompt(body, _OPENAI)


def _prompt(body: bytes, rates: weights.Overheads) -> int:
    walk = _Walk(rates)
    at = 0
    while (match := _MARK.search(body, at)) is not None:
        at = match.end()
        mark = match[0]
        if mark == b'"':
            quote = close_quote(body, at)
            if quote < 0:
                break
            colon = skip_space(body, quote + 1)
            if not walk.arrays[-1] and body[colon : colon + 1] == b":":
                walk.key(body[at:quote])
            else:
                walk.string(body[at:quote])
            at = quote + 1
        elif mark in (b"{", b"["):
            if walk.depth == MAX_DEPTH:
                break
            walk.enter(mark == b"[")
        elif mark in (b"}", b"]"):
            walk.leave()
        elif walk.section == weights.TALK and walk.arrays[-1]:
            walk.units += 100 * weights.PER_NUMBER
    return -(-walk.units // 10_000)


class Family:
    """How one model family counts: what requests cost it, how far estimates have been off."""

    __slots__ = ("_bound", "_counts", "_middle", "_overheads", "_ratio", "_total")

    def __init__(self, overheads: weights.Overheads | None = None) -> None:
        self._overheads = overheads or _OPENAI
        self._counts = [0] * len(weights.RATIOS)
        self._counts[weights.RATIO_FIRST] = 1
        self._total = self._bound = 1
        """Of the total, what a family begins with: a bound, nothing that was seen."""
        self._ratio = weights.RATIOS[weights.RATIO_FIRST]
        self._middle = weights.RATIO_WHOLE

    def prompt(self, body: bytes) -> int:
        """Estimate the prompt tokens of a JSON request body: messages, tools, schemas.

        Data URLs and other binary members do not count by their bytes. Never raises: of a body that
        is not JSON, or over 100 deep, what was read counts.
        """
        return _prompt(body, self._overheads)

    def observe(self, estimated: int, actual: int, /) -> None:
        """Learn from one prompt: what was estimated, what the provider counted."""
        if estimated < weights.RATIO_LEAST or actual < 1:
            return
        estimated = min(estimated, weights.RATIO_RANGE)
        actual = min(actual, weights.RATIO_RANGE)
        ratio = -(-actual * weights.RATIO_WHOLE // estimated)
        last = len(weights.RATIOS) - 1
        self._counts[min(bisect_left(weights.RATIOS, ratio), last)] += 1
        self._total += 1
        if self._total > weights.RATIO_MOST:
            self._counts = [count // 2 for count in self._counts]
            self._total = sum(self._counts)
            self._bound = 0
        self._ratio = weights.RATIOS[self._bucket_above(self._total // 1000)]
        self._counts[weights.RATIO_FIRST] -= self._bound
        self._counts[weights.RATIO_EVEN] += weights.RATIO_PRIOR
        bucket = self._bucket_above((self._total - self._bound + weights.RATIO_PRIOR) // 2)
        self._counts[weights.RATIO_EVEN] -= weights.RATIO_PRIOR
        self._counts[weights.RATIO_FIRST] += self._bound
        # The end of the class that is nearer to 1: what is estimated well is left as it is.
        self._middle = weights.RATIOS[bucket if bucket <= weights.RATIO_EVEN else bucket - 1]

    def _bucket_above(self, part: int) -> int:
        """Give the class that has no more than `part` of what was seen above it."""
        above, bucket = 0, len(weights.RATIOS) - 1
        while above + self._counts[bucket] <= part:
            above += self._counts[bucket]
            bucket -= 1
        return bucket

    def correct(self, estimated: int, /) -> int:
        """Give how many tokens the prompt has at most, 999 times in 1,000."""
        estimated = max(0, min(estimated, weights.RATIO_RANGE))
        return -(-estimated * self._ratio // weights.RATIO_WHOLE)

    def expect(self, estimated: int, /) -> int:
        """Give how many tokens the prompt has most likely, by what was seen so far."""
        estimated = max(0, min(estimated, weights.RATIO_RANGE))
        return (estimated * self._middle + weights.RATIO_WHOLE // 2) // weights.RATIO_WHOLE
