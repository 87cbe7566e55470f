"""How one mock provider is run: what `fastgw mock` takes on its command line. No I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of one server; every model name can override the ones that shape an answer.

    `port` 0 takes a free one. `chunks` is the length of an answer in content chunks, each one word
    and one token. `error_rate` (0..1) fails that share of requests with 500, 503 or 429, drawn by
    `seed` and the request's number, so that trying again can help. `models`: the names served;
    empty serves any name. `api_key`: when given, requests must carry it as a bearer credential.
    """

    host: str = "127.0.0.1"
    port: int = 0
    latency_ms: float = 0.0
    chunks: int = 20
    chunk_delay_ms: float = 0.0
    error_rate: float = 0.0
    seed: int = 0
    log: str | None = None
    models: tuple[str, ...] = ()
    api_key: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that mean nothing; ValueError names the option."""
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be within 0..65535, not {self.port}")
        if not 0 <= self.error_rate <= 1:
            raise ValueError(f"error-rate must be within 0..1, not {self.error_rate}")
        for name in ("latency_ms", "chunks", "chunk_delay_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name.replace('_', '-')} must not be negative")
