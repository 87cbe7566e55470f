"""Bring the catalogue up to date: fetch a price file, judge it, say what would change.

The fetch is the only I/O. Writing the changes to the database is the business of
`fastgw.storage.sql.catalog_syncs`; here old and new facts go in and changes come out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from fastgw.catalog.facts import CatalogError, ModelFacts, Reading, read

LARGEST_FILE = 32 * 2**20
TIMEOUT_S = 60.0
MOST_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
SMALL_CATALOGUE = 20
"""A catalogue of fewer models may lose any share of them without a question."""

Models = Mapping[tuple[str, str], ModelFacts]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One fact of one model that a sync changes; prices are pico-dollars a unit."""

    provider: str
    name: str
    field: str
    before: Any
    after: Any


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a new price file changes.

    `deprecated` are models the file no longer names: they stay, marked with the time of the sync.
    `updated` holds the new facts of every model that `changed` speaks of.
    """

    added: tuple[ModelFacts, ...] = ()
    updated: tuple[ModelFacts, ...] = ()
    changed: tuple[Change, ...] = ()
    deprecated: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.updated or self.deprecated)


def judge(text: bytes) -> Reading:
    """Read a price file from outside; CatalogError when it is too large, empty or mostly wrong."""
    if len(text) > LARGEST_FILE:
        raise CatalogError(f"larger than {LARGEST_FILE >> 20} MiB")
    reading = read(text)
    if not reading.models:
        raise CatalogError("no entry in it describes a model")
    if len(reading.problems) > len(reading.models):
        first = reading.problems[0]
        raise CatalogError(
            f"{len(reading.problems)} of {len(reading.problems) + len(reading.models)} entries are "
            f"wrong, the first is {first.name!r}: {first.reason}"
        )
    return reading


def diff(old: Models, new: Models) -> Changes:
    """Say what `new` changes in `old`, in order of provider and name.

    A model of `old` that is deprecated already and that `new` does not name is not a change.
    """
    added, updated, changed = [], [], []
    for key in sorted(new):
        if key not in old:
            added.append(new[key])
        elif found := _compare(old[key], new[key]):
            changed += found
            updated.append(new[key])
    gone = [key for key in sorted(old) if key not in new and old[key].deprecated_at is None]
    return Changes(
        added=tuple(added),
        updated=tuple(updated),
        changed=tuple(changed),
        deprecated=tuple(gone),
    )


def refuse_loss(old: Models, changes: Changes) -> None:
    """Refuse a file that would deprecate more than half of a catalogue of some size."""
    if len(old) >= SMALL_CATALOGUE and 2 * len(changes.deprecated) > len(old):
        raise CatalogError(
            f"it leaves out {len(changes.deprecated)} of {len(old)} models; "
            "a catalogue is not replaced by a fragment of one"
        )


def _compare(old: ModelFacts, new: ModelFacts) -> list[Change]:
    before, after = _flat(old), _flat(new)
    return [
        Change(
            provider=new.provider,
            name=new.name,
            field=field,
            before=before.get(field),
            after=after.get(field),
        )
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
    ]


def _flat(facts: ModelFacts) -> dict[str, Any]:
    """Give facts as one level of names; `price.` and `extra.` lines apart."""
    flat: dict[str, Any] = {
        "mode": facts.mode,
        "context_window": facts.context_window,
        "max_output_tokens": facts.max_output_tokens,
        "features": facts.features,
        "deprecated_at": facts.deprecated_at,
    }
    if facts.price is not None:
        for line in facts.price.__struct_fields__:
            flat[f"price.{line}"] = getattr(facts.price, line)
    for field, amount in facts.extra.items():
        flat[f"extra.{field}"] = amount
    return flat


def read_source(path: Path) -> bytes:
    """Give the text of a price file on disk; CatalogError when it cannot be had."""
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_FILE + 1)
    except OSError as exc:
        raise CatalogError(exc.strerror or "cannot be read") from exc


async def fetch(url: str, *, timeout_s: float = TIMEOUT_S, largest: int = LARGEST_FILE) -> bytes:
    """Give the text of a published price file; CatalogError when it cannot be had.

    Over https only, or from this machine itself; a redirect may not leave https nor lead here.
    """
    try:
        here = URL(url)
    except ValueError as exc:
        raise CatalogError("is not an address") from exc
    allowed = _kind(here)
    if allowed is None:
        raise CatalogError("is not an https address without a user name")
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with aiohttp.ClientSession(
            timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            for _ in range(MOST_REDIRECTS + 1):
                async with session.get(here, allow_redirects=False) as answer:
                    if answer.status in REDIRECTS and "location" in answer.headers:
                        here = here.join(URL(answer.headers["location"]))
                        if _kind(here) != allowed:
                            raise CatalogError(f"redirects to {shown(here)}, which is not followed")
                        continue
                    if answer.status != 200:
                        raise CatalogError(f"answers {answer.status}")
                    return await _read_up_to(answer.content, largest)
    except TimeoutError as exc:
        raise CatalogError(f"did not answer within {timeout_s:g} s") from exc
    except (aiohttp.ClientError, ValueError) as exc:
        raise CatalogError(str(exc) or type(exc).__name__) from exc
    raise CatalogError(f"redirects more than {MOST_REDIRECTS} times")


async def _read_up_to(body: aiohttp.StreamReader, largest: int) -> bytes:
    parts, size = [], 0
    async for part in body.iter_any():
        size += len(part)
        if size > largest:
            raise CatalogError(f"larger than {largest >> 20} MiB")
        parts.append(part)
    return b"".join(parts)


def _kind(url: URL) -> str | None:
    """Tell what a fetch may stay in: "https", or "loopback" with any scheme; None: neither."""
    host = url.host or ""
    if url.scheme not in {"http", "https"} or not host or url.user or url.password:
        return None
    if host == "localhost" or _is_loopback(host):
        return "loopback"
    return "https" if url.scheme == "https" else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown(url: URL | str) -> str:
    """Give an address as it may be shown and kept: no user name, password, query or fragment."""
    try:
        url = URL(url)
        return str(url.with_user(None).with_query(None).with_fragment(None))
    except ValueError:
        return "the address given"
