"""H-6: every fuzz target for its time; nothing may be found.

The plain twins are traced by atheris and lead; a compiled reader that reads past its bytes is met
only if the process dies of it, for the extensions are not built with a sanitizer.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from dataclasses import dataclass

from tests.adversity.verdict import Verdict, main
from tests.fuzz.run import CORPUS
from tests.fuzz.targets import available
from tests.processes import ROOT

SLACK_S = 120


@dataclass(frozen=True)
class Form:
    """Seconds for each target."""

    seconds: int


LONG = Form(seconds=600)
SHORT = Form(seconds=1)


async def run(form: Form) -> Verdict:
    """Fuzz one target after the other."""
    verdict = Verdict("H-6 fuzz")
    told = []
    for target in available():
        name = target.__name__
        verdict.require((CORPUS / name).is_dir(), f"{name} has no corpus")
        with tempfile.TemporaryDirectory() as grown:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.fuzz.run", name, "--grown", grown),
                *("--seconds", str(form.seconds)),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=ROOT,
            )
            async with asyncio.timeout(form.seconds + SLACK_S):
                said, _ = await process.communicate()
        text = said.decode(errors="replace")
        verdict.require(process.returncode == 0, f"{name}: {text[-1500:]}")
        ran = re.search(r"number_of_executed_units: (.*)", text)
        told.append(f"{name} {ran[1] if ran else '?'}")
    verdict.figure = f"{form.seconds} s each, inputs: {', '.join(told)}"
    return verdict


if __name__ == "__main__":
    main(run, LONG, SHORT)
