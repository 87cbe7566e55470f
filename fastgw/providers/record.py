"""What is known of a provider type, as data, and the shape of its translators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from fastgw.domain import Provider, Usage
from fastgw.errors import GatewayError

Headers = Sequence[tuple[str, str]]
"""Header fields, names in lower case, values latin-1."""


class Asked(msgspec.Struct, frozen=True):
    """What the client asked, as far as a translator needs to know it.

    `spans` are the (start, end) offsets of top-level values in `body`.
    """

    body: bytes
    spans: Mapping[bytes, tuple[int, int]]
    requested_model: str
    upstream_model: str
    stream: bool
    endpoint: str


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """The text of an answer: estimated `tokens` of all of it, and of what was kept of it.

    `text` is what was kept, as it stands in JSON strings; `calls` counts tool calls.
    """

    tokens: int
    kept: int
    text: bytes
    calls: int


class Translator(Protocol):
    """Between one client API and one provider API, for one exchange."""

    def request(self, asked: Asked) -> Sequence[bytes]:
        """Give the body to send upstream, in parts that follow each other."""

    def data(self, data: bytes) -> bytes | None:
        """Give what goes to the client for these bytes of a stream; None when nothing yet."""

    def finish(self) -> bytes:
        """Give what was left at the end of a stream: b"" if it ended whole."""

    def whole(self, body: bytes) -> bytes:
        """Give what goes to the client for a whole 2xx answer; ValueError if it is none."""

    @property
    def fault(self) -> bytes | None:
        """The provider's own error event, once a stream held one."""

    @property
    def complete(self) -> bool:
        """Whether the stream said itself that it is complete."""

    def delivered(self) -> Delivered:
        """Give what went to the client so far."""

    @property
    def started(self) -> bool:
        """Whether content went to the client."""

    def usage(self) -> Usage | None:
        """Give the usage that the provider reported, if it did and it makes sense."""

    def prompt_usage(self) -> Usage | None:
        """Give what it reported of the prompt alone, before it reported all."""


class ProviderType(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a provider type. Each field's default is what an unknown provider gets."""

    name: str
    base_url: str | None = None
    """Where it is when nobody says otherwise."""
    environment: str | None = None
    """Well-known variable with a credential that switches it on. Base-URL variables are not read:
    beside a gateway they point at the gateway."""
    catalogue: str | None = None
    """Whose models and prices in the catalogue are its own; None: no models known."""
    paths: Mapping[str, str] = {}
    """Endpoint -> path below the base URL."""
    authorize: Callable[[Provider], Headers]
    """The header fields that carry the credential."""
    translators: Mapping[str, Callable[[Asked], Translator]]
    """Client API -> translator."""
    forward_headers: frozenset[str] = frozenset()
    """Client headers that go along, lower case."""
    default_headers: Mapping[str, str] = {}
    """What is sent of those when the client sent none: header name -> value."""
    queries: frozenset[str] = frozenset()
    """Query strings of client requests that go along."""
    return_headers: tuple[str, ...] = ()
    """Provider headers that come back, lower case; `name-*` is a prefix."""
    asks_usage: bool = False
    """Whether a stream of chat or completions must be asked to report usage
    (`stream_options.include_usage`)."""
    replay: bool = False
    """Whether a request that may have been received can be sent again without harm."""
    explain: Callable[[str, int, bytes], GatewayError]
    """Provider name, status and body of an answer that is not 2xx -> the error to raise when the
    answer itself cannot be relayed."""
