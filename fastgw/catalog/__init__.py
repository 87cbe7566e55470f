"""Model facts and prices as data: the bundled snapshot, look-ups in it, and what a use costs.

Touches no network and no database; the snapshot file is read once, on first need.
"""

from __future__ import annotations

import difflib
import gzip
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

import msgspec

from fastgw.catalog.cost import cost, price_lines
from fastgw.catalog.facts import CatalogError, ModelFacts

__all__ = ["Catalog", "CatalogError", "ModelFacts", "cost", "load", "price_lines"]

DATED = (
    re.compile(r"[-@](20\d\d-[01]\d-[0-3]\d|20\d\d[01]\d[0-3]\d)(?=-v\d|$)"),
    re.compile(r"[-@:]latest$"),
)
"""Suffixes that name one build of a model: `-2024-08-06`, `@20241022`, `-20240229-v1:0`."""
FINE_TUNED = re.compile(r"(ft:[^:]+):.*")
"""OpenAI names a fine-tuned model `ft:BASE:ORG:SUFFIX:ID`; its price is listed as `ft:BASE`."""
LONGEST_NAME = 300


class Catalog:
    """An immutable set of model facts by (provider type, upstream model)."""

    def __init__(self, models: Mapping[tuple[str, str], ModelFacts]) -> None:
        self.models: Mapping[tuple[str, str], ModelFacts] = MappingProxyType(dict(models))
        self._names = sorted({name for _, name in self.models})

    def find(self, provider_type: str, upstream_model: str) -> ModelFacts | None:
        """Look a model up: exactly, else the undated base of a dated build, else None."""
        names = [upstream_model[:LONGEST_NAME]]
        if tuned := FINE_TUNED.fullmatch(names[0]):
            names.append(tuned[1])
        names += [DATED[0].sub("", name) for name in names]
        names += [DATED[1].sub("", name) for name in names]
        return next(
            (
                self.models[provider_type, name]
                for name in names
                if (provider_type, name) in self.models
            ),
            None,
        )

    def nearest(self, name: str, limit: int = 3) -> list[str]:
        """Give the known upstream models whose names are most alike, best first."""
        return difflib.get_close_matches(name[:LONGEST_NAME], self._names, n=limit, cutoff=0.7)


@cache
def load() -> Catalog:
    """Give the bundled snapshot."""
    packed = resources.files(__name__).joinpath("data/prices.json.gz").read_bytes()
    models = msgspec.json.decode(gzip.decompress(packed), type=list[ModelFacts])
    return Catalog({(facts.provider, facts.name): facts for facts in models})
