"""What a stream costs that is open and silent: a gateway's memory with a few and with many of them.

The provider sends the head and one event, then nothing. The difference between the two counts holds
neither what the gateway needs anyway nor what its first stream made it load.
"""

from __future__ import annotations

import json
import selectors
import socket
import ssl
import time
from contextlib import ExitStack
from typing import Any

from bench import accounting
from bench.peers.record import Running
from bench.processes import BenchError

FEW, MANY = 100, 1100
_TIMEOUT_S = 30.0
_CALM_S = 0.3
_BODY = json.dumps(
    {
        "model": "bench",
        "stream": True,
        "hold": True,
        "messages": [{"role": "user", "content": "Say one word, then think."}],
    }
).encode()


def idle_memory(running: Running) -> dict[str, float]:
    """Give MiB of the idle process tree, and KiB that each of 1,000 silent streams adds."""
    pid = running.process.pid
    result = {"idle_rss_mib": _rss(pid) / 2**20, "idle_pss_mib": accounting.pss_bytes(pid) / 2**20}
    with ExitStack() as ending:
        _open(running, FEW, ending)
        few = _rss(pid)
        _open(running, MANY - FEW, ending)
        result["kib_per_stream"] = (_rss(pid) - few) / (MANY - FEW) / 1024
    return {name: round(value, 2) for name, value in result.items()}


def _rss(pid: int) -> int:
    time.sleep(_CALM_S)
    return accounting.rss_bytes(pid)


def _open(running: Running, count: int, ending: ExitStack) -> None:
    """Open so many streams, each up to its first event."""
    context = ssl.create_default_context(cafile=running.authority) if running.authority else None
    head = f"POST {running.stream_path} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n"
    fields = (*running.headers, "Content-Type: application/json", f"Content-Length: {len(_BODY)}")
    request = (head + "".join(f"{field}\r\n" for field in fields) + "\r\n").encode() + _BODY
    with selectors.DefaultSelector() as waiting:
        for _ in range(count):
            sock: Any = socket.create_connection(("127.0.0.1", running.port), _TIMEOUT_S)
            if context is not None:
                sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
            ending.callback(sock.close)
            sock.sendall(request)
            sock.setblocking(False)
            waiting.register(sock, selectors.EVENT_READ, bytearray())
        deadline = time.monotonic() + _TIMEOUT_S
        while waiting.get_map():
            if time.monotonic() > deadline:
                raise BenchError(f"{len(waiting.get_map())} of {count} streams did not begin")
            for key, _ in waiting.select(1.0):
                if _has_begun(key.fileobj, key.data):
                    waiting.unregister(key.fileobj)


def _has_begun(sock: Any, seen: bytearray) -> bool:
    try:
        data = sock.recv(65536)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    seen += data
    if not data or not seen.startswith(b"HTTP/1.1 200"[: len(seen)]):
        raise BenchError(f"a silent stream was answered with {bytes(seen[:200])!r}")
    return b"data: " in seen
