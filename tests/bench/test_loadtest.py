"""The load test's own judgement: what is not a whole answer is a failure, and the spike comes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.processes import ROOT

# In a process of its own: locust replaces the standard library's sockets where it is imported.
PROBE = """
import json, sys
from types import SimpleNamespace
from loadtest import locustfile

class Stream:
    def __init__(self, text):
        self.lines = text.encode().splitlines(keepends=True)
    def readline(self, separator):
        return self.lines.pop(0) if self.lines else b""

asked = json.load(sys.stdin)
said = [locustfile._read_stream(Stream(text), usage=usage) for text, usage in asked["streams"]]
shape = locustfile.RampAndSpike()
options = SimpleNamespace(shape_users=10, shape_seconds=100)
shape.runner = SimpleNamespace(environment=SimpleNamespace(parsed_options=options))
ticks = []
for now in asked["times"]:
    shape.get_run_time = lambda: now
    ticks.append(shape.tick())
print(json.dumps([[[bool(first), fault] for first, fault in said], ticks]))
"""
CONTENT = 'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
EMPTY = 'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
USAGE = 'data: {"choices":[],"usage":{"completion_tokens":1}}\n\n'
ERROR = 'data: {"error":{"message":"no"}}\n\n'
DONE = "data: [DONE]\n\n"
STREAMS = (
    (CONTENT + DONE, False, True, ""),
    (": keep-alive\n\n" + CONTENT + USAGE + DONE, True, True, ""),
    (CONTENT, False, True, "cut off"),
    (EMPTY + DONE, False, False, "no content"),
    (CONTENT + DONE, True, True, "no usage"),
    (CONTENT + USAGE + DONE, False, True, "usage that nobody asked for"),
    (CONTENT + ERROR, False, True, "an error event"),
    ("", False, False, "no content"),
)


@pytest.fixture(scope="module")
def probed() -> list[Any]:
    """What the clients say of streams, and the shape of moments."""
    asked = {
        "streams": [[text, usage] for text, usage, *_ in STREAMS],
        "times": [0, 29, 31, 60, 80, 95, 100],
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps(asked),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_only_a_whole_stream_with_the_usage_that_was_asked_for_is_a_success(probed):
    assert probed[0] == [[first, fault] for _, _, first, fault in STREAMS]


def test_the_shape_climbs_spikes_comes_back_and_ends(probed):
    users = [tick and tick[0] for tick in probed[1]]
    assert users == [5, 5, 10, 40, 10, 2, None]


@pytest.mark.parametrize(("model", "expected"), [("mock/mock", 0), ("mock/mock-500", 1)])
def test_one_failed_request_fails_the_run(model, expected):
    """Both servers run, the clients ask, both servers end; a 500 is a failure."""
    command = [sys.executable, "-m", "loadtest.run", "--seconds", "3", "--users", "4", "--"]
    done = subprocess.run(
        [*command, "--model", model, "ChatUser"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == expected, done.stdout + done.stderr
    assert "the gateway ended with 0" in done.stdout
