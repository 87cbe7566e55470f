"""`fastgw usage` and `fastgw admins`, on both engines."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import stat
from pathlib import Path

import pytest

from fastgw.admin.passwords import LEAST, Passwords
from fastgw.domain import UsageRecord
from fastgw.storage import open_store
from fastgw.storage.sql import admins, usage

DAY = 86_400_000
START = 1_793_491_200_000  # 2026-11-01


def record(number, **fields):
    return UsageRecord(
        **{
            "id": f"fgw_{number:04}",
            "request_id": "=HYPERLINK(1)",
            "created_at": START + number * DAY,
            "key_id": "key_1",
            "user_id": None,
            "team_id": None,
            "org_id": None,
            "tags": {"app": "x"},
            "endpoint": "chat_completions",
            "requested_model": "smart",
            "provider": "openai",
            "upstream_model": "gpt-4o",
            "status": 200,
            "attempts": 1,
            "stream": True,
            "input_tokens": 100,
            "output_tokens": 10,
            "cached_tokens": 5,
            "cache_write_tokens": 0,
            "reasoning_tokens": 2,
            "cost_nano": 1_250_000,
            "usage_source": "reported",
            "duration_ms": 12,
            "ttft_ms": 3,
            "overhead_us": 40,
            "error_code": None,
        }
        | fields
    )


@pytest.fixture
def used(cli, store_url):
    """Records of three days: two models, one failure."""
    records = [
        record(0),
        record(1, requested_model="fast", cost_nano=1),
        record(2, status=502, error_code="upstream_error", cost_nano=0, tags={}),
    ]

    async def fill():
        store = await open_store(store_url, migrate=False)
        try:
            await usage.insert_batch(store, records)
        finally:
            await store.close()

    asyncio.run(fill())
    return cli


def test_list(used):
    """The record's own names, money as decimal dollars, newest first."""
    rows = used("usage", "list", "--json").json
    assert [row["id"] for row in rows] == ["fgw_0002", "fgw_0001", "fgw_0000"]
    assert set(rows[0]) == {
        "cost_usd" if name == "cost_nano" else name for name in UsageRecord.__struct_fields__
    }
    assert rows[2]["cost_usd"] == "0.00125"
    assert rows[1]["cost_usd"] == "0.000000001"
    assert rows[2]["created_at"] == "2026-11-01T00:00:00.000Z"
    assert rows[2]["tags"] == {"app": "x"}
    assert rows[2]["stream"] is True


@pytest.mark.parametrize(
    ("args", "ids"),
    [
        (("--since", "2026-11-02"), [2, 1]),
        (("--until", "2026-11-01"), [0]),
        (("--since", "2026-11-02", "--until", "2026-11-02"), [1]),
        (("--model", "fast"), [1]),
        (("--status", 502), [2]),
        (("--tag", "app=x"), [1, 0]),
        (("--provider", "nobody"), []),
        (("--org", "nobody"), []),
        (("--limit", 1), [2]),
        (("--limit", 0), [2, 1, 0]),
    ],
)
def test_filters(used, args, ids):
    """Each narrows the listing."""
    rows = used("usage", "list", "--json", *args).json
    assert [row["id"] for row in rows] == [f"fgw_{number:04}" for number in ids]


def test_summary(used):
    """Sums by model, with `requests` and `cost_usd`."""
    rows = used("usage", "summary", "--by", "model", "--since", "2026-11-01", "--json").json
    assert [(row["model"], row["requests"], row["cost_usd"]) for row in rows] == [
        ("smart", 2, "0.00125"),
        ("fast", 1, "0.000000001"),
    ]
    days = used("usage", "summary", "--by", "day", "--json").json
    assert {row["day"] for row in days} == {"2026-11-01", "2026-11-02", "2026-11-03"}
    assert used("usage", "summary", "--by", "key", "--json").json[0]["key_id"] == "key_1"
    assert used("usage", "summary", "--by", "tag:app", "--json").json[0]["tag"] == "app=x"
    (total,) = used("usage", "summary", "--by", "total", "--json").json
    assert (total["requests"], total["errors"], total["input_tokens"]) == (3, 1, 300)
    assert "SMART" not in used("usage", "summary").out
    (failed,) = used("usage", "summary", "--by", "total", "--status", 502, "--json").json
    assert (failed["requests"], failed["errors"]) == (1, 1)
    (tagged,) = used("usage", "summary", "--by", "key", "--tag", "app=x", "--json").json
    assert tagged["requests"] >= 1


