"""The bench's own tools: the provider answers what it should, the driver believes nothing wrong.

A driver that took a broken answer for a fast one would make every figure of the bench a lie.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.processes import BenchError, build_tools
from tests.server.certificates import Authority

CHUNKS = 20
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world"
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def tools(tmp_path_factory) -> Path:
    """The compiled tools; warnings are errors here."""
    if not (shutil.which("cc") and shutil.which("make")):
        pytest.skip("no C compiler: the bench tools cannot be built")
    return build_tools(tmp_path_factory.mktemp("bin"), warnings_are_errors=True)


@pytest.fixture
def upstream(tools) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A running provider and its port."""
    command = [str(tools / "upstream"), "--chunks", str(CHUNKS), "--max-seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, json.loads(process.stdout.readline())["port"]
        finally:
            process.terminate()


def load(tools: Path, port: int, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the driver; give its exit code and figures."""
    command = [str(tools / "load"), "--url", f"127.0.0.1:{port}", "--stall-seconds", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout)


def body_file(tmp_path: Path, **fields: Any) -> str:
    """Write a chat request."""
    path = tmp_path / "body.json"
    message = {"role": "user", "content": 'say "stream": true, but mean it not'}
    path.write_text(json.dumps({"model": "bench", "messages": [message], **fields}))
    return str(path)


def counts_of(process: subprocess.Popen[str]) -> dict[str, int]:
    """Stop the provider and give what it counted."""
    process.terminate()
    counts: dict[str, int] = json.loads(process.stdout.read())
    return counts


def exchange(port: int, *pieces: bytes) -> bytes:
    """Send pieces as writes of their own, end our side, and read to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            peer.sendall(piece)
        peer.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: peer.recv(65536), b""))


def test_json_requests_are_all_answered_and_counted(tools, upstream, tmp_path):
    """2,000 requests over 8 connections: as many answers, no error, the same count on both ends."""
    process, port = upstream
    options = ("--requests", "2000", "--connections", "8", "--body", body_file(tmp_path))
    code, said = load(tools, port, *options)
    assert (code, said["requests"], said["errors"], said["connects"]) == (0, 2000, 0, 8)
    assert said["payload_bytes"] % 2000 == 0
    assert 0 < said["p50_us"] <= said["p99_us"] <= said["max_us"]
    counts = counts_of(process)
    assert {"requests": 2000, "streams": 0, "bad": 0, "aborted": 0}.items() <= counts.items()


@pytest.mark.parametrize("delay", [0, 200])
def test_streams_arrive_whole_with_every_event(tools, upstream, tmp_path, delay):
    """20 streams, in a burst and paced: N events and [DONE] each, equal bytes in both ways."""
    process, port = upstream
    body = body_file(tmp_path, stream=True, chunk_delay_us=delay)
    options = ("--requests", "20", "--connections", "4", "--stream", "--body", body)
    code, said = load(tools, port, *options, "--expect-events", str(CHUNKS + 1))
    assert (code, said["requests"], said["errors"]) == (0, 20, 0)
    assert said["events"] == 20 * (CHUNKS + 1)
    assert 190 * CHUNKS <= said["payload_bytes"] / 20 <= 220 * CHUNKS
    assert {"streams": 20, "chunks": 20 * CHUNKS, "aborted": 0}.items() <= counts_of(
        process
    ).items()


def test_usage_comes_only_when_asked_for(tools, upstream, tmp_path):
    """`include_usage` adds exactly one event before [DONE]."""
    _, port = upstream
    body = body_file(tmp_path, stream=True, stream_options={"include_usage": True})
    code, said = load(tools, port, "--requests", "3", "--stream", "--body", body)
    assert (code, said["events"]) == (0, 3 * (CHUNKS + 2))


