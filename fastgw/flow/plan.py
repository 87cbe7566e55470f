# cython: language_level=3, annotation_typing=False, nonecheck=True
"""Plans: what the stages decided for one kind of request, compiled to data for the fast lane.

The standard lane leaves a plan behind when it serves a request; the fast lane executes it for the
next one with the same key, endpoint, model and tag header. A plan decides nothing: it is what
authenticate, admit, route and translate came to, and it lists the stamps of what they looked at. A
change kills the stamp, and with it every plan that bears it, and no other.

One text: compiled when a compiler is there (`plan.pxd` holds the types), plain Python otherwise,
where no fast lane uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastgw._ext import estimate, journal, limits, scan
from fastgw.catalog.cost import Tier, price_lines
from fastgw.errors import GatewayError, ModelNotAllowed, ModelNotFound
from fastgw.flow.exchange import Exchange
from fastgw.flow.ledger import who_of
from fastgw.flow.relay import Labels, labels_of, signature
from fastgw.flow.stamp import Stamp
from fastgw.flow.translate import outlet_of
from fastgw.providers import registry
from fastgw.providers.record import Asked
from fastgw.providers.relay import relay_facts
from fastgw.upstream.origin import Origin
from fastgw.wire import json
from fastgw.wire.shapes import shapes

if TYPE_CHECKING:
    from fastgw._ext import sse
    from fastgw.domain import Deployment, Model, Principal, Timeouts
    from fastgw.flow.context import Context
    from fastgw.providers.record import ProviderType
    from fastgw.upstream import Pool

MOST_PLANS = 64
"""Plans of one key: models times tag headers that are in use at the same time."""
MOST_KEYS = 100_000
MOST_PEERS = 1_000
MOST_PRICE = 2**63
"""Pico-dollars a unit that a C integer holds."""

MOST_TIERS = 8
"""Tiers of a price that compiled code has room for."""

KEYS = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
ASIDE = (
    b"content-type",
    b"content-encoding",
    b"x-request-id",
    b"x-fastgw-tags",
    b"x-fastgw-timeout-s",
    b"x-fastgw-strict",
    b"x-fastgw-explain",
    b"x-fastgw-dry-run",
    b"idempotency-key",
)
FIELDS = (
    *KEYS,
    *ASIDE,
    *sorted({name.encode() for record in registry.values() for name in record.forward_headers}),
)
"""Request fields the fast lane looks for; a leg names those it copies by their place here."""


_OPTIONS = frozenset({b"stream_options"})
_ASKED = Asked(b"", {}, "", "", stream=False, endpoint="")


class Leg:
    """One deployment of a plan: where a request goes, how its head begins, what it costs."""

    __slots__ = (
        "asks_usage", "cache_write", "cached", "cost_nano", "deployment", "duration",
        "first_token", "forgone", "forward", "input", "labels", "make_relay", "model",
        "model_json", "origin", "output", "overhead", "prefix", "priced", "prices", "provider",
        "provider_type", "ready", "reasoning", "replay", "requests", "signature", "tells_twice",
        "timeouts", "upstream", "weight", "who",
    )  # fmt: skip

    deployment: Deployment
    provider: str
    model: str
    provider_type: ProviderType
    weight: int
    who: journal.Who
    origin: Origin
    timeouts: Timeouts
    replay: bool
    prefix: bytes
    """The constant beginning of the request's head."""
    forward: tuple[tuple[int, bytes, bytes], ...]
    """Client fields that go along: place in FIELDS, beginning of the line, value without one."""
    model_json: bytes | None
    """What the model's name is replaced by, if it is."""
    asks_usage: bool
    tells_twice: bool
    make_relay: Callable[[Asked], Any]
    labels: Labels
    forgone: tuple[int, ...]
    """Meters of the plan that are about other providers than this one."""
    signature: bytes
    priced: bool
    prices: tuple[Tier, ...] | None
    ready: bool


