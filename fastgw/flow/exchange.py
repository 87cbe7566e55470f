"""The one record that travels through the stages: a client request and its answer, whole life."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from fastgw._ext import estimate, limits
from fastgw.domain import Deployment, Model, Principal, Usage, now_ms
from fastgw.errors import GatewayError
from fastgw.flow.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastgw.flow.explain import Explanation
    from fastgw.providers.record import ProviderType, Translator


COUNT_TOKENS = "count_tokens"
FREE = frozenset({COUNT_TOKENS})
"""Endpoints that use no tokens and cost nothing; they count as requests."""


class LoadKey(msgspec.Struct, frozen=True):
    """Wait: the principal behind this digest must be read from the store."""

    digest: bytes


class LoadSpend(msgspec.Struct, frozen=True):
    """Wait: what was spent of these budgets before must be read from the store."""

    budgets: tuple[limits.Budget | limits.Shared, ...]


class Reserve(msgspec.Struct, frozen=True):
    """Wait: whoever keeps the meters of the exchange's guard must be asked for so much of them.

    The exchange gets its reservation, or what stands in the way is raised.
    """

    exchange: Exchange
    tokens: int
    nano: int


class KeepDecision(msgspec.Struct, frozen=True):
    """Wait: a decision must be written to the store."""

    exchange_id: str
    key_id: str
    decision: bytes


Wait = LoadKey | LoadSpend | Reserve | KeepDecision
"""What a stage may wait for."""


class Counted(msgspec.Struct, frozen=True, gc=False):
    """What a tokenizer counted of an exchange whose usage nobody reported; None: it could not."""

    prompt: int | None = None
    answer: int | None = None


class Exchange:
    """Facts about one exchange; each stage fills in its own part.

    Times: `created_at` is epoch milliseconds; `started`, `sent`, `first_content` and `ended` are
    monotonic nanoseconds, 0 while they have not happened.
    """

    __slots__ = (
        "asked",
        "attempts",
        "beside",
        "body",
        "candidates",
        "choices",
        "clamp",
        "client_api",
        "closed",
        "cost_nano",
        "counted",
        "created_at",
        "deployment",
        "digest",
        "ended",
        "endpoint",
        "error",
        "explanation",
        "family",
        "fee_nano",
        "first_content",
        "first_events",
        "flat_nano",
        "guard",
        "headers",
        "id",
        "joined",
        "kept",
        "last_events",
        "model",
        "most_output",
        "noted",
        "payer",
        "peer",
        "pinned",
        "principal",
        "prompt_estimate",
        "provider_type",
        "query",
        "request_id",
        "requested_model",
        "reservation",
        "sent",
        "service",
        "slices",
        "spans",
        "stamps",
        "started",
        "status",
        "stream",
        "tags",
        "tariff",
        "translator",
        "usage",
        "usage_source",
    )

    def __init__(  # noqa: PLR0915 - a record: a line a fact
        self,
        id: str,  # noqa: A002 - the contract's name
        endpoint: str,
        client_api: str,
        headers: Mapping[str, str],
        pinned: str | None = None,
    ) -> None:
        # accept
        self.id = id
        self.request_id = id
        self.endpoint = endpoint
        self.client_api = client_api
        self.headers = headers
        self.pinned = pinned
        self.query = ""
        """The request's query string, if providers may know it."""
        self.created_at = now_ms()
        self.started = time.monotonic_ns()
        self.digest = b""
        self.peer = ""
        """The client's address, `unix` for a Unix socket."""
        self.joined = ""
        """Whose answer it gets under its Idempotency-Key: its own `first`, an earlier `again`."""
        self.explanation: Explanation | None = None
        """Only where somebody wants to know why."""
        # authenticate
        self.principal: Principal | None = None
        # admit
        self.payer: Principal | None = None
        """Whose budgets pay and whose spend it is; nearly always who calls."""
        self.body = b""
        self.spans: dict[bytes, tuple[int, int]] = {}
        self.requested_model = ""
        self.model: Model | None = None
        self.stream = False
        self.tags: dict[str, str] = {}
        self.family: estimate.Family | None = None
        """Knows what requests cost such a model, and what they have cost so far."""
        self.prompt_estimate = 0
        self.beside = 0
        """Tokens that its pictures count at most."""
        self.most_output = -1
        """The maximum of output tokens the client asked for, -1 when it named none."""
        self.choices = 1
        self.service = ""
        """The class of service asked for, if it has prices of its own: flex, priority."""
        self.fee_nano = 0
        """What the server tools it offers cost."""
        self.clamp = -1
        """The maximum of output tokens that was inserted for a budget's sake, -1 if none was."""
        self.tariff: limits.Tariff | None = None
        self.guard: limits.Guard | None = None
        self.reservation: limits.Reservation | None = None
        self.slices: limits.Slices | None = None
        """How far a stream may go on what is reserved."""
        self.stamps: tuple[Stamp, Stamp] | None = None
        """Of the directory and the rules that were looked at: a change since has killed them."""
        self.kept = 0
        """Bytes the journal keeps for the closing line; 0 until there is an opening one."""
        self.noted = 0
        """Tokens that are reserved, as the journal knows."""
        self.flat_nano: int | None = None
        """What it costs where nobody knows a price."""
        # route
        self.candidates: tuple[Deployment, ...] = ()
        # translate
        self.deployment: Deployment | None = None
        self.provider_type: ProviderType | None = None
        self.translator: Translator | None = None
        self.attempts = 0
        self.asked: list[str] = []
        """Names of the providers that attempts went to."""
        # relay
        self.sent = 0
        self.first_content = 0
        self.first_events = b""
        """What a stream of Responses began with: its end repeats some of it."""
        self.status = 0
        self.last_events = b""
        """What was passed on last of a stream whose events are numbered."""
        # account
        self.closed = False
        """Whether its closing line is written."""
        self.ended = 0
        self.counted: Counted | None = None
        """Set once somebody has tried to count what was not reported."""
        self.error: GatewayError | None = None
        self.usage: Usage | None = None
        self.usage_source = ""
        self.cost_nano: int | None = None

    @property
    def free(self) -> bool:
        """Whether it uses no tokens and costs nothing, whatever is answered."""
        return self.endpoint in FREE
