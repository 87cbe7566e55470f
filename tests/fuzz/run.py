"""Fuzz one target for a while: `python -m tests.fuzz.run sse_tap --seconds 600`.

With atheris the plain twin is traced and leads (the compiled build runs beside it on the same
bytes); without it a mutator that knows the formats' words does, and says so. What is found is
written to `tests/fuzz/findings/TARGET`, and belongs into the corpus once it is mended.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path

from tests.fuzz.mutate import MOST, mutants

CORPUS = Path(__file__).parent / "corpus"
FINDINGS = Path(__file__).parent / "findings"


def corpus(name: str) -> list[bytes]:
    """Give what is kept for a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def trace(name: str, seconds: int, grown: str) -> None:
    """Run under atheris; libFuzzer ends the process, with 0 if nothing was found."""
    import atheris  # the only place that needs it

    with atheris.instrument_imports(include=["fastgw._ext.pure"]):
        from tests.fuzz import targets

        target = targets.named()[name]
        for data in corpus(name):  # loads the twins while imports are traced
            target(data)
    FINDINGS.joinpath(name).mkdir(parents=True, exist_ok=True)
    folders = [grown, str(CORPUS / name)] if grown else [str(CORPUS / name)]
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MOST}",
        "-timeout=10",
        "-rss_limit_mb=1024",
    ]
    options += [f"-artifact_prefix={FINDINGS / name}/", "-print_final_stats=1", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *options, *folders], target)
    atheris.Fuzz()


def guess(name: str, seconds: int, seed: int) -> int:
    """Run the mutator; give the exit status."""
    from tests.fuzz import targets

    target = targets.named()[name]
    ends = time.monotonic() + seconds
    for count, data in enumerate(mutants(corpus(name), seed)):
        try:
            target(data)
        except Exception:
            FINDINGS.joinpath(name).mkdir(parents=True, exist_ok=True)
            FINDINGS.joinpath(name, f"guess-{seed}-{count}").write_bytes(data)
            raise
        if time.monotonic() > ends:
            print(f"stat::number_of_executed_units: {count + 1} without coverage", flush=True)
            return 0
    return 0


def main() -> int:
    """Fuzz as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--grown", default="", help="a folder for inputs that reach something new")
    given = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        return guess(given.target, given.seconds, given.seed)
    trace(given.target, given.seconds, given.grown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