class Plan:
    """What one kind of request leads to, as the fast lane executes it."""

    __slots__ = (
        "client_api", "directory_stamp", "endpoint", "expires_at", "family", "guard", "key_id",
        "key_stamp", "label_starts", "legs", "model", "numbered", "org_id", "payer", "peers",
        "plain", "principal",
        "requested_model", "rules_stamp", "tags", "tariff", "team_id", "user_id", "weight",
    )  # fmt: skip

    principal: Principal
    payer: Principal
    key_id: str
    """Of who pays, as the three that follow."""
    user_id: str | None
    team_id: str | None
    org_id: str | None
    model: Model
    endpoint: str
    client_api: str
    label_starts: tuple[bytes, ...]
    """How the lines begin that carry the request's label."""
    numbered: bool
    """Whether the events of a stream are numbered."""
    requested_model: str
    tags: dict[str, str]
    expires_at: int
    """Epoch milliseconds; 0: never."""
    legs: tuple[Leg, ...]
    weight: int
    """The sum of the legs' weights."""
    guard: limits.Guard | None
    """None where no limit and no budget applies."""
    tariff: limits.Tariff | None
    plain: bool
    """Whether requests with server tools cost no more than others."""
    family: estimate.Family
    peers: set[str] | None
    """Client addresses that were found to be allowed; None: all are."""
    key_stamp: Stamp
    directory_stamp: Stamp
    rules_stamp: Stamp


class Refusal:
    """A kind of request that is refused, as long as key and directory stay what they are."""

    __slots__ = ("directory_stamp", "error", "key_stamp", "principal", "requested_model")

    error: GatewayError
    principal: Principal
    requested_model: str
    key_stamp: Stamp
    directory_stamp: Stamp


class KeyPlans:
    """The plans of one key, by endpoint, model and tag header."""

    __slots__ = ("plans",)

    plans: dict[bytes, Plan | Refusal]

    def __init__(self) -> None:
        self.plans = {}


class Plans:
    """All plans of a worker, by digest of the key; what is not used for long is forgotten.

    Two generations: an entry that is found in the old one moves to the young one, and when the
    young one is full it becomes the old one. So forgetting costs nothing while plans are used.
    """

    __slots__ = ("old", "size", "young")

    young: dict[bytes, KeyPlans]
    old: dict[bytes, KeyPlans]

    def __init__(self, size: int = MOST_KEYS) -> None:
        self.size = size
        self.young = {}
        self.old = {}

    def __len__(self) -> int:
        return len(self.young.keys() | self.old.keys())

    def of_key(self, digest: bytes) -> KeyPlans | None:
        """Give the plans of a key, if it has any."""
        found = self.young.get(digest)
        if found is None:
            found = self.old.get(digest)
            if found is not None:
                self.keep(digest, found)
        return found

    def keep(self, digest: bytes, plans: KeyPlans) -> None:
        """Put a key into the young generation."""
        if len(self.young) >= self.size // 2:
            self.old = self.young
            self.young = {}
        self.young[digest] = plans

    def put(self, digest: bytes, kind: bytes, plan: Plan | Refusal) -> None:
        """Remember a plan; of too many the one made first is forgotten."""
        of_key = self.of_key(digest)
        if of_key is None:
            of_key = KeyPlans()
            self.keep(digest, of_key)
        plans = of_key.plans
        if kind not in plans and len(plans) >= MOST_PLANS:
            del plans[next(iter(plans))]
        plans[kind] = plan

    def count(self) -> int:
        """Give how many plans there are, dead ones too."""
        both = {**self.old, **self.young}
        return sum(len(each.plans) for each in both.values())


def asked_for(endpoint: str, query: str) -> str:
    """Give what a request target asks for: the endpoint, with a query that providers know."""
    return f"{endpoint}?{query}" if query else endpoint


def kind_of(asked: str, model: str, tags: str | None) -> bytes:
    """Give the name of a kind of request among those of a key."""
    return b"\0".join(
        text.encode("utf-8", "surrogateescape")  # as aiohttp reads header fields
        for text in (asked, model, tags or "")
    )


