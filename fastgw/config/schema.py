"""Every setting there is: name, type, range, default and what it does. Reads nothing.

The models are frozen: a configuration is a snapshot, swapped whole. Checks that need more than one
section are in `checks`, since only there an error can be given the line it stands on.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from fastgw.config.listen import Address, parse_address
from fastgw.config.secret import REVEAL, SecretText
from fastgw.config.values import (
    Absent,
    BaseURL,
    Count,
    DatabaseURL,
    HeaderName,
    HeaderValue,
    Listen,
    Name,
    Network,
    Positive,
    ProviderName,
    RedisURL,
    Seconds,
    Share,
    TagLabel,
    Text,
    Timeout,
    Token,
    WebURL,
    When,
    at_least,
    number,
)
from fastgw.domain import Secret

LITELLM_PRICES = (
    "https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json"
)


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, values never repeated in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


# -- the process --------------------------------------------------------------------------------


class TLS(Section):
    """Certificate files (PEM) of the listening sockets."""

    cert: Text = Field(description="file with the certificate chain")
    key: Text = Field(description="file with the private key")
    client_ca: Text | None = Field(
        None, description="file with the authorities that clients must have a certificate of"
    )


class Server(Section):
    """Listening sockets, worker processes and what a client may take of them."""

    host: Text = Field("127.0.0.1", description="address to listen on")
    port: Annotated[int, number, Field(ge=0, le=65535)] = Field(
        8080, description="TCP port; 0 takes a free one"
    )
    listen: tuple[Listen, ...] = Field(
        (), description="instead of host and port: host:port, [v6]:port, unix:/path, fd://N"
    )
    workers: Annotated[int, number, Field(ge=1, le=1024)] = Field(
        1, description="processes that share the sockets"
    )
    tls: TLS | None = Field(None, description="serve HTTPS")
    max_body_bytes: Positive = Field(33554432, description="largest request body")
    header_timeout_s: Timeout = Field(10, description="a request's head must be there by then")
    body_timeout_s: Timeout = Field(
        30, description="a request body ends by then, or brings 1 KiB a second on average"
    )
    keepalive_timeout_s: Timeout = Field(75, description="idle client connections are closed")
    write_timeout_s: Timeout = Field(30, description="a client takes some of its answer by then")
    fast_lane: bool = Field(True, description="plain requests go past aiohttp")
    max_connections: Positive = Field(20_000, description="client connections of a worker")
    max_connections_per_address: Positive = Field(10_000, description="of these, from one address")
    drain_delay_s: Seconds = Field(
        0, description="on SIGTERM, time between /readyz 503 and refusing connections"
    )
    shutdown_grace_s: Seconds = Field(30, description="time live exchanges get to finish")

    def addresses(self) -> tuple[Address, ...]:
        """Give all addresses to listen on."""
        if self.listen:
            return tuple(map(parse_address, self.listen))
        return (Address("tcp", host=self.host, port=self.port),)


class Database(Section):
    """Where keys, models and records are kept."""

    url: DatabaseURL = Field(
        Secret("sqlite:///fastgw-data/fastgw.db"),
        description="sqlite:///relative or sqlite:////absolute, or postgresql://...",
    )
    auto_migrate: bool = Field(True, description="`serve` brings the schema up to date")


class Redis(Section):
    """Limits and budgets that many machines share."""

    url: RedisURL | None = Field(
        None, description="redis, rediss, unix, redis+sentinel, redis+cluster; none: in process"
    )
    on_failure: Literal["local", "deny"] = Field(
        "local", description="Redis is away: spend the local escrow, or refuse"
    )


class Security(Section):
    """Secrets of the gateway itself, and whom it trusts."""

    master_key: Annotated[SecretText, at_least(16)] | None = Field(
        None, description="encrypts stored credentials; generated into the data folder when unset"
    )
    jwt_secret: Annotated[SecretText, at_least(16)] | None = Field(
        None, description="signs admin tokens; generated into the data folder when unset"
    )
    trusted_proxies: tuple[Network, ...] = Field(
        (), description="networks whose X-Forwarded-For is believed"
    )
    private_providers: bool = Field(
        False, description="providers added through the API may be on private addresses"
    )


class Journal(Section):
    """The record of open and closed exchanges that survives a kill."""

    dir: Text = Field("fastgw-data/journal", description="folder of the journal files")
    mode: Literal["file", "redis", "none"] = Field(
        "file", description="none: in a folder that goes with the process; redis: not there yet"
    )
    segment_bytes: Annotated[int, number, Field(ge=1 << 16, le=1 << 30)] = Field(
        8 << 20, description="size of a journal file; each worker has two made ahead"
    )
    full_at: Share = Field(
        0.9, description="share of its disk in use from which it no longer grows; 1: until the end"
    )


class Usage(Section):
    """Usage records in the database; daily and monthly sums stay for good."""

    keep_months: Positive | None = Field(
        None, description="months before the present one that records are kept; unset: all"
    )


class Admin(Section):
    """The admin API and its first account."""

    listen: Listen | None = Field(None, description="another address for /admin")
    email: Text | None = Field(None, description="account made when it is missing")
    password: SecretText | None = Field(None, description="its password; generated when unset")


# -- the data plane -----------------------------------------------------------------------------


class Keys(Section):
    """Keys issued to clients."""

    cache_size: Positive = Field(100_000, description="principals kept in memory")
    negative_ttl_s: Seconds = Field(5, description="an unknown key is not looked up again")
    max_stale_s: Seconds = Field(300, description="known keys work while the database is away")
    client_tags: tuple[Name, ...] = Field(
        (), description="tags that callers may set when the key does not say"
    )


class Auth(Section):
    """Clients without a key."""

    anonymous_key: Token | None = Field(
        None, description="key that serves clients which cannot send one"
    )
    anonymous_remote: bool = Field(
        False, description="serve them from other machines too, not from loopback only"
    )


class Stream(Section):
    """Streamed answers."""

    keepalive_s: Seconds = Field(15, description="a sign of life to the client; 0: never")
    commit_after_s: Seconds = Field(15, description="longest wait for the provider's head")
    idle_timeout_s: Timeout = Field(600, description="a stream silent for so long ends")


class Idempotency(Section):
    """Answers kept for requests that bear an Idempotency-Key."""

    ttl_s: Timeout = Field(86_400, description="so long an answer is kept")
    max_answer_bytes: Positive = Field(1 << 20, description="a larger one is not kept")
    max_total_bytes: Positive = Field(1 << 30, description="beyond it the oldest are forgotten")
    wait_s: Seconds = Field(15, description="for a first request that another worker is at")


_SCOPE = r"^(key|user|team|org|model|provider|global|tag:[A-Za-z0-9_.-]{1,64})$"


class LimitRule(Section):
    """A ceiling per window for everything of a scope that matches."""

    scope: Annotated[str, StringConstraints(pattern=_SCOPE)] = Field(
        description="key, user, team, org, model, provider, global or tag:NAME"
    )
    match: Text = Field("*", description="whom: an id or name, `*` is a wildcard")
    metric: Literal["requests", "tokens", "concurrent"] = Field(description="what is counted")
    limit: Count = Field(description="the ceiling; 0 refuses everything")
    window_s: Timeout = Field(60, description="length of the window")
    algorithm: Literal["sliding_window", "token_bucket"] = Field(
        "sliding_window", description="how the window is counted"
    )
    burst: Count | None = Field(None, description="size of the token bucket")
    shared: bool = Field(False, description="one counter for all that match")

    @model_validator(mode="after")
    def _burst_fits(self) -> Self:
        if self.burst is not None and self.algorithm != "token_bucket":
            raise ValueError("burst belongs to algorithm: token_bucket")
        return self

    @property
    def kind(self) -> tuple[str, str, str, float, str, bool]:
        """What makes it another rule than the next; the numbers of one rule may change."""
        return self.scope, self.match, self.metric, self.window_s, self.algorithm, self.shared


class Limits(Section):
    """Limits that need no row in the database."""

    defaults: tuple[LimitRule, ...] = Field((), description="apply where no other rule matches")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({rule.kind for rule in self.defaults}) < len(self.defaults):
            raise ValueError("defaults has two rules that differ in no more than their numbers")
        return self


class Budgets(Section):
    """How budgets are enforced; the budgets themselves are in the database."""

    on_tight: Literal["refuse", "clamp"] = Field(
        "refuse", description="no room for the ceiling: refuse, or insert a maximum"
    )
    unpriced: Literal["refuse", "flat", "allow"] = Field(
        "refuse", description="models without a price where a budget matches"
    )


class Breaker(Section):
    """When a deployment is left alone."""

    failures: Positive = Field(5, description="failures within window_s that open it")
    window_s: Timeout = Field(10, description="failures older than this are forgotten")
    cooldown_s: Timeout = Field(10, description="open so long before one probe")


class Routing(Section):
    """How deployments are chosen and tried again."""

    breaker: Breaker = Breaker()
    retry_budget: Share = Field(0.2, description="retries as a share of requests")


class Cache(Section):
    """Response cache; this build has none."""

    enabled: Absent = Field(False, description="this build keeps no responses")


class CORS(Section):
    """Calls from web pages of other origins; this build allows none."""

    enabled: Absent = Field(False, description="this build answers no preflight")


class S3(Section):
    """Records to object storage; this build ships none."""

    enabled: Absent = Field(False, description="this build ships no records")


class Logs(Section):
    """The process's own log, on stderr."""

    format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console on a terminal, else json"
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level")
    requests: bool = Field(False, description="one line for each request")


