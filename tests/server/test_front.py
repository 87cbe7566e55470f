"""The fast lane: who gets it, who gets the connection, and what becomes of what it began.

Its worst day: a plan that outlives what it was made from; bytes that both lanes read; an answer
that breaks when half of it is out.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from fastgw.domain import now_ms
from fastgw.server import lanes
from fastgw.storage import open_store
from fastgw.storage.sql import aliases, budgets, keys, limits, models
from fastgw.wire.apikey import make_key
from tests.scripted import Close, Hold, Request, Reset, Scripted, Wait
from tests.server.conftest import ANSWER, BODY, CHAT, REPLY
from tests.waiting import eventually

UNKNOWN = make_key()[0].reveal()
SENT = json.dumps(BODY).encode()
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunked(*events: bytes) -> bytes:
    """Frame each event as one chunk."""
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


STREAM = STREAM_HEAD + chunked(EVENT, USAGE, DONE) + b"0\r\n\r\n"


@pytest.fixture
async def other(store_url):
    """The store as another process has it."""
    opened = await open_store(store_url, migrate=False)
    yield opened
    await opened.close()


async def lane(served, name="fast", reason="plan"):
    """Count the exchanges of a lane."""
    async with served.client.get(served.url + "/metrics") as answer:
        text = await answer.text()
    start = f'fastgw_lane_total{{lane="{name}",reason="{reason}"}} '
    return next((int(float(x.split()[-1])) for x in text.splitlines() if x.startswith(start)), 0)


async def in_lane(served, key, **body):
    """Ask once; give the status and whether the fast lane answered."""
    before = await lane(served)
    status, _ = await served.chat(key, **body)
    return status, await lane(served) - before == 1


async def warm(served, **fields):
    """Give a key whose plan is there."""
    key = await served.create_key(**fields)
    assert (await served.chat(key))[0] == 200
    assert await in_lane(served, key) == (200, True)
    return key


def request(key, body=SENT, line=f"POST {CHAT} HTTP/1.1", *fields):
    """Write a canonical request."""
    head = [
        line, "host: x", f"authorization: Bearer {key}", "content-type: application/json", *fields,
    ]  # fmt: skip
    if not any(field.startswith("transfer-encoding") for field in fields):
        head.append(f"content-length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Wire:
    """A raw connection."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def answer(self):
        """Read one answer that is framed by its length or by chunks; give status and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return status, body
        if status < 200:
            return status, b""
        length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
        return status, await self.reader.readexactly(length)


@pytest.fixture
async def wire():
    """Open raw connections to a server; closed with the test."""
    opened = []

    async def connect(served):
        host, port = served.url.split("//")[1].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        opened.append(writer)
        return Wire(reader, writer)

    yield connect
    for writer in opened:
        writer.close()


# -- who gets it --------------------------------------------------------------------------------


async def test_the_second_of_its_kind_is_fast(serve, store_url):
    """Both lanes give the same bytes but for ids and dates, and leave the same record."""
    served = await serve(store_url)
    key = await served.create_key()
    answers = []
    for expected in (False, True):
        before = await lane(served)
        headers = {"authorization": f"Bearer {key}", "x-request-id": "mine"}
        async with served.client.post(served.url + CHAT, json=BODY, headers=headers) as answer:
            fields = {name.lower(): value for name, value in answer.headers.items()}
            assert len(fields.pop("x-fastgw-id")) == 26
            fields.pop("date")
            answers.append((answer.status, fields, await answer.read()))
        assert (await lane(served) - before == 1) is expected
    assert answers[0] == answers[1]
    assert answers[0][2] == ANSWER
    await eventually(lambda: served.loader.loaded == 2)
    rows = await served.gateway.store.fetch("SELECT * FROM usage_records")
    differ = {"id", "created_at", "duration_ms", "ttft_ms", "overhead_us", "updated_at"}
    one, two = ({k: v for k, v in dict(row).items() if k not in differ} for row in rows)
    assert one == two


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"model":"m","messages":[],"stream":null}', "body"),
        (b'{"model":"m","model":"m","messages":[]}', "body"),
        (b'{"mod\\u0065l":"m","messages":[]}', "body"),
        (b'{"model":"m","messages":[],"max_tokens":-1}', "body"),
        (b'{"model":"m","messages":[]', "body"),
        (b'{"model":"other","messages":[]}', "no_plan"),
    ],
)
async def test_what_is_not_plain_goes_the_standard_way(serve, sqlite_url, wire, body, reason):
    """The reason is counted, and the answer is the standard lane's."""
    served = await serve(sqlite_url)
    key = await warm(served)
    client = await wire(served)
    before = await lane(served, "standard", reason)
    client.writer.write(request(key, body))
    status, _ = await client.answer()
    assert status in {200, 400, 404}
    assert await lane(served, "standard", reason) == before + 1
    client.writer.write(request(key))
    assert await client.answer() == (200, ANSWER)
    assert await lane(served) == 2