def test_a_chunked_request_body_is_read(upstream):
    """The provider de-chunks a body whose key is cut by the framing."""
    process, port = upstream
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = exchange(port, head, b'6\r\n{"stre\r\n', b'B;ext=1\r\nam" : true}\r\n', b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert counts_of(process)["streams"] == 1


def test_pipelined_requests_are_answered_in_order(upstream):
    """Two requests in one write get two answers."""
    _, port = upstream
    one = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
    assert exchange(port, one + last).count(b"HTTP/1.1 200 OK") == 2


def test_nonsense_is_not_answered(upstream):
    """A smuggling head (both framings) closes the connection and is counted as bad."""
    process, port = upstream
    head = b"POST / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}"
    assert exchange(port, head) == b""
    assert counts_of(process)["bad"] == 1


@pytest.fixture
def scripted() -> Iterator[Any]:
    """A server that answers every connection with given bytes, then closes or keeps silent."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve(answer: bytes, close: bool) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            held.append(peer)
            seen = b""
            while b"\r\n\r\n" not in seen and (data := peer.recv(65536)):
                seen += data
            peer.sendall(answer)
            if close:
                peer.shutdown(socket.SHUT_WR)

    threads: list[threading.Thread] = []

    def start(answer: bytes, *, close: bool = True) -> int:
        threads.append(threading.Thread(target=serve, args=(answer, close)))
        threads[0].start()
        return listener.getsockname()[1]

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join(10)
    for peer in held:
        peer.close()


@pytest.mark.parametrize(
    ("answer", "options", "error"),
    [
        (GOOD[:-1], (), "truncated"),
        (b"", (), "truncated"),
        (GOOD.replace(b"200 OK", b"502 Bad Gateway"), (), "status"),
        (GOOD.replace(b"200 OK", b"2000 OK"), (), "status"),
        (GOOD + b"!", (), "framing"),
        (GOOD.replace(b"Content-Length: 11\r\n", b""), (), "framing"),
        (GOOD.replace(b"11\r\n", b"11\r\nContent-Length: 11\r\n"), (), "framing"),
        (GOOD, ("--expect-bytes", "12"), "bytes"),
        (STREAM + b"3\r\nabc\r\n", (), "truncated"),
        (STREAM + b"3\r\nabcd\r\n0\r\n\r\n", (), "framing"),
        (STREAM + b"zz\r\nabc\r\n0\r\n\r\n", (), "framing"),
        (STREAM + b"3\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n", (), "framing"),
        (STREAM + b"9\r\ndata: 1\n\n\r\n0\r\n\r\n", ("--stream",), "no_done"),
        (STREAM + DONE, ("--stream", "--expect-events", "2"), "events"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_an_error_and_no_request(tools, scripted, answer, options, error):
    """Truncated, mis-framed, short, failed: each is named, none is counted as served."""
    code, said = load(tools, scripted(answer), "--requests", "3", *options)
    assert (code, said["requests"], said["errors"]) == (1, 0, 3)
    assert said[f"error_{error}"] == 3


def test_a_good_scripted_answer_passes(tools, scripted):
    """The same server with a right answer is believed: the errors above are not the server's."""
    answer = GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    code, said = load(tools, scripted(answer), "--requests", "3", "--expect-bytes", "11")
    assert (code, said["requests"], said["errors"], said["connects"]) == (0, 3, 0, 3)


def test_another_status_can_be_what_is_expected(tools, scripted):
    """A refusal counts as served when it is what was asked for, and a 200 then does not."""
    refused = GOOD.replace(b"200 OK", b"429 Too Many Requests")
    refused = refused.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    code, said = load(tools, scripted(refused), "--requests", "3", "--expect-status", "429")
    assert (code, said["requests"], said["errors"]) == (0, 3, 0)


def test_a_success_is_an_error_where_a_refusal_is_expected(tools, scripted):
    """A limit that does not hold must not look like a cheap refusal."""
    code, said = load(tools, scripted(GOOD), "--requests", "3", "--expect-status", "429")
    assert (code, said["requests"], said["error_status"]) == (1, 0, 3)


@pytest.fixture
def tls(tools, tmp_path) -> Iterator[tuple[int, str]]:
    """A provider that speaks TLS: its port, and the authority that vouches for it."""
    features = subprocess.run([tools / "load", "--features"], capture_output=True, check=True)
    if b"tls" not in features.stdout:
        pytest.skip("the bench tools were built without OpenSSL")
    authority = Authority(tmp_path)
    chain, key = authority.issue("provider")
    command = [str(tools / "upstream"), "--chunks", str(CHUNKS), "--max-seconds", "60"]
    command += ["--tls-cert", chain, "--tls-key", key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())["port"], authority.file
        finally:
            process.terminate()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [10, 200_000])
def test_tls_carries_the_same_answers(tools, tls, tmp_path, stream, size):
    """Requests of one record and of many, whole answers and paced streams, over 8 connections."""
    port, authority = tls
    body = body_file(tmp_path, stream=stream, chunk_delay_us=100, metadata={"filler": "x" * size})
    options = ["--requests", "200", "--connections", "8", "--body", body, "--tls-ca", authority]
    options += ["--stream", "--expect-events", str(CHUNKS + 1)] if stream else []
    code, said = load(tools, port, *options)
    assert (code, said["requests"], said["errors"], said["connects"]) == (0, 200, 0, 8)


def test_a_stranger_is_not_driven_over_tls(tools, tls, tmp_path):
    """A certificate of another authority ends the connection before the key is sent."""
    folder = tmp_path / "other"
    folder.mkdir()
    code, said = load(tools, tls[0], "--requests", "1", "--tls-ca", Authority(folder).file)
    assert (code, said["requests"]) == (1, 0)


def test_a_held_stream_falls_silent_after_one_event(upstream, tmp_path):
    """What a memory figure of idle streams needs: begun, and not ended."""
    _, port = upstream
    body = b'{"stream": true, "hold": true}'
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        peer.sendall(head + body)
        seen = b""
        while seen.count(b"data: ") < 1 or not seen.endswith(b"\r\n"):
            seen += peer.recv(65536)
        peer.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.recv(1)
    assert seen.count(b"data: ") == 1


def test_silence_ends_the_run(tools, scripted):
    """A server that never finishes its answer is an error within the stall time."""
    code, said = load(tools, scripted(GOOD[:-4], close=False), "--requests", "1")
    assert (code, said["error_stalled"]) == (1, 1)


@pytest.mark.parametrize("url", ["192.0.2.1:80", "0.0.0.0:80", "example.com:80", "127.0.0.1:0"])
def test_only_loopback_is_loaded(tools, url):
    """Any other address is refused before a socket is opened."""
    done = subprocess.run([tools / "load", "--url", url], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_missing_compiler_is_named(tmp_path, monkeypatch):
    """Without `cc` the bench says so, with the package that brings it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match=r"`cc` is missing.*apt-get install gcc"):
        build_tools(tmp_path)
