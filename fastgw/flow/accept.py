"""accept: give the request its ids and find the one key it carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastgw.errors import InvalidAPIKey
from fastgw.flow.context import Context
from fastgw.flow.exchange import Exchange

KEY_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
"""Where clients put their key: OpenAI, Anthropic, Azure, Gemini."""
_MOST_LABEL = 128


def accept(
    context: Context,
    endpoint: str,
    client_api: str,
    headers: Mapping[str, str],
    pinned: str | None = None,
) -> Exchange:
    """Open the exchange for a request whose head has been read."""
    exchange = Exchange(context.ids.next(), endpoint, client_api, headers, pinned)
    label = headers.get("x-request-id")
    if label and is_sane_label(label):
        exchange.request_id = label
    return exchange


def label_of(headers: Mapping[str, str], make: Callable[[], str]) -> str:
    """Give the client's request id if it is sane, else one that is made."""
    label = headers.get("x-request-id")
    return label if label and is_sane_label(label) else make()


def is_sane_label(label: str) -> bool:
    """Tell whether a client's request id can be echoed: short, visible ASCII."""
    return len(label) <= _MOST_LABEL and label.isascii() and label.isprintable()


def find_key(headers: Mapping[str, str]) -> str:
    """Give the one key the request carries, in whichever header its client API uses.

    Raises `InvalidAPIKey` when there is none, when two headers disagree, or for bytes that no key
    can hold.
    """
    found = None
    authorization = headers.get("authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise InvalidAPIKey("the Authorization header must be: Bearer fgw-…")
        found = token.strip()
    for name in KEY_HEADERS[1:]:
        value = headers.get(name)
        if value is None:
            continue
        if found is not None and value != found:
            raise InvalidAPIKey("the request carries two different keys")
        found = value
    if not found:
        raise InvalidAPIKey("no key: send it as Authorization: Bearer fgw-…")
    if not found.isascii():
        raise InvalidAPIKey("this is not a fastgw key")
    return found
