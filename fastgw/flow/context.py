"""What the stages may look at besides the exchange; the composition root makes one a worker."""

from __future__ import annotations

from collections.abc import Callable

from fastgw._ext import ids, journal
from fastgw.domain import Secret, UsageRecord
from fastgw.flow.directory import Directory
from fastgw.flow.keys import KeyCache
from fastgw.flow.limits import Limiter
from fastgw.flow.plan import Plans
from fastgw.metrics import Metrics
from fastgw.wire import apikey


class Context:
    """The current snapshot and the worker's own tools; `directory` is swapped whole on a change."""

    def __init__(
        self,
        *,
        keys: KeyCache,
        directory: Directory,
        metrics: Metrics,
        record: Callable[[UsageRecord], None],
    ) -> None:
        self.ids = ids.Source("fgx_")
        self.keys = keys
        self.directory = directory
        self.metrics = metrics
        self.record = record
        self.plans: Plans | None = None
        """What the fast lane executes; None where there is no fast lane."""
        self.journal: journal.Journal | None = None
        """Where exchanges are written down before anything of them leaves."""
        self.limiter = Limiter()
        self.proxies: tuple[str, ...] = ()
        """Networks of proxies whose word on the client's address is taken."""
        self.anonymous: bytes | None = None
        """Digest of the key that serves clients which send none."""
        self.anonymous_remote = False
        """Whether it serves clients on other machines too."""

    def swap(self, directory: Directory) -> None:
        """Serve by another directory; what was made from the old one is out of date."""
        old, self.directory = self.directory, directory
        old.stamp.kill()

    def set_anonymous(self, key: Secret | None, *, remote: bool) -> None:
        """Say which key serves clients that send none, if any."""
        self.anonymous = apikey.digest(key.reveal()) if key is not None else None
        self.anonymous_remote = remote
