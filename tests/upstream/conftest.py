"""Every test of the room runs on both builds and over both loops."""

from __future__ import annotations

import asyncio
import os

import pytest
import uvloop

from tests.upstream.scripted import (
    PATIENT,
    Clock,
    Recorder,
    listening,
    load_rooms,
    request,
    settled,
)

ROOMS = load_rooms()


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(params=["compiled", "pure"])
def room(request):
    """The modules of the room, in one build."""
    if request.param not in ROOMS:
        if os.environ.get("CI"):
            pytest.fail("the room is not compiled")
        pytest.skip("the room is not compiled")
    return ROOMS[request.param]


@pytest.fixture
def clock():
    return Clock()


class Client:
    """A pool with shorthands; `kinds` of it are what `Pool` takes."""

    def __init__(self, room, **kinds):
        self.room = room
        self.pool = room.pool.Pool(asyncio.get_running_loop(), **kinds)

    def target(self, upstream, **changes):
        given = {"scheme": "http", "host": "127.0.0.1", "port": upstream.port} | changes
        return self.room.pool.Target(**given)

    def origin(self, upstream, **changes):
        return self.pool.origin(self.target(upstream, **changes))

    def send(
        self, upstream, *, body=b"{}", parts=None, head=None, sink=None, timeouts=PATIENT,
        replayable=False, **changes,
    ):  # fmt: skip
        """Send a request; give the sink, with its attempt."""
        sink = sink or Recorder()
        parts = [body] if parts is None else parts
        head = head or request(b"".join(parts))
        target = self.target(upstream, **changes)
        sink.attempt = self.pool.send(
            target, head, parts, listening(self.room, sink), timeouts, replayable
        )
        return sink

    async def ask(self, upstream, **options):
        """Send a request and wait for its end; give the sink."""
        return await self.send(upstream, **options).finished()


@pytest.fixture
async def clients(room):
    """A factory of clients; all are closed at the end."""
    made = []

    def make(**kinds):
        made.append(Client(room, **kinds))
        return made[-1]

    yield make
    for one in made:
        await one.pool.close()
        await settled(one.pool.deadlines.is_quiet)


@pytest.fixture
async def client(clients):
    return clients()
