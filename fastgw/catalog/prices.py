"""Whole prices: the plain lines, and what published files say besides in fields of their own.

A published name is a line, then perhaps a tier (`_above_200k_tokens`), then perhaps a class of
service (`_batches`, `_flex`, `_priority`); `tiered_pricing.32000-128000.LINE` is a tier too. What a
tier or a service does not name costs there what it costs without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from fastgw.domain import Price

LINES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_image_token": "image_output",
}
NEVER_FREE = frozenset({"cache_write", "cache_write_1h", "reasoning"})
"""Lines where a published zero says that there is no price of their own."""
SERVICES = {"batches": "batch", "flex": "flex", "priority": "priority"}
NAME = re.compile(
    rf"(?P<line>{'|'.join(sorted(LINES, key=len, reverse=True))})"
    rf"(?:_above_(?P<thousands>\d+)k_tokens)?(?:_(?P<service>{'|'.join(SERVICES)}))?"
)
TIERED = re.compile(rf"tiered_pricing\.(?P<above>\d+)-\d+\.(?P<line>{'|'.join(LINES)})")

Lines = dict[str, int]


def whole(price: Price | None, extra: Mapping[str, int]) -> Price | None:
    """Give a price with the tiers, services and further lines that `extra` names."""
    if price is None or not extra:
        return price
    found: dict[tuple[str, int], Lines] = {}
    for name, amount in extra.items():
        place = _place(name)
        if place is not None and (amount or place[2] not in NEVER_FREE):
            service, above, line = place
            found.setdefault((service, above), {})[line] = amount
    plain = msgspec.structs.replace(price, **found.get(("", 0), {}))
    services = sorted({service for service, _ in found if service})
    return msgspec.structs.replace(
        plain,
        tiers=_tiers(plain, "", found),
        services=tuple((service, _in_service(plain, service, found)) for service in services),
    )


@lru_cache(maxsize=8192)
def whole_of(price: Price | None, extra: str) -> Price | None:
    """Give the same of a JSON text, as the database has it."""
    return whole(price, msgspec.json.decode(extra, type=dict[str, int]))


def _place(name: str) -> tuple[str, int, str] | None:
    match = TIERED.fullmatch(name)
    if match is not None:
        above = int(match["above"])
        return ("", above, LINES[match["line"]]) if above else None
    match = NAME.fullmatch(name)
    if match is None:
        return None
    above = int(match["thousands"] or 0) * 1000
    return SERVICES.get(match["service"] or "", ""), above, LINES[match["line"]]


def _in_service(plain: Price, service: str, found: Mapping[tuple[str, int], Lines]) -> Price:
    base = msgspec.structs.replace(plain, **found.get((service, 0), {}))
    return msgspec.structs.replace(base, tiers=_tiers(base, service, found))


def _tiers(
    base: Price, service: str, found: Mapping[tuple[str, int], Lines]
) -> tuple[tuple[int, Price], ...]:
    thresholds = sorted({above for of, above in found if above and of in {"", service}})
    tiers = []
    for above in thresholds:
        lines = {**found.get(("", above), {}), **found.get((service, above), {})}
        tiers.append((above, msgspec.structs.replace(base, **lines)))
    return tuple(tiers)