def test_export(used):
    """Every record, oldest first, as CSV or JSON; files are private and never overwritten."""
    assert used("usage", "export", "--format", "json", "--out", "u.json").code == 0
    rows = json.loads(Path("u.json").read_text())
    assert [row["id"] for row in rows] == ["fgw_0000", "fgw_0001", "fgw_0002"]
    assert rows == used("usage", "list", "--json").json[::-1]
    assert stat.S_IMODE(Path("u.json").stat().st_mode) == 0o600
    refused = used("usage", "export", "--out", "u.json")
    assert refused.code == 1
    assert json.loads(Path("u.json").read_text()) == rows
    assert used("usage", "export", "--out", "u.json", "--force").code == 0
    cells = list(csv.DictReader(io.StringIO(Path("u.json").read_text())))
    assert [cell["id"] for cell in cells] == ["fgw_0000", "fgw_0001", "fgw_0002"]
    assert cells[0]["request_id"] == "'=HYPERLINK(1)"
    assert cells[0]["cost_usd"] == "0.00125"
    assert used("usage", "export", "--csv").out == Path("u.json").read_text()


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("list", "--since", "junk"), 2),
        (("list", "--tag", "junk"), 2),
        (("list", "--tag", "a=1,b=2"), 2),
        (("summary", "--by", "junk"), 2),
        (("export", "--format", "xml"), 2),
        (("list", "--key", "nope"), 1),
        (("export", "--out", "/no/such/folder/x"), 1),
    ],
)
def test_bad_input(cli, args, code):
    """One line each."""
    result = cli("usage", *args)
    assert result.code == code
    assert len(result.err.splitlines()) == 1


def test_admins(cli, store_url):
    """An account with the password from standard input, or one that is printed once."""
    made = cli(
        "admins", "create", "Me@Example.com", "--role", "admin", "--password-stdin", "--json",
        stdin="a long enough password\n",
    ).json  # fmt: skip
    assert (made["email"], made["role"]) == ("me@example.com", "admin")
    assert "password" not in made
    generated = cli("admins", "create", "b@example.com", "--json").json
    assert len(generated["password"]) >= LEAST
    listed = cli("admins", "list", "--json")
    assert [row["email"] for row in listed.json] == ["b@example.com", "me@example.com"]
    assert "hash" not in listed.out

    async def verify(email, password):
        store = await open_store(store_url, migrate=False)
        try:
            _, known = await admins.find_by_email(store, email)
            return await Passwords().verify(known.reveal(), password)
        finally:
            await store.close()

    assert asyncio.run(verify("me@example.com", "a long enough password"))
    assert asyncio.run(verify("b@example.com", generated["password"]))


@pytest.mark.parametrize(
    ("args", "stdin", "code"),
    [
        (("me@example.com", "--password-stdin"), "short", 1),
        (("me@example.com", "--password-env", "NO_SUCH"), "", 1),
        (("me",), "", 2),
        (("me@example.com", "--role", "god"), "", 2),
    ],
)
def test_bad_accounts(cli, args, stdin, code):
    """Nothing is stored."""
    result = cli("admins", "create", *args, stdin=stdin)
    assert result.code == code
    assert len(result.err.splitlines()) == 1
    assert cli("admins", "list", "--json").json == []
