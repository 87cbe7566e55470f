"""Notice that a configuration file, `.env` or a secret's file was written or replaced.

By polling: it sees what every editor, ConfigMap and secret mount does, on every file system.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastgw.config.stamps import Stamp, stamp


class Watcher:
    """Compares files with their stamps, as they were when the configuration was read."""

    def __init__(self, stamps: Mapping[Path, Stamp | None]) -> None:
        self._stamps = dict(stamps)
        self._seen: dict[Path, Stamp | None] | None = None

    def follow(self, stamps: Mapping[Path, Stamp | None]) -> None:
        """Watch these files from now on: those of the configuration just read."""
        self._stamps = dict(stamps)
        self._seen = None

    def changed(self) -> bool:
        """Tell once that a file differs from what was read, when it has come to rest.

        A file that is seen half-written may well be valid, with half of its providers: a change
        counts only when the look after it finds the same.
        """
        now = {path: stamp(path) for path in self._stamps}
        if now == self._stamps:
            self._seen = None
            return False
        if now != self._seen:
            self._seen = now
            return False
        self.follow(now)
        return True
