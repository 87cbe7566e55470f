"""A gateway on one lane, all cases played to it, and everything that must be the same on another.

`server.fast_lane` chooses: without it everything goes through aiohttp, with it the front takes what
it can. Both lanes are played on the same database, one after the other, so that keys are the same.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from fastgw.domain import UsageRecord, to_builtins
from tests.contract.case import PATIENCE_S, Case, Outcome, placeholder, play
from tests.processes import Gateway, Mock
from tests.waiting import eventually_sync

LANES = ("standard", "fast")
CREDENTIAL = "sk-upstream-credential-1234"
ROUNDS = 2
"""The first request of its kind may leave a plan behind; the second is served by it."""
_TIMES = {"id", "created_at", "duration_ms", "ttft_ms", "overhead_us"}
_MEASURED = re.compile(r"_(?:bucket|sum)$|_created$")


@dataclass
class Run:
    """What one lane did with all cases."""

    outcomes: dict[tuple[int, str], Outcome] = field(default_factory=dict)
    records: Counter[str] = field(default_factory=Counter)
    counters: dict[str, float] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    lanes: dict[str, float] = field(default_factory=dict)


def configuration(mock: Mock) -> dict[str, Any]:
    """Give the configuration that the cases are written for."""
    return {
        "providers": [
            {
                "name": "mock",
                "type": "openai_compatible",
                "base_url": mock.base_url,
                "api_key": CREDENTIAL,
                "models": ["mock", "mock-tools", "mock-429", "mock-500", "other/name"],
                "timeouts": {"connect_s": 2, "first_byte_s": 0.5, "idle_s": 0.5, "total_s": 20},
            },
            {
                "name": "down",
                "type": "openai_compatible",
                "base_url": "http://127.0.0.1:9/v1",
                "models": ["nowhere"],
            },
        ],
        "models": [
            {"name": "smart", "deployments": [{"provider": "mock", "model": "mock?chunks=7"}]},
            {"name": "priced", "deployments": [{"provider": "mock", "model": "mock?chunks=2"}]},
            {"name": "sturdy", "deployments": [{"provider": "mock", "model": "mock?chunks=1"}]},
        ],
        "aliases": [{"name": "fast", "model": "smart", "tags": {"via": "fast"}}],
        "server": {"max_body_bytes": 1 << 20, "shutdown_grace_s": 5},
    }


def create_keys(gateway: Gateway) -> dict[bytes, bytes]:
    """Create the keys that cases name; give their texts."""
    made = {
        "all": gateway.create_key("all"),
        "narrow": gateway.create_key("narrow", allowed_models=("smart", "gpt-*")),
        "tagged": gateway.create_key("tagged", client_tags=("job", "step"), tags={"team": "a"}),
        "expired": gateway.create_key("expired", expires_at=1),
        "disabled": gateway.create_key("disabled"),
    }
    gateway.revoke_key("disabled")
    gateway.set_price("mock", "mock?chunks=2", input_pico=2_500_000, output_pico=10_000_000)
    return {placeholder(name).encode(): text.encode() for name, text in made.items()}


def with_keys(case: Case, keys: dict[bytes, bytes]) -> Case:
    """Put the real keys into a case; pieces keep their sizes, for a cut may fall into a key."""
    turns = []
    for turn in case.turns:
        whole = b"".join(turn.pieces)
        for name, key in keys.items():
            whole = whole.replace(name, key)
        ends = [*accumulate(map(len, turn.pieces))]
        pieces = tuple(whole[start:end] for start, end in zip([0, *ends], ends, strict=False))
        turns.append(replace(turn, pieces=pieces))
    return replace(case, turns=tuple(turns))


@contextmanager
def on_lane(lane: str, folder: Path, store_url: str, config: dict[str, Any]) -> Iterator[Gateway]:
    """Serve on one lane."""
    folder.mkdir(exist_ok=True)
    server = {**config.get("server", {}), "fast_lane": lane == "fast"}
    gateway = Gateway(folder, store_url, {**config, "server": server})
    try:
        gateway.ready()
        yield gateway
        assert "Traceback" not in gateway.text
    finally:
        assert gateway.stop() == 0, gateway.text


def play_all(
    gateway: Gateway, mock: Mock | None, cases: Sequence[Case], keys: dict[bytes, bytes]
) -> Run:
    """Play all cases, round after round, and collect what they left behind."""
    run = Run()
    before = {record.id for record in gateway.records()}
    if mock is not None:
        mock.clear()
    for number in range(ROUNDS):
        for case in cases:
            run.outcomes[number, case.name] = play(with_keys(case, keys), gateway.url)
    _settle(gateway)
    run.records = Counter(
        masked_record(record) for record in gateway.records() if record.id not in before
    )
    if mock is not None:
        run.asked = Counter(_asked(line) for line in mock.log())
    run.counters, run.lanes = read_counters(gateway)
    return run


def play_beside(gateway: Gateway, cases: Sequence[Case], patience: float = PATIENCE_S) -> Run:
    """Play cases that reach no model, many at a time."""
    with ThreadPoolExecutor(16) as pool:
        outcomes = pool.map(lambda case: play(case, gateway.url, patience), cases)
        return Run({(0, case.name): seen for case, seen in zip(cases, outcomes, strict=True)})


def _settle(gateway: Gateway) -> None:
    """Wait until every exchange is over and its record is written."""

    def over() -> bool:
        counters, _ = read_counters(gateway)
        ended = sum(
            value for name, value in counters.items() if name.startswith("fastgw_requests_total")
        )
        return counters["fastgw_in_flight"] == 0 and ended > 0

    eventually_sync(over, what="no exchange in flight")

    def written() -> bool:
        return json.loads(gateway.get("/health")[1])["journal"]["waiting"] == 0

    eventually_sync(written, what="all records")


def masked_record(record: UsageRecord) -> str:
    """Give a usage record as text, without ids and times."""
    fields = to_builtins(record)
    if fields["request_id"] == fields["id"]:
        fields["request_id"] = "*"
    if fields["error_code"] == "client_gone":
        fields["output_tokens"] = "*"  # how much had come by then is chance
    return repr(sorted((name, value) for name, value in fields.items() if name not in _TIMES))


def _asked(line: dict[str, Any]) -> str:
    """Give what a provider saw of a request."""
    return repr((line["path"], line["method"], line["headers"], line["body_sha256"]))


def read_counters(gateway: Gateway) -> tuple[dict[str, float], dict[str, float]]:
    """Give every counter that measures no time, and apart from them what tells the lanes."""
    counters, lanes = {}, {}
    for line in gateway.get("/metrics")[1].decode().splitlines():
        if line.startswith("#"):
            continue
        series, _, value = line.rpartition(" ")
        name = series.partition("{")[0]
        if name == "fastgw_lane_total":
            lanes[series] = float(value)
        elif not _MEASURED.search(name) and name != "fastgw_build_info":
            counters[series] = float(value)
    return counters, lanes


def differences(standard: Run, fast: Run) -> list[str]:
    """Say in words where two lanes disagree, the standard one first."""
    found = []
    for place, seen in standard.outcomes.items():
        other = fast.outcomes[place]
        if seen != other:
            found.append(f"case {place[1]} (round {place[0]}):\n    {seen.unlike(other)}")
    for what in ("records", "asked"):
        one, two = getattr(standard, what), getattr(fast, what)
        found += [f"{what}: only standard {count} x {text}" for text, count in (one - two).items()]
        found += [f"{what}: only fast {count} x {text}" for text, count in (two - one).items()]
    for series in sorted({*standard.counters, *fast.counters}):
        one_value, two_value = standard.counters.get(series, 0), fast.counters.get(series, 0)
        if one_value != two_value:
            found.append(f"counter {series}: standard {one_value:g}, fast {two_value:g}")
    return found
