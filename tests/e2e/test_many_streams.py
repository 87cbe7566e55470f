"""A thousand streams at once: all complete, none reordered, and what each costs in memory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import CREDENTIAL, configuration
from tests.e2e.test_relay import post
from tests.processes import Gateway

STREAMS = 1000
MODEL = "mock?chunks=200&delay_ms=10"


async def stream(url: str, key: str, body: bytes, got: list[bytes]) -> None:
    """Ask once and keep the decoded body; the chunked framing must be complete."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n"
            % (key.encode(), len(body))
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        answer = bytearray()
        while size := int(await reader.readline(), 16):
            answer += (await reader.readexactly(size + 2))[:-2]
        got.append(bytes(answer))
    finally:
        writer.close()


def resident_kib(pid: int) -> int:
    """Give the private memory of a process."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(
        int(line.split()[1])
        for line in rollup.splitlines()
        if line.startswith(("Private_Clean", "Private_Dirty"))
    )


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_a_thousand_streams(store_url, mock, tmp_path, record_property):
    """200 chunks with 10 ms between them, a thousand times at once."""
    config = configuration(mock)
    config["providers"][0]["timeouts"] = {"first_byte_s": 60, "idle_s": 60}
    gateway = await asyncio.to_thread(Gateway, tmp_path, store_url, config)
    try:
        await asyncio.to_thread(gateway.ready)
        key = await asyncio.to_thread(gateway.create_key)
        question = {
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body = json.dumps({"model": f"mock/{MODEL}", **question}).encode()
        direct = json.dumps({"model": MODEL, **question}).encode()
        expected = (await asyncio.to_thread(post, mock.base_url, direct, CREDENTIAL))[2]
        await asyncio.to_thread(post, gateway.url + "/v1", body, key)
        (worker,) = gateway.children()
        before = resident_kib(worker)
        got: list[bytes] = []
        most = before
        tasks = [asyncio.create_task(stream(gateway.url, key, body, got)) for _ in range(STREAMS)]
        while not all(task.done() for task in tasks):
            most = max(most, resident_kib(worker))
            await asyncio.wait(tasks, timeout=0.25)
        await asyncio.gather(*tasks)
        assert len(got) == STREAMS
        assert all(answer == expected for answer in got)
        records = await asyncio.to_thread(gateway.records, STREAMS + 1, 30)
        assert len(records) == STREAMS + 1
        assert {(r.status, r.usage_source, r.output_tokens) for r in records} == {
            (200, "reported", 200)
        }
        record_property(
            "table",
            f"{STREAMS} streams of 200 chunks, 10 ms apart: all complete, {len(expected)} bytes"
            f" each, memory grew by {(most - before) / STREAMS:.1f} KiB a stream",
        )
    finally:
        await asyncio.to_thread(gateway.stop)