class MetricsSettings(Section):
    """Labels that cost memory."""

    key_label: bool = Field(False, description="key ids as labels")
    tag_labels: Annotated[tuple[TagLabel, ...], Field(max_length=3)] = Field(
        (), description="tags as labels, at most three"
    )


class Catalog(Section):
    """Model facts and prices."""

    sync_url: WebURL = Field(LITELLM_PRICES, description="file that `fastgw models sync` reads")
    sync_schedule: When | None = Field(
        None, description="sync by itself: `every 12h`, or `daily 03:15` (UTC)"
    )


# -- what is served -----------------------------------------------------------------------------


class ProviderTimeouts(Section):
    """Seconds a provider may take for each step."""

    connect_s: Timeout = Field(5, description="TCP and TLS")
    first_byte_s: Timeout = Field(60, description="until its answer begins")
    idle_s: Timeout = Field(120, description="silence inside an answer")
    total_s: Timeout = Field(600, description="the whole attempt")


class Provider(Section):
    """A configured account with a provider."""

    name: ProviderName = Field(description="what it is called here, in paths and records")
    type: Name = Field(description="the adapter: openai, azure, anthropic, openai_compatible, ...")
    base_url: BaseURL | None = Field(
        None, description="where it is, with /v1 for OpenAI types; the type's own when unset"
    )
    api_key: Token | None = Field(None, description="the credential")
    api_version: Name | None = Field(None, description="for azure")
    models: tuple[Name, ...] = Field((), description="upstream models it serves, if known")
    headers: dict[HeaderName, HeaderValue] = Field({}, description="sent with every attempt")
    timeouts: ProviderTimeouts = ProviderTimeouts()
    ca_file: Text | None = Field(None, description="file with an extra trust anchor")
    enabled: bool = Field(True, description="false leaves it out")
    project: Text | None = Field(None, description="for vertex")
    location: Text | None = Field(None, description="for vertex")
    region: Text | None = Field(None, description="for bedrock")
    profile: Text | None = Field(None, description="for bedrock")
    role_arn: Text | None = Field(None, description="for bedrock")
    credentials: SecretText | None = Field(None, description="for vertex and bedrock")


