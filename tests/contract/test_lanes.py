"""Both lanes answer alike, write the same records, count the same, ask providers the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.case import Case, Turn
from tests.contract.cases import all_cases
from tests.contract.lane import (
    CREDENTIAL,
    LANES,
    Run,
    create_keys,
    differences,
    on_lane,
    play_all,
    play_beside,
)
from tests.corpora import shared
from tests.processes import Mock

QUIET_S = 0.3
PATIENT_S = 3.0


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[Mock]:
    """A provider whose log nobody else fills."""
    folder = tmp_path / "mock"
    folder.mkdir()
    mock = Mock(folder, "--api-key", CREDENTIAL)
    yield mock
    mock.stop()


def shown(found: list[str]) -> str:
    return f"{len(found)} differences\n" + "\n".join(found[:40])


@pytest.mark.timeout(400)
def test_the_lanes_agree(sqlite_url, mock, tmp_path, record_property):
    """Each case twice on each lane; statuses are those of the contract."""
    cases = all_cases()
    assert len(cases) >= 200
    runs: dict[str, Run] = {}
    with on_lane("standard", tmp_path / "before", sqlite_url, mock) as gateway:
        keys = create_keys(gateway)
    for lane in LANES:
        with on_lane(lane, tmp_path / lane, sqlite_url, mock) as gateway:
            runs[lane] = play_all(gateway, mock, cases, keys)
    wrong = [
        f"{case.name} (round {number}): {seen.statuses} {seen.fault}, wanted {case.statuses}"
        for case in cases
        for number, seen in ((n, s) for (n, name), s in runs["standard"].outcomes.items()
                             if name == case.name)
        if (case.statuses is not None and seen.statuses != case.statuses) or seen.fault
    ]  # fmt: skip
    assert not wrong, shown(wrong)
    found = differences(runs["standard"], runs["fast"])
    assert not found, shown(found)
    record_property(
        "table",
        f"{len(cases)} connections, {sum(len(s.answers) for s in runs['fast'].outcomes.values())}"
        f" answers on each lane, {runs['fast'].records.total()} records: no difference;"
        f" lanes {runs['fast'].lanes}",
    )


def corpus_cases() -> list[Case]:
    """Give every public request as a case: answered how often it will, then silence."""
    folder = shared("http_public")
    entries = json.loads((folder / "requests.json").read_text())
    return [
        Case(entry["id"], (Turn(((folder / entry["file"]).read_bytes(),)),), None, QUIET_S)
        for entry in entries
    ]


def test_the_lanes_agree_on_the_public_requests(sqlite_url, mock, tmp_path):
    """460 requests out of other servers' tests get the same answers byte for byte.

    What differs is played again with more patience before it counts: silence is judged by time.
    """
    cases = corpus_cases()
    runs, again = [], []
    for lane in LANES:
        with on_lane(lane, tmp_path / lane, sqlite_url, mock) as gateway:
            runs.append(play_beside(gateway, cases))
    doubtful = {place[1] for place, seen in runs[0].outcomes.items()
                if seen != runs[1].outcomes[place]}  # fmt: skip
    patient = [Case(c.name, c.turns, None, PATIENT_S) for c in cases if c.name in doubtful]
    if patient:
        for lane in LANES:
            with on_lane(lane, tmp_path / lane, sqlite_url, mock) as gateway:
                again.append(play_beside(gateway, patient))
        found = differences(*again)
        assert not found, shown(found)
