"""The kinds of load: what each row of the comparison sends, over how many connections."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.record import Running

CHUNKS = 50


@dataclass(frozen=True)
class Row:
    """One kind of load. `latency` rows never fill a core: they are there for their times."""

    name: str
    title: str
    connections: int
    prompt_bytes: int = 1200
    stream: bool = False
    chunk_delay_us: int = 0
    usage: bool = False
    refused: bool = False
    tls: bool = False
    latency: bool = False


JSON = "JSON 1.2 KB"
PACED = f"stream, {CHUNKS} chunks paced, 64 connections"
PACE_US = 400

ROWS = (
    Row("json-1", f"{JSON}, 1 connection", 1, latency=True),
    Row("json-16", f"{JSON}, 16 connections", 16),
    Row("json-64", f"{JSON}, 64 connections", 64),
    Row("json-100k", "JSON 100 KB, 16 connections", 16, prompt_bytes=100 * 1024),
    Row("stream-1", f"stream, {CHUNKS} chunks in a burst, 1 connection", 1, stream=True,
        latency=True),
    Row("burst", f"stream, {CHUNKS} chunks in a burst, 64 connections", 64, stream=True),
    Row("paced", PACED, 64, stream=True, chunk_delay_us=PACE_US),
    Row("paced-usage", f"{PACED}, the client asked for usage", 64, stream=True,
        chunk_delay_us=PACE_US, usage=True),
    Row("refused", "refused (429): a key over its limit, 64 connections", 64, refused=True),
    Row("json-tls", f"{JSON}, 64 connections, TLS on both sides", 64, tls=True),
    Row("paced-tls", f"{PACED}, TLS on both sides", 64, stream=True, chunk_delay_us=PACE_US,
        tls=True),
)  # fmt: skip


def write_body(row: Row, folder: Path) -> Path:
    """Write the row's request body: a chat request of the wanted size."""
    body: dict[str, Any] = {
        "model": "bench",
        "messages": [
            {"role": "system", "content": "You are a careful assistant."},
            {"role": "user", "content": ""},
        ],
        "temperature": 0.2,
        "max_tokens": 512,
    }
    if row.stream:
        body |= {"stream": True, "chunk_delay_us": row.chunk_delay_us}
    if row.usage:
        body["stream_options"] = {"include_usage": True}
    room = row.prompt_bytes - len(json.dumps(body))
    text = "Tell me what a gateway is for, and what it may cost. " * (room // 53 + 1)
    body["messages"][1]["content"] = text[:room]
    path = folder / f"{row.name}.json"
    path.write_text(json.dumps(body))
    return path


def options_for(row: Row, running: Running, body: Path) -> list[str]:
    """Give the driver's options for a row, without its length."""
    options = ["--url", f"127.0.0.1:{running.port}", "--body", str(body)]
    options += ["--path", running.stream_path if row.stream else running.path]
    options += ["--connections", str(row.connections)]
    headers = running.refused_headers if row.refused else running.headers
    for header in (*headers, "Accept: application/json", "User-Agent: bench/1"):
        options += ["--header", header]
    if row.stream:
        options.append("--stream")
    if row.refused:
        options += ["--expect-status", "429"]
    if running.authority:
        options += ["--tls-ca", running.authority]
    return options
