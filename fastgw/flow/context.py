"""What the stages may look at besides the exchange; the composition root makes one a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastgw._ext import ids, journal
from fastgw._ext.columns import fit_text
from fastgw.domain import Secret, UsageRecord
from fastgw.flow.directory import Directory
from fastgw.flow.exchange import Exchange
from fastgw.flow.keys import KeyCache
from fastgw.flow.limits import Limiter
from fastgw.flow.plan import Plans
from fastgw.metrics import Metrics
from fastgw.wire import apikey, json

_MOST_WHOS = 4_096


class Whos:
    """Beginnings of records that were written lately: each goes once into a segment."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], journal.Who] = {}

    def find(self, names: tuple[str | None, ...], tags: Mapping[str, str]) -> journal.Who:
        """Give the beginning with these owners, endpoint, models and provider, and these tags."""
        key = (*names, *tags.items()) if tags else names
        who = self._kept.get(key)
        if who is None:
            if len(self._kept) >= _MOST_WHOS:
                self._kept.clear()
            fit = {fit_text(name, 100): fit_text(value, 240) for name, value in tags.items()}
            who = journal.Who((*names[:4], json.dumps_sorted(fit), *names[4:]))
            self._kept[key] = who
        return who


def _estimated(_: Exchange) -> bool:
    return False


class Context:
    """The current snapshot and the worker's own tools; `directory` is swapped whole on a change."""

    def __init__(
        self,
        *,
        keys: KeyCache,
        directory: Directory,
        metrics: Metrics,
        journal: journal.Journal,
    ) -> None:
        self.ids = ids.Source("fgx_")
        self.keys = keys
        self.directory = directory
        self.metrics = metrics
        self.record: Callable[[UsageRecord], None] | None = None
        """Who else wants to know of every record: the log, if it was asked for."""
        self.journal = journal
        """Where exchanges are written down before anything of them leaves."""
        self.whos = Whos()
        self.plans: Plans | None = None
        """What the fast lane executes; None where there is no fast lane."""
        self.limiter = Limiter()
        self.count_later: Callable[[Exchange], bool] = _estimated
        """Takes an exchange whose usage nobody reported, to `finish` it once its tokens are
        counted; False: it is estimated at once."""
        self.proxies: tuple[str, ...] = ()
        """Networks of proxies whose word on the client's address is taken."""
        self.client_tags: tuple[str, ...] = ()
        """Tags that callers may set whose key does not say."""
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
