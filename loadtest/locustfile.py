"""Clients of a gateway for locust: chat, streaming chat, embeddings, mixed; a ramp with a spike.

`make loadtest` runs them against the mock provider. By hand, against any gateway and model:

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8080 --key fgw-... --model smart

An answer counts only when it is whole: a stream must bring content and end with [DONE], usage must
be there, an embedding must have numbers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import orjson
from locust import FastHttpUser, LoadTestShape, between, events, task

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
WORDS = ("gateway", "provider", "budget", "token", "stream", "key", "limit", "answer")


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Add what these clients have to know."""
    parser.add_argument("--key", default="", is_secret=True, help="Key that they send")
    parser.add_argument(
        "--model", default="mock/mock?chunks=20&delay_ms=5", help="Of chat requests"
    )
    parser.add_argument("--embedding-model", default="mock/mock-embedding", help="Of embeddings")
    parser.add_argument("--shape-users", type=int, default=20, help="Before the spike")
    parser.add_argument("--shape-seconds", type=int, default=60, help="Of the whole shape")


class Client(FastHttpUser):
    """What all clients have in common."""

    abstract = True
    wait_time = between(0.05, 0.3)
    connection_timeout = 10.0
    network_timeout = 60.0
    headers: ClassVar[dict[str, str]] = {}

    def on_start(self) -> None:
        """Take the options."""
        options = self.environment.parsed_options
        self.model, self.embedding_model = options.model, options.embedding_model
        self.default_headers = {"authorization": f"Bearer {options.key}"}

    def chat(self) -> None:
        """Ask for a whole answer."""
        with self.client.post(
            CHAT, json=self._question(), headers=self.default_headers, catch_response=True
        ) as answer:
            fault = _fault_of_chat(answer)
            if fault:
                answer.failure(fault)

    def stream(self, *, usage: bool) -> None:
        """Ask for a stream; the first content is an entry of its own."""
        question = self._question() | {"stream": True}
        if usage:
            question["stream_options"] = {"include_usage": True}
        began = time.perf_counter()
        with self.client.post(
            CHAT,
            name=f"{CHAT} stream{' with usage' if usage else ''}",
            json=question,
            headers=self.default_headers,
            stream=True,
            catch_response=True,
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
                return
            first, fault = _read_stream(answer.stream, usage=usage)
            if fault:
                answer.failure(fault)
        if first:
            self.environment.events.request.fire(
                request_type="SSE",
                name="first content",
                response_time=(first - began) * 1000,
                response_length=0,
                exception=None,
                context={},
            )

    def embed(self) -> None:
        """Ask for the embeddings of a few texts."""
        texts = [_sentence(20) for _ in range(random.randint(1, 8))]
        body = {"model": self.embedding_model, "input": texts}
        with self.client.post(
            EMBEDDINGS, json=body, headers=self.default_headers, catch_response=True
        ) as answer:
            fault = _fault_of_embeddings(answer, len(texts))
            if fault:
                answer.failure(fault)

    def _question(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [
                {"role": "system", "content": "You are a careful assistant."},
                {"role": "user", "content": _sentence(random.choice((10, 100, 1000)))},
            ],
        }


class ChatUser(Client):
    """Waits for whole answers."""

    weight = 4

    @task
    def ask(self) -> None:
        """Ask once."""
        self.chat()


class StreamingUser(Client):
    """Reads answers as they come; one in four wants to know the usage."""

    weight = 4

    @task(3)
    def read(self) -> None:
        """Read a stream."""
        self.stream(usage=False)

    @task
    def read_with_usage(self) -> None:
        """Read a stream with usage."""
        self.stream(usage=True)


class EmbeddingsUser(Client):
    """Indexes documents."""

    weight = 1

    @task
    def index(self) -> None:
        """Embed once."""
        self.embed()


class MixedUser(Client):
    """An application: it looks for something, asks, and lists the models now and then."""

    weight = 2

    @task(4)
    def ask(self) -> None:
        """Ask once."""
        self.chat()

    @task(4)
    def read(self) -> None:
        """Read a stream."""
        self.stream(usage=random.random() < 0.5)

    @task(2)
    def look(self) -> None:
        """Embed once."""
        self.embed()

    @task
    def list_models(self) -> None:
        """List the models."""
        self.client.get("/v1/models", headers=self.default_headers)


class RampAndSpike(LoadTestShape):
    """Climbs to `--shape-users`, holds, doubles them three times over at once, comes back, holds.

    A gateway that only copes with a steady load fails at the spike: new connections, cold key look-
    ups, connections to the provider that are dialled while everybody waits.
    """

    STAGES = ((0.3, 0.5, 4), (0.55, 1.0, 4), (0.75, 4.0, 50), (0.9, 1.0, 50), (1.0, 0.25, 50))
    """Until which part of the time, how many times the users, started or stopped each second."""

    def tick(self) -> tuple[int, float] | None:
        """Give the users of now and how fast to get there; None: it is over."""
        options = self.runner.environment.parsed_options
        part = self.get_run_time() / options.shape_seconds
        for until, times, rate in self.STAGES:
            if part < until:
                return max(1, round(options.shape_users * times)), rate
        return None


def _sentence(words: int) -> str:
    return " ".join(random.choices(WORDS, k=words))


def _fault_of_chat(answer: Any) -> str:
    if answer.status_code != 200:
        return f"status {answer.status_code}"
    body = orjson.loads(answer.content)
    if not body["choices"][0]["message"]["content"]:
        return "no content"
    return "" if body.get("usage", {}).get("completion_tokens") else "no usage"


def _fault_of_embeddings(answer: Any, count: int) -> str:
    if answer.status_code != 200:
        return f"status {answer.status_code}"
    data = orjson.loads(answer.content)["data"]
    return "" if len(data) == count and all(one["embedding"] for one in data) else "too few"


def _read_stream(stream: Any, *, usage: bool) -> tuple[float, str]:
    """Read to the end; give when the first content came (0: never) and what was wrong."""
    first, told, done = 0.0, False, False
    for data in _events(stream):
        if data == b"[DONE]":
            done = True
            continue
        event = orjson.loads(data)
        if "error" in event:
            return first, "an error event"
        told = told or event.get("usage") is not None
        if not first and any(choice["delta"].get("content") for choice in event["choices"]):
            first = time.perf_counter()
    if not first:
        return first, "no content"
    if told != usage:
        return first, "usage that nobody asked for" if told else "no usage"
    return first, "" if done else "cut off"


def _events(stream: Any) -> Iterator[bytes]:
    while line := stream.readline(b"\n"):  # as they come: a read waits for as much as it may take
        if line.startswith(b"data: "):
            yield bytes(line[6:]).strip()