async def test_an_unknown_aiohttp_leaves_the_standard_lane(serve, sqlite_url, monkeypatch):
    """A release without the private names that the hand-over needs is told at start."""
    monkeypatch.setattr(lanes, "NEEDED", (*lanes.NEEDED, "_new_name"))
    assert "_new_name" in lanes.obstacle()
    served = await serve(sqlite_url)
    assert served.gateway.fast is None
    key = await served.create_key()
    assert (await served.chat(key))[0] == (await served.chat(key))[0] == 200


def test_this_aiohttp_has_what_the_hand_over_needs():
    """Fails clearly when a release changes a private name: then look at GatewayProtocol."""
    assert lanes.obstacle() is None


# -- how long plans live ------------------------------------------------------------------------


async def expire(store, key_id):
    await store.execute("UPDATE api_keys SET expires_at = 1 WHERE id = $1", key_id)


async def disable(store, key_id):
    await keys.revoke(store, key_id)


async def forbid(store, key_id):
    await store.execute("UPDATE api_keys SET allowed_models = '[\"z\"]' WHERE id = $1", key_id)


async def lock_out(store, key_id):
    await store.execute(
        "UPDATE api_keys SET allowed_ips = '[\"10.0.0.0/8\"]' WHERE id = $1", key_id
    )


async def limit(store, key_id):
    await limits.create(store, scope="key", match_value=key_id, metric="requests", limit=0)


async def budget(store, key_id):
    await budgets.create(store, scope="key", match_value=key_id, limit_nano=0, period="month")


async def limit_tag(store, key_id):
    await store.execute('UPDATE api_keys SET tags = \'{"job":"x"}\' WHERE id = $1', key_id)
    await limits.create(store, scope="tag", match_value="job=x", metric="requests", limit=0)


async def move_alias(store, key_id):
    await aliases.put(store, name="m", model="nowhere")


async def reprice(store, key_id):
    await models.put(store, "", "m", input_pico=7 * 10**6, output_pico=10**6)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (expire, 401), (disable, 401), (forbid, 403), (lock_out, 403), (limit, 429), (budget, 403),
        (limit_tag, 429), (move_alias, 404), (reprice, 200),
    ],
)  # fmt: skip
async def test_a_change_ends_the_plan(serve, store_url, other, change, status):
    """At the next poll (each second): what was decided before is decided anew."""
    served = await serve(store_url)
    key = await warm(served)
    row = await keys.find(other, "test")
    await change(other, row.id)
    await served.gateway._changes.poll()
    before = await lane(served)
    assert (await served.chat(key))[0] == status
    assert await lane(served) == before


async def test_settings_end_plans_too(serve, sqlite_url):
    """A provider switched off and a model removed in the configuration."""
    served = await serve(sqlite_url)
    key = await warm(served)
    settings = served.gateway.settings
    gone = settings.model_copy(update={"providers": ()})
    served.gateway.reconfigure(gone)
    await eventually(lambda: not served.gateway.context.directory.providers)
    assert (await served.chat(key))[0] == 404


