"""An exchange that changes lanes: what the fast lane began and the standard lane goes on with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastgw._ext import http1, limits
from fastgw.domain import Deployment
from fastgw.errors import GatewayError, UpstreamFault
from fastgw.upstream import Attempt, Sink

MOST_WAITING = 65536


class Carry(Sink):
    """The attempt of such an exchange, with what the provider has answered so far.

    It is the attempt's sink until somebody takes over, and passes everything on from then.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - the contract's name
        created_at: int,
        started: int,
        sent: int,
        deployment: Deployment,
        attempt: Attempt,
        tariff: limits.Tariff | None,
        reservation: limits.Reservation | None,
        kept: int,
        forsake: Callable[[], None],
    ) -> None:
        super().__init__()
        self.id = id
        self.created_at = created_at
        self.started = started
        self.sent = sent
        self.deployment = deployment
        self.attempt = attempt
        self.tariff = tariff
        self.reservation = reservation
        self.kept = kept
        self._events: list[tuple[str, tuple[Any, ...]]] = []
        self._sink: Any = None
        self._waiting = 0
        self._forsake = forsake

    def take_over(self, sink: Sink) -> None:
        """Tell `sink` what has happened, and whatever follows."""
        self._sink = sink
        events, self._events = self._events, []
        for name, values in events:
            getattr(sink, name)(*values)
        self.attempt.resume()

    def drop(self) -> None:
        """Cancel the attempt, unless it is over."""
        self.attempt.cancel()

    def forsake(self) -> None:
        """Cancel the attempt and account for the exchange: nobody will take it over."""
        self.attempt.cancel()
        self._forsake()

    def _tell(self, name: str, *values: Any) -> None:
        if self._sink is None:
            self._events.append((name, values))
        else:
            getattr(self._sink, name)(*values)

    def upstream_head(self, head: http1.Head) -> None:
        """Take the head."""
        self._tell("upstream_head", head)

    def upstream_data(self, data: bytes) -> None:
        """Take body bytes; of many, no more are read until somebody takes over."""
        self._waiting += len(data)
        if self._sink is None and self._waiting > MOST_WAITING:
            self.attempt.pause()
        self._tell("upstream_data", data)

    def upstream_end(self) -> None:
        """Take the clean end."""
        self._tell("upstream_end")

    def upstream_failed(self, error: UpstreamFault) -> None:
        """Take the other end."""
        self._tell("upstream_failed", error)

    def stop(self, error: GatewayError) -> None:
        """Take our own end of it."""
        self._tell("stop", error)
