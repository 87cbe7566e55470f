"""The side door: opened for the owner alone, and no reason not to serve."""

from __future__ import annotations

import asyncio
import os
import signal
import stat

import pytest

from fastgw.server import control
from fastgw.server.control import ask, doors, open_door
from tests.waiting import eventually


async def test_a_profile_is_answered_and_the_door_taken_away(tmp_path):
    """A data folder whose path is longer than a socket's address serves too."""
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    async with open_door(folder, 3):
        (door,) = doors(folder)
        assert door.worker == 3
        assert stat.S_IMODE(door.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(door.path.parent.stat().st_mode) == 0o700
        said = await ask(door, {"profile": 0.05}, 0.05)
        assert set(said) == {"stacks"}
    assert doors(folder) == []
    assert list(door.path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "question",
    [{"profile": 0}, {"profile": -1}, {"profile": 301}, {"profile": "x"}, {"other": 1}, {}],
)
async def test_nonsense_is_answered_with_an_error(tmp_path, question):
    async with open_door(tmp_path, 0):
        assert set(await ask(doors(tmp_path)[0], question, 0)) == {"error"}


async def test_one_profile_at_a_time(tmp_path):
    """A second question is refused while one is answered; who leaves ends the first."""
    async with open_door(tmp_path, 0):
        (door,) = doors(tmp_path)
        first = asyncio.create_task(ask(door, {"profile": 300}, 300))
        await eventually(lambda: callable(signal.getsignal(signal.SIGPROF)))
        assert "already" in (await ask(door, {"profile": 0.01}, 0))["error"]
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await eventually(lambda: signal.getsignal(signal.SIGPROF) is signal.SIG_IGN)
        assert "stacks" in await ask(door, {"profile": 0.01}, 0)


async def test_a_door_of_a_killed_worker_is_neither_asked_nor_kept(tmp_path):
    """Its process number belongs to nobody."""
    old = tmp_path / "control" / "worker-0-4194305.sock"
    old.parent.mkdir()
    old.touch()
    assert doors(tmp_path) == []
    async with open_door(tmp_path, 0):
        assert not old.exists()


async def test_a_worker_that_ends_while_asked_is_an_error(tmp_path, monkeypatch):
    """Half an answer is no answer."""

    async def leave(reader, writer):
        writer.write(b'{"stacks"')
        writer.close()

    path = tmp_path / f"worker-0-{os.getpid()}.sock"
    server = await asyncio.start_unix_server(leave, path)
    with pytest.raises(ConnectionError):
        await ask(control.Door(0, path), {}, 0)
    server.close()


async def test_without_a_folder_the_worker_serves_all_the_same(tmp_path):
    """The door stays shut, which the log tells."""
    (tmp_path / "control").write_text("in the way")
    async with open_door(tmp_path, 0):
        assert doors(tmp_path) == []