class Deployment(Section):
    """A provider and the model name it knows."""

    provider: Name = Field(description="name of a provider above")
    model: Name = Field(description="the name the provider knows")
    weight: Annotated[int, number, Field(ge=1, le=10_000)] = Field(
        1, description="share of the requests"
    )


class Model(Section):
    """A public model name and the deployments that serve it."""

    name: Name = Field(description="what clients send")
    deployments: Annotated[tuple[Deployment, ...], Field(min_length=1)] = Field(
        description="where it is served"
    )
    fallbacks: tuple[Name, ...] = Field((), description="models to try when all of them fail")


class Alias(Section):
    """Another name for a model."""

    name: Name = Field(description="what clients send")
    model: Name = Field(description="the model it stands for")
    tags: dict[Name, Text] = Field({}, description="tags its requests get")
    billing_key_id: Name | None = Field(None, description="key that its spend is booked to")


class Settings(Section):
    """The whole configuration."""

    server: Server = Server()
    database: Database = Database()
    redis: Redis = Redis()
    security: Security = Security()
    journal: Journal = Journal()
    usage: Usage = Usage()
    admin: Admin = Admin()
    keys: Keys = Keys()
    auth: Auth = Auth()
    stream: Stream = Stream()
    idempotency: Idempotency = Idempotency()
    limits: Limits = Limits()
    budgets: Budgets = Budgets()
    routing: Routing = Routing()
    cache: Cache = Cache()
    cors: CORS = CORS()
    logs: Logs = Logs()
    s3: S3 = S3()
    metrics: MetricsSettings = MetricsSettings()
    catalog: Catalog = Catalog()
    providers: tuple[Provider, ...] = Field((), description="accounts with providers")
    models: tuple[Model, ...] = Field((), description="public models; more are in the database")
    aliases: tuple[Alias, ...] = Field((), description="other names for models")

    def to_json(self) -> bytes:
        """Give everything, secrets included, for the hand-over to a worker process by pipe."""
        return self.model_dump_json(context=REVEAL).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Settings:
        """Read what `to_json` gave."""
        return cls.model_validate_json(text)