async def test_a_key_that_expires_needs_no_poll(serve, sqlite_url):
    """The plan holds the time itself."""
    served = await serve(sqlite_url)
    key = await served.create_key(expires_at=now_ms() + 1500)
    assert (await served.chat(key))[0] == 200

    async def refused():
        return (await served.chat(key))[0] == 401

    await eventually(refused, timeout=5)


async def test_what_was_decided_before_a_change_leaves_no_plan(serve, sqlite_url, wire):
    """A key is edited while a request of its old rights still sends its body: those rights end."""
    served = await serve(sqlite_url)
    key = await served.create_key()
    slow = await wire(served)
    sent = request(key)
    slow.writer.write(sent[:-5])
    context = served.gateway.context
    await eventually(lambda: len(context.keys) == 1)
    await served.gateway.store.execute('UPDATE api_keys SET tags = \'{"job":"new"}\'')
    await served.gateway._changes.poll()
    assert (await served.chat(key, model="p/other"))[0] == 200  # the new rights are in memory
    slow.writer.write(sent[-5:])
    assert (await slow.answer())[0] == 200
    assert (await served.chat(key))[0] == 200
    await eventually(lambda: served.loader.loaded == 3)
    rows = await served.gateway.store.fetch(
        "SELECT tags FROM usage_records ORDER BY created_at, id"
    )
    assert [json.loads(row["tags"]) for row in rows].count({"job": "new"}) == 2


async def test_edits_of_keys_leave_others_in_the_lane(serve, sqlite_url):
    """A hundred edits between polls touch the edited keys' plans alone."""
    served = await serve(sqlite_url)
    mine = await warm(served)
    for number in range(20):
        await served.create_key(f"other{number}")
    await served.gateway._changes.poll()
    assert (await served.chat(mine))[0] == 200
    before = await lane(served)
    for _ in range(20):
        for number in range(20):
            await served.gateway.store.execute(
                "UPDATE api_keys SET priority = 1 - priority WHERE name = $1", f"other{number}"
            )
        await served.gateway._changes.poll()
        assert (await served.chat(mine))[0] == 200
    assert await lane(served) - before == 20


# -- who gets the connection --------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_turn(serve, sqlite_url, wire):
    """Hot, cold, hot, an error, hot: five answers in order, on one connection."""
    served = await serve(sqlite_url)
    key = await warm(served)
    client = await wire(served)
    cold = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    before = await lane(served)
    client.writer.write(request(key) * 2 + cold + request(key) + request("fgw-none") + request(key))
    answers = [await client.answer() for _ in range(6)]
    assert [status for status, _ in answers] == [200, 200, 200, 200, 401, 200]
    assert [body == ANSWER for _, body in answers] == [True, True, False, True, False, True]
    assert await lane(served) - before == 4


@pytest.mark.parametrize("step", [1, 7, 100])
async def test_requests_may_come_in_pieces(serve, sqlite_url, wire, step):
    """However they are cut, as long as they are plain, the fast lane serves them."""
    served = await serve(sqlite_url)
    key = await warm(served)
    client = await wire(served)
    before = await lane(served)
    data = request(key) * 2
    for at in range(0, len(data), step):
        client.writer.write(data[at : at + step])
        await asyncio.sleep(0)
    assert await client.answer() == (200, ANSWER)
    assert await client.answer() == (200, ANSWER)
    assert await lane(served) - before == 2


