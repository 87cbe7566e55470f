"""Who gets in: caps in all and by address, and a reserve of descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import random
from urllib.parse import urlsplit

import pytest

from fastgw.server.door import Door
from tests.waiting import eventually


def test_caps() -> None:
    """In all, and of one address; unix sockets have none."""
    door = Door(5, 2, 1000)
    assert [door.enter("a", 10) for _ in range(3)] == [True, True, False]
    assert [door.enter("", 10) for _ in range(4)] == [True, True, True, False]
    assert (door.inside, door.refused) == (5, 2)
    door.leave("")
    assert not door.enter("a", 10)
    assert door.enter("b", 10)


def test_the_last_fifth_of_the_descriptors_stays_free() -> None:
    """A number of 800 says that 800 are in use."""
    door = Door(5000, 5000, 1000)
    assert door.enter("a", 799)
    assert not door.enter("a", 800)


def test_places_come_back() -> None:
    """After any coming and going nothing is left, not even an address."""
    door, inside = Door(40, 10, 1000), []
    chance = random.Random(7)
    for _ in range(5000):
        address = f"10.0.0.{chance.randrange(9)}"
        if chance.random() < 0.55:
            if door.enter(address, 3):
                inside.append(address)
        elif inside:
            door.leave(inside.pop(chance.randrange(len(inside))))
        assert door.inside == len(inside) <= 40
        assert all(inside.count(each) <= 10 for each in inside)
    for address in inside:
        door.leave(address)
    assert door.inside == 0
    assert door._from == {}


@pytest.mark.usefixtures("small_catalogue")
async def test_a_full_house(serve, sqlite_url):
    """Who comes too many is closed unheard; a place that is given back can be had."""
    served = await serve(sqlite_url, server={"max_connections_per_address": 3})
    port = urlsplit(served.url).port
    inside = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    await eventually(lambda: served.gateway.door.inside == 3)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    inside[0][1].close()
    await eventually(lambda: served.gateway.door.inside == 2)
    assert (await served.get("/healthz"))[0] == 200
    for _, each in inside:
        each.close()
    await served.client.close()
    await eventually(lambda: served.gateway.door.inside == 0)
