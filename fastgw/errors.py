"""Every error a client, an operator or a record can see: one tree, one table of codes.

An error carries who is at fault, whether trying again can help, the HTTP status and a message that
is safe to show. Rendering it in a client API's own shape is the business of `fastgw.wire`.
"""

from __future__ import annotations

from enum import Enum


class Source(Enum):
    """Whose fault it is."""

    CLIENT = "client"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"


class GatewayError(Exception):
    """Base of all errors shown to clients; never raised itself.

    `message` goes to the client as it is: it never holds a secret, an address of ours or a
    provider's raw text. `param` is the path of the field at fault. `retry_after` is in seconds.
    """

    status = 500
    code = "internal_error"
    source = Source.GATEWAY
    retryable = False

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class InternalError(GatewayError):
    """A defect of ours; the cause is in the log, not in the message."""


# -- the client's -------------------------------------------------------------------------------


class ClientError(GatewayError):
    """The request cannot be served as it was sent."""

    status = 400
    code = "invalid_request"
    source = Source.CLIENT


class InvalidRequest(ClientError):
    """A field is missing, of the wrong type or out of range."""


class InvalidHTTP(ClientError):
    """The request is malformed or too large HTTP, or asks for HTTP that is not spoken here."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class InvalidJSON(ClientError):
    """The body is not one complete JSON object."""

    code = "invalid_json"


class InvalidAPIKey(ClientError):
    """No key, a malformed one or one we do not know."""

    status = 401
    code = "invalid_api_key"


class ExpiredAPIKey(ClientError):
    """The key's time is over."""

    status = 401
    code = "expired_api_key"


class InvalidAdminToken(ClientError):
    """No admin token, or one that is not valid (any more)."""

    status = 401
    code = "invalid_token"


class ModelNotAllowed(ClientError):
    """The key may not use this model."""

    status = 403
    code = "model_not_allowed"


class IPNotAllowed(ClientError):
    """The key may not be used from this address."""

    status = 403
    code = "ip_not_allowed"


class NotAllowed(ClientError):
    """The key may not do this."""

    status = 403
    code = "not_allowed"


class NotFound(ClientError):
    """No such route or object."""

    status = 404
    code = "not_found"


class ModelNotFound(ClientError):
    """No provider serves this model."""

    status = 404
    code = "model_not_found"


class MethodNotAllowed(ClientError):
    """The route exists, the method does not."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.allowed = allowed


class Conflict(ClientError):
    """The change contradicts what is stored: a name is taken, or an object is still in use."""

    status = 409
    code = "conflict"


class AlreadyUnderWay(Conflict):
    """Somebody else is at the answer under this Idempotency-Key."""

    code = "request_in_progress"
    retryable = True


class AnswerNotKept(Conflict):
    """There was an answer under this Idempotency-Key, and it is gone."""

    code = "answer_not_kept"


class IdempotencyMismatch(ClientError):
    """The Idempotency-Key was used for another request."""

    status = 422
    code = "idempotency_mismatch"


class RequestTimeout(ClientError):
    """The client did not send its request in time."""

    status = 408
    code = "request_timeout"
    retryable = True


class BodyTooLarge(ClientError):
    """The body exceeds `server.max_body_bytes`."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(ClientError):
    """The content type or content coding is not one we read."""

    status = 415
    code = "unsupported_media_type"


class TooManyAttempts(ClientError):
    """Guessing is slowed down."""

    status = 429
    code = "too_many_attempts"
    retryable = True


class RateLimited(ClientError):
    """A limit is reached; the message names it."""

    status = 429
    code = "rate_limit_exceeded"
    retryable = True


class InsufficientQuota(ClientError):
    """What was spent leaves a budget no room for this request."""

    status = 429
    code = "insufficient_quota"


class BudgetReserved(ClientError):
    """Only reservations of requests under way leave a budget no room."""

    status = 429
    code = "budget_reserved"
    retryable = True


class ClientGone(ClientError):
    """The client left before the answer was complete; seen in records only."""

    status = 499
    code = "client_gone"


# -- ours ---------------------------------------------------------------------------------------


class StoreUnavailable(GatewayError):
    """The database cannot be asked; never reported as a fault of the client's key."""

    status = 503
    code = "store_unavailable"
    retryable = True


class SchemaMismatch(GatewayError):
    """The database's schema is not the one this version works with."""

    code = "schema_mismatch"


class VaultError(GatewayError):
    """A master key is unusable, or a stored credential cannot be read with it."""

    code = "vault_error"


class CannotStart(GatewayError):
    """Something the server needs is missing or wrong; the message says what, for its operator."""

    code = "cannot_start"


class NoDeploymentAvailable(GatewayError):
    """Every deployment of the model is disabled or out of service."""

    status = 503
    code = "no_deployment_available"
    retryable = True


class Draining(GatewayError):
    """The server is shutting down."""

    status = 503
    code = "shutting_down"
    retryable = True


# -- the provider's -----------------------------------------------------------------------------


class UpstreamFault(GatewayError):
    """The provider failed us. `billed` says whether the attempt may have cost money."""

    status = 502
    code = "upstream_error"
    source = Source.UPSTREAM
    retryable = True

    def __init__(
        self, message: str, *, billed: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.billed = billed


class UpstreamConnectError(UpstreamFault):
    """No connection: resolution, TCP or TLS failed; nothing was sent."""


class UpstreamProtocolError(UpstreamFault):
    """The answer is not HTTP we accept: framing, head or encoding."""


class UpstreamClosed(UpstreamFault):
    """The connection ended before the answer did."""


class UpstreamTimeout(UpstreamFault):
    """The provider was silent for longer than a deadline allows."""

    status = 504
    code = "upstream_timeout"