async def test_split_at_every_byte(serve, sqlite_url, wire):
    """Two reads, cut anywhere."""
    served = await serve(sqlite_url)
    key = await warm(served)
    client = await wire(served)
    before = await lane(served)
    data = request(key)
    for at in range(1, len(data)):
        client.writer.write(data[:at])
        await asyncio.sleep(0)
        client.writer.write(data[at:])
        assert await client.answer() == (200, ANSWER)
    assert await lane(served) - before == len(data) - 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (lambda key: request(key, b"%x\r\n%b\r\n0\r\n\r\n" % (len(SENT), SENT),
                             f"POST {CHAT} HTTP/1.1", "transfer-encoding: chunked"), 200),
        (lambda key: request(key, SENT, f"POST {CHAT} HTTP/1.1", "expect: 100-continue"), 200),
        (lambda key: request(key, SENT, f"POST {CHAT} HTTP/1.1", "connection: keep-alive"), 200),
        (lambda key: request(key, b"", f"GET {CHAT} HTTP/1.1"), 405),
        (lambda key: request(key, b"", "DELETE /v1/nowhere HTTP/1.1"), 404),
    ],
)  # fmt: skip
async def test_odd_requests_leave_the_connection_usable(serve, sqlite_url, wire, sent, status):
    """Chunked bodies, 100-continue, other methods: then a hot one on the same connection."""
    served = await serve(sqlite_url)
    key = await warm(served)
    client = await wire(served)
    client.writer.write(sent(key) + request(key))
    got, _ = await client.answer()
    if got == 100:
        got, _ = await client.answer()
    assert got == status
    assert await client.answer() == (200, ANSWER)


@pytest.mark.parametrize("line", [f"POST {CHAT} HTTP/1.0", f"HEAD {CHAT} HTTP/1.1"])
async def test_old_and_headless(serve, sqlite_url, wire, line):
    """HTTP/1.0 and HEAD are the standard lane's."""
    served = await serve(sqlite_url)
    key = await warm(served)
    client = await wire(served)
    before = await lane(served)
    client.writer.write(request(key, SENT if "POST" in line else b"", line))
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.split(b" ")[1] == (b"200" if "POST" in line else b"405")
    assert await lane(served) == before


async def test_a_body_of_many_reads(serve, sqlite_url, wire):
    """A megabyte: collected once, sent whole."""
    served = await serve(sqlite_url)
    key = await warm(served)
    client = await wire(served)
    before = await lane(served)
    body = json.dumps(BODY | {"pad": "x" * 1_000_000}).encode()
    client.writer.write(request(key, body))
    assert await client.answer() == (200, ANSWER)
    assert await lane(served) - before == 1


# -- what it began ------------------------------------------------------------------------------


async def provided(serve, url, *scripts, **sections):
    """Serve with a provider that follows scripts, one a connection."""
    scripted = Scripted(*scripts)
    await scripted.__aenter__()
    served = await serve(
        url,
        providers=[
            {"name": "p", "type": "openai_compatible", "base_url": scripted.url, "models": ["m"]}
        ],
        **sections,
    )
    return served, scripted


