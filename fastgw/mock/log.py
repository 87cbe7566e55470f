"""The mock's own account of every exchange: in memory, and as JSON lines in a file when asked.

It is the truth that tests compare a gateway's records with. A line is written when a request has
been read (`event: begin`) and one when its exchange is over (`event: end`); the second says all:

    id at peer method path model stream     `id` is the answer's x-request-id, `at` epoch ms
    credential headers                      as received, secrets replaced by `credential_mark`
    body body_bytes body_sha256             as received, base64 when it is no text
    status answer_id chunks events          whole events written; chunks are those with content
    bytes answer_sha256                     of the answer's body as written, framing left out
    sent billed                             {prompt, completion}: written; what would be charged
    reported                                the usage last written, true or not
    ended gone_ms ms                        see `fastgw.mock.event.Ended`; when the client left;
                                            the whole time, both in ms since the request began
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, overload

import orjson

MEMORY = 64 << 20
"""Bytes of log lines kept in memory; the oldest go first and are counted."""
CREDENTIALS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
"""Headers a provider reads its credential from, the first that is there."""
SECRETS = frozenset({*CREDENTIALS, "cookie", "proxy-authorization"})


def credential_mark(secret: str) -> str:
    """Give what the log shows for a credential: enough to compare, nothing to use."""
    return "sha256:" + hashlib.sha256(secret.encode("latin-1", "replace")).hexdigest()[:16]


def bare_credential(value: str) -> str:
    """Give a header value without the word before a bearer credential."""
    scheme, space, rest = value.partition(" ")
    return rest if space and scheme.lower() == "bearer" else value


def masked_headers(headers: Sequence[tuple[bytes, bytes]]) -> list[list[str]]:
    """Give request headers as received, in order, with credentials replaced by their marks."""
    shown = []
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name.lower() in SECRETS:
            bare = bare_credential(value)
            value = value[: len(value) - len(bare)] + credential_mark(bare)
        shown.append([name, value])
    return shown


def shown_body(body: bytes) -> str | dict[str, str]:
    """Give a body as text, or as `{"base64": ...}` when it is none."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


class Log(Sequence[dict[str, Any]]):
    """The end lines of finished exchanges, in the order they ended."""

    def __init__(self, path: str | None = None, memory: int = MEMORY) -> None:
        self.dropped = 0
        self._ended: deque[tuple[int, dict[str, Any]]] = deque()
        self._open: dict[str, dict[str, Any]] = {}
        self._size = 0
        self._memory = memory
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = None if path is None else os.open(path, flags, 0o600)

    @property
    def open(self) -> list[dict[str, Any]]:
        """Begin lines of exchanges that are not over."""
        return list(self._open.values())

    def begin(self, line: dict[str, Any]) -> None:
        """Write down that a request has been read."""
        self._open[line["id"]] = line
        self._write(orjson.dumps(line))

    def end(self, line: dict[str, Any]) -> None:
        """Write down that an exchange is over."""
        self._open.pop(line["id"], None)
        text = orjson.dumps(line)
        self._write(text)
        self._ended.append((len(text), line))
        self._size += len(text)
        while self._size > self._memory:
            self._size -= self._ended.popleft()[0]
            self.dropped += 1

    def clear(self) -> int:
        """Forget finished exchanges (the file keeps them); tells how many."""
        count = len(self._ended)
        self._ended.clear()
        self._size = 0
        return count

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, text: bytes) -> None:
        if self._file is not None:
            os.write(self._file, text + b"\n")

    def __len__(self) -> int:
        return len(self._ended)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([line for _, line in self._ended])

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(place, slice):
            return [line for _, line in self._ended][place]
        return self._ended[place][1]
