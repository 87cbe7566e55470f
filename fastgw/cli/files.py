"""Files that commands write: readable by their owner alone, never overwritten by accident."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fastgw.cli.run import Failed


@contextmanager
def private_file(path: Path, *, force: bool) -> Iterator[TextIO]:
    """Open a file (0600) that appears whole or not at all; Failed when it is there already."""
    if path.exists() and not force:
        raise Failed(f"{path} is there already; --force overwrites it")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                yield file
            if force:
                draft.replace(path)
            else:
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError as exc:
        raise Failed(f"{path} is there already; --force overwrites it") from exc
    except OSError as exc:
        raise Failed(f"{path}: {exc.strerror}") from exc