@pytest.mark.parametrize(
    "after",
    [
        [b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"],
        [b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi"],
        [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{]"],
        [b"HTTP/1.1 200 OK\r\ncontent-le"],
        [b"garbage\r\n\r\n"],
        [b"HTTP/1.1 302 Go\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"],
    ],
)
async def test_a_fault_is_answered_by_the_standard_lane(serve, sqlite_url, after):
    """Nothing reached the client: it gets the 502 it would have got there, and one record."""
    served, scripted = await provided(
        serve, sqlite_url, [Request(), REPLY, Request(), *after, Close()], [Request(), REPLY]
    )
    try:
        key = await served.create_key()
        assert (await served.chat(key))[0] == 200
        status, body = await served.chat(key)
        assert (status, body["error"]["code"]) == (502, "upstream_error")
        assert await lane(served) == 0
        await eventually(lambda: served.loader.loaded == 2)
        rows = await served.gateway.store.fetch("SELECT status FROM usage_records")
        assert sorted(row["status"] for row in rows) == [200, 502]
        assert served.gateway.fast.in_flight == 0
    finally:
        await scripted.__aexit__(None, None, None)


async def test_an_answer_of_its_own_kind_is_carried_over(serve, sqlite_url):
    """A 4xx of the provider keeps its bytes; an answer without usage is counted by ourselves."""
    refusal = b'{"error":{"message":"no"}}'
    plain = b'{"choices":[{"message":{"content":"Hello there"}}]}'
    lines = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    served, scripted = await provided(
        serve, sqlite_url,
        [Request(), REPLY, Request(), lines % (400, len(refusal), refusal),
         Request(), lines % (200, len(plain), plain), Hold()],
    )  # fmt: skip
    try:
        key = await served.create_key()
        assert (await served.chat(key))[0] == 200
        assert await served.chat(key) == (400, json.loads(refusal))
        assert await served.chat(key) == (200, json.loads(plain))
        assert await lane(served, "standard", "answer") == 2
        await eventually(lambda: served.loader.loaded == 3)
        rows = await served.gateway.store.fetch(
            "SELECT status, usage_source, output_tokens FROM usage_records ORDER BY created_at, id"
        )
        assert [row["usage_source"] for row in rows].count("estimated") == 1
    finally:
        await scripted.__aexit__(None, None, None)


async def ask_stream(served, key, **body):
    headers = {"authorization": f"Bearer {key}"}
    sent = BODY | {"stream": True} | body
    async with served.client.post(served.url + CHAT, json=sent, headers=headers) as answer:
        return answer.status, await answer.read()


async def test_a_stream_goes_through(serve, sqlite_url):
    """With and without the usage that the client did not ask for."""
    served, scripted = await provided(serve, sqlite_url, [*(Request(), STREAM) * 4, Hold()])
    try:
        key = await served.create_key()
        for _ in range(2):
            assert await ask_stream(served, key) == (200, EVENT + DONE)
        asked = {"stream_options": {"include_usage": True}}
        assert await ask_stream(served, key, **asked) == (200, EVENT + USAGE + DONE)
        assert await lane(served) == 2
        await eventually(lambda: served.loader.loaded == 3)
        rows = await served.gateway.store.fetch("SELECT * FROM usage_records")
        assert {(r["input_tokens"], r["output_tokens"], r["usage_source"]) for r in rows} == {
            (3, 2, "reported")
        }
    finally:
        await scripted.__aexit__(None, None, None)


@pytest.mark.parametrize("begun", [0, 9])
async def test_a_slow_stream_is_begun_by_the_standard_lane(serve, sqlite_url, begun):
    """After commit_after_s the client hears a comment; half an event that was there is not lost."""
    go_on = asyncio.Event()
    answer = STREAM_HEAD + chunked(EVENT[:9]) if begun else b""
    rest = chunked(EVENT[9:], USAGE, DONE) if begun else STREAM_HEAD + chunked(EVENT, USAGE, DONE)
    served, scripted = await provided(
        serve, sqlite_url,
        [Request(), REPLY, Request(), answer, Wait(go_on), rest + b"0\r\n\r\n", Hold()],
        stream={"commit_after_s": 0.1},
    )  # fmt: skip
    try:
        key = await served.create_key()
        assert (await served.chat(key))[0] == 200
        headers = {"authorization": f"Bearer {key}"}
        sent = BODY | {"stream": True}
        async with served.client.post(served.url + CHAT, json=sent, headers=headers) as got:
            assert await got.content.readuntil(b"\n\n") == b": keep-alive\n\n"
            go_on.set()
            assert await got.read() == EVENT + DONE
        assert await lane(served, "standard", "slow") == 1
        assert len(scripted.requests) == 2
        await eventually(lambda: served.loader.loaded == 2)
        rows = await served.gateway.store.fetch(
            "SELECT usage_source, input_tokens FROM usage_records"
        )
        assert {(r["usage_source"], r["input_tokens"]) for r in rows} == {("reported", 3)}
    finally:
        await scripted.__aexit__(None, None, None)


@pytest.mark.parametrize("end", [Close(), Reset()])
async def test_a_stream_that_breaks_says_so(serve, sqlite_url, wire, end):
    """An error event, no [DONE], no clean end; the record is partial."""
    served, scripted = await provided(
        serve, sqlite_url,
        [Request(), REPLY, Request(), STREAM_HEAD + chunked(EVENT), end],
    )  # fmt: skip
    try:
        key = await served.create_key()
        assert (await served.chat(key))[0] == 200
        client = await wire(served)
        client.writer.write(request(key, json.dumps(BODY | {"stream": True}).encode()))
        said = await client.reader.read()
        assert EVENT in said
        assert b'"code":"upstream_error"' in said
        assert b"[DONE]" not in said
        assert not said.endswith(b"0\r\n\r\n")
        assert await lane(served) == 1
        await eventually(lambda: served.loader.loaded == 2)
        rows = await served.gateway.store.fetch(
            "SELECT status, usage_source, output_tokens FROM usage_records WHERE status <> 200"
        )
        assert [(r["status"], r["usage_source"]) for r in rows] == [(502, "partial")]
        assert rows[0]["output_tokens"] > 0
    finally:
        await scripted.__aexit__(None, None, None)


@pytest.mark.parametrize("begun", [True, False])
async def test_a_client_that_leaves_ends_the_attempt(serve, sqlite_url, wire, begun):
    """The provider is cancelled, the record says 499, nothing stays behind."""
    steps = [STREAM_HEAD + chunked(EVENT)] if begun else []
    served, scripted = await provided(
        serve, sqlite_url, [Request(), REPLY, Request(), *steps, Hold()]
    )
    try:
        key = await served.create_key()
        assert (await served.chat(key))[0] == 200
        client = await wire(served)
        client.writer.write(request(key, json.dumps(BODY | {"stream": True}).encode()))
        if begun:
            await client.reader.readuntil(EVENT)
        else:
            await eventually(lambda: len(scripted.requests) == 2)
        client.writer.transport.abort()
        await eventually(scripted.connections[0].gone.is_set)
        await eventually(lambda: served.loader.loaded == 2)
        rows = await served.gateway.store.fetch(
            "SELECT status, usage_source FROM usage_records WHERE status <> 200"
        )
        assert [row["status"] for row in rows] == [499]
        assert served.gateway.fast.in_flight == 0
    finally:
        await scripted.__aexit__(None, None, None)


async def test_limits_hold_in_the_lane(serve, store_url, other):
    """The same counters as in the standard lane: five of five, then 429 with its headers."""
    await limits.create(other, scope="key", metric="requests", limit=5)
    served = await serve(store_url)
    key = await served.create_key()
    statuses = [(await served.chat(key))[0] for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    assert await lane(served) == 4
    headers = {"authorization": f"Bearer {key}"}
    async with served.client.post(served.url + CHAT, json=BODY, headers=headers) as answer:
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert await lane(served, "fast", "refusal") == 3


async def test_refusals_are_the_standard_lanes_own(serve, sqlite_url):
    """401, 403 and 404 again: same bytes but for ids and dates, same records, in the fast lane."""
    served = await serve(sqlite_url)
    key = await served.create_key(allowed_models=["m", "gone"])
    for bearer, model, status in ((key, "p/x", 403), (key, "gone", 404), (UNKNOWN, "m", 401)):
        answers = []
        for _ in range(2):
            headers = {"authorization": f"Bearer {bearer}", "x-request-id": "mine"}
            sent = BODY | {"model": model}
            async with served.client.post(served.url + CHAT, json=sent, headers=headers) as answer:
                fields = {name.lower(): value for name, value in answer.headers.items()}
                assert len(fields.pop("x-fastgw-id")) == 26
                fields.pop("date")
                answers.append((answer.status, fields, await answer.read()))
        assert answers[0] == answers[1]
        assert answers[0][0] == status
    assert await lane(served, "fast", "refusal") == 3
    await eventually(lambda: served.loader.loaded == 4)
    rows = await served.gateway.store.fetch(
        "SELECT status, requested_model, error_code, count(*) AS times FROM usage_records"
        " GROUP BY 1, 2, 3 ORDER BY 1"
    )
    assert [tuple(dict(row).values()) for row in rows] == [
        (403, "p/x", "model_not_allowed", 2), (404, "gone", "model_not_found", 2),
    ]  # fmt: skip


async def test_many_refusals_in_one_read(serve, sqlite_url, wire):
    """Two thousand pipelined requests of an unknown key: as many answers, and a served one last."""
    served = await serve(sqlite_url)
    key = await warm(served)
    client = await wire(served)
    client.writer.write(request(UNKNOWN) * 2000 + request(key))
    for _ in range(2000):
        assert (await client.answer())[0] == 401
    assert await client.answer() == (200, ANSWER)
