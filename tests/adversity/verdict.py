"""What a campaign script says at its end, and how it is run by hand.

A script has a `Form` for the campaign (`LONG`) and one for the test suite (`SHORT`), and a
coroutine `run(form)` that gives a `Verdict`. Problems are facts; what was late is judged by the
script alone, for a test suite shares its machine and may not judge time.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

Form = TypeVar("Form")


@dataclass
class Verdict:
    """`figure` is the measured line; it passes when nothing is wrong and nothing came late."""

    name: str
    figure: str = ""
    problems: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def require(self, fact: Any, problem: str) -> None:
        """Note a problem unless the fact holds."""
        if not fact:
            self.problems.append(problem)

    def in_time(self, fact: Any, problem: str) -> None:
        """Note that something took too long unless the fact holds."""
        if not fact:
            self.late.append(problem)

    @property
    def passed(self) -> bool:
        """Whether the row of the campaign passes."""
        return not self.problems and not self.late

    def __str__(self) -> str:
        faults = self.problems + self.late
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if faults[8:] else "")
        return f"{'PASS' if self.passed else 'FAIL'} {self.name}: {self.figure}" + (
            f" -- {shown}" if faults else ""
        )


def main(run: Callable[[Form], Coroutine[Any, Any, Verdict]], long: Form, short: Form) -> None:
    """Run a script from the command line: `--short`, and every field of its form as an option."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="the form that the test suite runs")
    for each in dataclasses.fields(long):  # type: ignore[arg-type]
        kind = type(getattr(long, each.name))
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=None)
    given = vars(parser.parse_args())
    form = short if given.pop("short") else long
    changes = {name: value for name, value in given.items() if value is not None}
    form = dataclasses.replace(form, **changes)  # type: ignore[type-var]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        verdict = runner.run(run(form))
    print(verdict, flush=True)
    sys.exit(not verdict.passed)