def leave_plan(exchange: Exchange, context: Context, pool: Pool) -> None:
    """Leave a plan behind for requests like this one, if the fast lane can serve them."""
    plans = context.plans
    if plans is None or exchange.pinned is not None or exchange.digest == context.anonymous:
        return
    if exchange.free:
        return
    tags = exchange.headers.get("x-fastgw-tags")
    asked = asked_for(exchange.endpoint, exchange.query)
    kind = kind_of(asked, exchange.requested_model, tags)
    of_key = plans.of_key(exchange.digest)
    plan = of_key.plans.get(kind) if of_key is not None else None
    if isinstance(plan, Plan) and is_live(plan):
        if plan.peers is not None and len(plan.peers) < MOST_PEERS:
            plan.peers.add(exchange.peer)
        return
    plan = make_plan(exchange, context, pool)
    if plan is not None:
        plans.put(exchange.digest, kind, plan)


def leave_refusal(exchange: Exchange, context: Context) -> None:
    """Leave behind that requests like this one are refused, if that is for the model's sake."""
    plans, error = context.plans, exchange.error
    if (
        plans is None
        or exchange.pinned is not None
        or exchange.principal is None
        or exchange.digest == context.anonymous
        or not isinstance(error, ModelNotFound | ModelNotAllowed)
    ):
        return
    principal = exchange.principal
    key_stamp = context.keys.stamp(exchange.digest, principal)
    if key_stamp is None or principal.allowed_ips or principal.expires_at is not None:
        return  # whether this key may call at all is asked each time
    assert exchange.stamps is not None
    refusal = Refusal()
    refusal.error = error
    refusal.principal = principal
    refusal.requested_model = exchange.requested_model
    refusal.key_stamp = key_stamp
    refusal.directory_stamp, _ = exchange.stamps
    asked = asked_for(exchange.endpoint, exchange.query)
    tags = exchange.headers.get("x-fastgw-tags")
    plans.put(exchange.digest, kind_of(asked, exchange.requested_model, tags), refusal)


def is_live(plan: Plan) -> bool:
    """Tell whether everything a plan was made from is still true."""
    return plan.key_stamp.live and plan.directory_stamp.live and plan.rules_stamp.live


def make_plan(exchange: Exchange, context: Context, pool: Pool) -> Plan | None:
    """Compile what the stages decided; None when a deployment cannot be served by the fast lane."""
    principal, model = exchange.principal, exchange.model
    assert principal is not None
    assert model is not None
    if principal.allowed_ips and context.proxies:
        return None  # a header says who the client is
    if exchange.service:
        return None  # its prices are not those of most requests
    if exchange.flat_nano is not None and any(d.price is None for d in model.deployments):
        return None
    legs = []
    for deployment in model.deployments:
        leg = make_leg(exchange, deployment, context, pool)
        if leg is None:
            return None
        legs.append(leg)
    key_stamp = context.keys.stamp(exchange.digest, principal)
    if key_stamp is None or exchange.stamps is None:
        return None
    plan = Plan()
    plan.principal = principal
    plan.payer = payer = exchange.payer or principal
    plan.key_id = payer.key_id
    plan.user_id = payer.user_id
    plan.team_id = payer.team_id
    plan.org_id = payer.org_id
    changes_at = context.directory.overrides.until(exchange.created_at)
    plan.expires_at = min(filter(None, (principal.expires_at, changes_at)), default=0)
    plan.endpoint = exchange.endpoint
    plan.client_api = exchange.client_api
    shape = shapes(exchange.client_api, exchange.endpoint)
    plan.label_starts = tuple(f"{name}: ".encode() for name in shape.label_headers)
    plan.numbered = shape.numbered
    plan.requested_model = exchange.requested_model
    plan.model = model
    plan.tags = exchange.tags
    plan.legs = tuple(legs)
    plan.weight = sum(leg.weight for leg in legs)
    guard = exchange.guard
    plan.guard = guard if guard is not None and guard.meters else None
    plan.tariff = exchange.tariff
    plan.plain = not context.limiter.terms.tool_fees
    plan.family = context.limiter.family(model)
    plan.peers = {exchange.peer} if principal.allowed_ips else None
    plan.key_stamp = key_stamp
    plan.directory_stamp, plan.rules_stamp = exchange.stamps
    return plan


