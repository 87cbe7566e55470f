"""Rebuild the bundled price snapshot: python scripts/make_price_snapshot.py SOURCE.json.

SOURCE.json is litellm's `model_prices_and_context_window.json` (MIT). The snapshot holds what
`fastgw.catalog.facts` reads from it; it depends on nothing but the source.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import msgspec

from fastgw.catalog.facts import read

TARGET = Path(__file__).parents[1] / "fastgw/catalog/data/prices.json.gz"


def main() -> None:
    """Write the snapshot and say what went in."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    reading = read(Path(sys.argv[1]).read_bytes())
    for problem in reading.problems:
        print(f"{problem.name}: {problem.reason}", file=sys.stderr)
    if reading.problems:
        sys.exit("not written: the snapshot is made only of a file that is right throughout")
    models = [reading.models[key] for key in sorted(reading.models)]
    text = msgspec.json.encode(models, order="deterministic")
    TARGET.write_bytes(gzip.compress(text, 9, mtime=0))
    print(f"{len(models)} models, {reading.rounded} prices rounded, {len(text)} bytes")


if __name__ == "__main__":
    main()
