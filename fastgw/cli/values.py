"""Option values as people type them: times, tags, lists of models, money, names.

Pure. A value that makes no sense raises BadParameter, which ends the command with exit code 2 and
one line that shows a right one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from ipaddress import ip_network

from typer import BadParameter

from fastgw.domain import now_ms

SPAN = re.compile(r"([0-9]{1,6})([smhdw])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
DAY_ONLY = re.compile(r"\d{4}-\d\d-\d\d")
LONGEST = 256
MOST_USD_PER_MTOK = Decimal(10**9)


def word(text: str, what: str = "a name") -> str:
    """Check a name: printable, not blank, of bearable length."""
    if not text.strip() or text != text.strip():
        raise BadParameter(f"{what} is not empty and does not begin or end with a space")
    if not text.isprintable():
        raise BadParameter(f"{what} holds no control characters: {text!a}")
    if len(text) > LONGEST:
        raise BadParameter(f"{what} has at most {LONGEST} characters")
    return text


def time_ms(text: str) -> int:
    """Read a point in time, UTC unless it says otherwise, as epoch milliseconds."""
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return int(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise BadParameter(f"{text!a} is no time; say 2026-11-01 or 2026-11-01T12:00:00Z") from None


def expiry_ms(text: str) -> int:
    """Read when a key ends: a time, or a span from now such as 30d, 12h, 90m, 2w."""
    if span := SPAN.fullmatch(text.strip()):
        at = now_ms() + int(span[1]) * SECONDS[span[2]] * 1000
    else:
        try:
            at = time_ms(text)
        except BadParameter:
            raise BadParameter(
                f"{text!a} is no time; say 30d, 12h, 2026-11-01 or 2026-11-01T12:00:00Z"
            ) from None
    if at <= now_ms():
        raise BadParameter(f"{text!a} is in the past")
    return at


def since_ms(text: str) -> int:
    """Read where a report begins: a time, or a span back from now."""
    if span := SPAN.fullmatch(text.strip()):
        return now_ms() - int(span[1]) * SECONDS[span[2]] * 1000
    return time_ms(text)


def until_ms(text: str) -> int:
    """Read where a report ends (itself not in it); a bare day is taken whole."""
    at = since_ms(text)
    if DAY_ONLY.fullmatch(text.strip()):
        at += int(timedelta(days=1).total_seconds()) * 1000
    return at


def several(given: Iterable[str] | None) -> list[str]:
    """Read an option that may be repeated and may hold several by comma; order kept, once each."""
    items = (item.strip() for text in given or () for item in text.split(","))
    return list(dict.fromkeys(item for item in items if item))


def patterns(given: Iterable[str] | None) -> list[str]:
    """Read model names and `*` patterns."""
    return [word(item, "a model name or pattern") for item in several(given)]


def networks(given: Iterable[str] | None) -> list[str]:
    """Read addresses and networks."""
    found = []
    for item in several(given):
        try:
            found.append(str(ip_network(item, strict=False)))
        except ValueError:
            raise BadParameter(f"{item!a} is no network; say 10.0.0.0/8 or 2001:db8::1") from None
    return found


def tags(given: Iterable[str] | None) -> dict[str, str]:
    """Read `k=v` pairs."""
    result: dict[str, str] = {}
    for item in several(given):
        name, equals, value = item.partition("=")
        if not equals:
            raise BadParameter(f"{item!a} is no tag; say name=value")
        word(name, "a tag's name")
        if value:
            word(value, "a tag's value")
        if result.setdefault(name, value) != value:
            raise BadParameter(f"tag {name!a} is given twice")
    return result


def pico_per_token(usd_per_mtok: str) -> int:
    """Read dollars per million tokens as pico-dollars a token; both are the same number x 10^6."""
    try:
        dollars = Decimal(usd_per_mtok)
    except InvalidOperation:
        raise BadParameter(f"{usd_per_mtok!a} is no amount of dollars; say 2.50") from None
    if not dollars.is_finite() or not 0 <= dollars <= MOST_USD_PER_MTOK:
        raise BadParameter(f"{usd_per_mtok!a} is no price; say 2.50")
    pico = dollars * 10**6
    if pico != pico.to_integral_value():
        raise BadParameter(f"{usd_per_mtok!a} has more than six decimals")
    return int(pico)
