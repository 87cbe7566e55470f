"""The fuzz targets hold on their corpora and on what a seeded mutator makes of them."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.fuzz.mutate import mutants
from tests.fuzz.run import CORPUS, corpus
from tests.fuzz.targets import Disagreement, agree, available, named

pytest.importorskip("fastgw._ext._scan", reason="no compiled build to compare the plain one with")


@pytest.mark.parametrize("target", [*available()], ids=lambda target: target.__name__)
def test_the_builds_agree(target):
    """On everything that is kept, and on 2,000 variations of it."""
    kept = corpus(target.__name__)
    assert kept
    for data in [*kept, *islice(mutants(kept, seed=7), 2000)]:
        target(data)


def test_every_corpus_has_a_target():
    """A renamed target must not leave its corpus behind; a reader that is not here yet may."""
    assert {path.name for path in CORPUS.iterdir()} <= {*named(), "request_head"}


def test_a_disagreement_is_an_error():
    with pytest.raises(Disagreement, match="1 / 2"):
        agree("numbers", 1, 2)
