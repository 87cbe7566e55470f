"""Both lanes answer alike, write the same records, count the same, ask providers the same."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.adversity import broken_answers, deliveries, relay_fidelity, stream
from tests.adversity.bed import provider
from tests.contract.case import Case, Turn
from tests.contract.cases import all_cases, ask, chat
from tests.contract.lane import (
    CREDENTIAL,
    LANES,
    Run,
    configuration,
    create_keys,
    differences,
    on_lane,
    play_all,
    play_beside,
)
from tests.corpora import shared
from tests.processes import Mock
from tests.scripted import Close, Play, Scripted, Step

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
    with on_lane("standard", tmp_path / "before", sqlite_url, configuration(mock)) as gateway:
        keys = create_keys(gateway)
    for lane in LANES:
        with on_lane(lane, tmp_path / lane, sqlite_url, configuration(mock)) as gateway:
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
        with on_lane(lane, tmp_path / lane, sqlite_url, configuration(mock)) as gateway:
            runs.append(play_beside(gateway, cases))
    doubtful = {place[1] for place, seen in runs[0].outcomes.items()
                if seen != runs[1].outcomes[place]}  # fmt: skip
    patient = [Case(c.name, c.turns, None, PATIENT_S) for c in cases if c.name in doubtful]
    if patient:
        for lane in LANES:
            with on_lane(lane, tmp_path / lane, sqlite_url, configuration(mock)) as gateway:
                again.append(play_beside(gateway, patient))
        found = differences(*again)
        assert not found, shown(found)


def provider_scripts() -> dict[str, Sequence[Step]]:
    """Give what providers answer: the broken answers, the public streams, odd deliveries."""
    scripts: dict[str, Sequence[Step]] = {
        f"broken-{entry['id']}": [entry["data"], Close()] for entry in broken_answers.entries()
    }
    for (name, body), size in itertools.product(relay_fidelity.streams().items(), (1, 1 << 20)):
        wire = stream.HEAD + stream.framed([body] if body else [])
        scripts[f"sse-{name}-{size}"] = deliveries.cut(wire, size)
    scripts.update(deliveries.scripts(4))
    return scripts


@pytest.mark.timeout(400)
async def test_the_lanes_agree_on_the_public_answers(sqlite_url, tmp_path):
    """Whatever a provider sends, both lanes make the same of it, and bill the same."""
    scripts = provider_scripts()
    cases = []
    for model, streams in itertools.product(scripts, (False, True)):
        name = f"{model}-{'stream' if streams else 'plain'}"
        request = ask(name, chat(f"odd/{model}", stream=streams))
        cases.append(Case(name, (Turn((request,)),)))

    def on_each_lane(config: dict[str, object]) -> list[Run]:
        with on_lane("standard", tmp_path / "before", sqlite_url, config) as gateway:
            keys = create_keys(gateway)
        runs = []
        for lane in LANES:
            with on_lane(lane, tmp_path / lane, sqlite_url, config) as gateway:
                runs.append(play_all(gateway, None, cases, keys))
        return runs

    async with Scripted([Play(scripts)]) as scripted:
        config = {"providers": [provider(scripted.url + "/v1", name="odd")]}
        standard, fast = await asyncio.to_thread(on_each_lane, config)
    found = differences(standard, fast)
    assert not found, shown(found)
