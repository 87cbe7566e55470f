"""Usage records for tests."""

from __future__ import annotations

import random
from typing import Any

from fastgw.domain import UsageRecord

NOON = 1_763_726_400_000
"""2025-11-21 12:00:00 UTC."""


def record(number: int, **values: Any) -> UsageRecord:
    """Make a plausible record; `number` makes its id."""
    sample: dict[str, Any] = {
        "id": f"rec{number:023d}",
        "request_id": f"req-{number}",
        "created_at": NOON + number,
        "key_id": "key_1",
        "user_id": None,
        "team_id": "team_1",
        "org_id": None,
        "tags": {},
        "endpoint": "/v1/chat/completions",
        "requested_model": "smart",
        "provider": "openai",
        "upstream_model": "gpt-5",
        "status": 200,
        "attempts": 1,
        "stream": False,
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 2,
        "cache_write_tokens": 1,
        "reasoning_tokens": 3,
        "cost_nano": 1_250,
        "usage_source": "reported",
        "duration_ms": 400,
        "ttft_ms": None,
        "overhead_us": 90,
        "error_code": None,
    }
    return UsageRecord(**{**sample, **values})


def random_record(number: int, source: random.Random) -> UsageRecord:
    """Make a record of any kind, over three months."""
    return record(
        number,
        created_at=NOON + source.randrange(-45 * 86_400_000, 45 * 86_400_000),
        key_id=source.choice(["key_1", "key_2", None]),
        user_id=source.choice(["user_1", None]),
        org_id=source.choice(["org_1", None]),
        tags={
            name: source.choice(["a", "b", "ü"])
            for name in source.sample(["team", "job", "app"], source.randrange(3))
        },
        requested_model=source.choice(["smart", "fast", "typo"]),
        provider=source.choice(["openai", "azure", ""]),
        status=source.choice([200, 200, 429, 502]),
        stream=source.random() < 0.5,
        input_tokens=source.randrange(100_000),
        output_tokens=source.randrange(10_000),
        cached_tokens=source.randrange(1_000),
        cache_write_tokens=source.randrange(1_000),
        reasoning_tokens=source.randrange(1_000),
        cost_nano=source.randrange(10**12),
        usage_source=source.choice(["reported", "partial", "estimated", "held"]),
        duration_ms=source.randrange(60_000),
        ttft_ms=source.choice([None, 120]),
    )