def make_leg(
    exchange: Exchange, deployment: Deployment, context: Context, pool: Pool
) -> Leg | None:
    """Compile one deployment; None when it is not a relay."""
    provider = deployment.provider
    record = registry[provider.type]
    relay = relay_facts(record.translators.get(exchange.client_api), exchange.endpoint)
    path = record.paths.get(exchange.endpoint)
    if relay is None or path is None:
        return None
    lines = price_lines(deployment.price) if deployment.price is not None else None
    if lines is not None and (len(lines) > MOST_TIERS or max(map(max, lines)) >= MOST_PRICE):
        return None
    principal, model = exchange.principal, exchange.model
    assert principal is not None
    assert model is not None
    outlet = outlet_of(provider)
    leg = Leg()
    leg.deployment = deployment
    leg.provider = provider.name
    leg.model = deployment.model
    leg.provider_type = record
    leg.weight = max(deployment.weight, 0)
    leg.who = who_of(exchange, deployment, context)
    leg.origin = pool.origin(outlet.target)
    leg.timeouts = provider.timeouts
    leg.replay = record.replay
    if exchange.query in record.queries:
        path = asked_for(path, exchange.query)
    leg.prefix = outlet.prefix(path)
    leg.forward = tuple(
        (
            FIELDS.index(name.encode()),
            f"{name}: ".encode(),
            record.default_headers.get(name, "").encode(),
        )
        for name in record.forward_headers
    )
    leg.model_json = None
    if deployment.model != exchange.requested_model:
        leg.model_json = json.dumps(deployment.model)
    leg.asks_usage = relay.asks_usage
    leg.tells_twice = relay.tells_twice
    leg.make_relay = record.translators[exchange.client_api]
    leg.labels = labels_of(record.return_headers)
    leg.forgone = others(exchange.guard, provider.name)
    leg.signature = signature(deployment, 1)
    cells = context.metrics.cells(
        exchange.endpoint, provider.name, model.name, 200, "",
        context.metrics.owner_values(principal.key_id, exchange.tags),
    )  # fmt: skip
    for name, cell in cells._asdict().items():
        setattr(leg, name, cell)
    leg.priced = deployment.price is not None
    leg.prices = lines
    leg.ready = False
    return leg


def others(guard: limits.Guard | None, provider: str) -> tuple[int, ...]:
    """Give the places of the meters that are about other providers."""
    meters = guard.meters if guard is not None else ()
    return tuple(
        place
        for place, meter in enumerate(meters)
        if not meter.rule.concerns(meter.value, (provider,))
    )


def exchange_of(
    plan: Plan,
    leg: Leg,
    *,
    reservation: limits.Reservation | None,
    slices: limits.Slices | None,
    first_events: bytes,
    kept: int,
    id: str,  # noqa: A002 - the contract's name
    label: str | None,
    created_at: int,
    times: tuple[int, int, int],
    status: int,
    stream: bool,
    body: bytes,
    tap: sse.Tap | None,
    error: GatewayError | None,
) -> Exchange:
    """Give an exchange of the fast lane as the stages know it, for `account`.

    `times` are monotonic nanoseconds: started, sent, first content.
    """
    exchange = Exchange(id, plan.endpoint, plan.client_api, {})
    exchange.request_id = label or id
    exchange.created_at = created_at
    exchange.started, exchange.sent, exchange.first_content = times
    exchange.principal = plan.principal
    exchange.payer = plan.payer
    exchange.requested_model = plan.requested_model
    exchange.model = plan.model
    exchange.tags = plan.tags
    exchange.stream = stream
    exchange.body = body
    exchange.family = plan.family
    exchange.prompt_estimate = plan.family.prompt(body)
    exchange.guard = plan.guard
    exchange.tariff = plan.tariff
    exchange.reservation = reservation
    exchange.slices = slices
    exchange.first_events = first_events
    if slices is not None:
        exchange.choices = slices.choices
        exchange.spans = scan.top_level(body, _OPTIONS)
    exchange.kept = kept
    exchange.asked = [leg.deployment.provider.name]
    exchange.deployment = leg.deployment
    exchange.provider_type = leg.provider_type
    exchange.translator = relay = leg.make_relay(_ASKED)
    if tap is not None:
        relay.resume(tap)
    exchange.attempts = 1
    exchange.status = status
    exchange.error = error
    return exchange
