"""Wake-ups between processes: datagrams, the net behind them, and where the sockets lie."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from overnight.adapters.memory import MemoryWakeups
from overnight.adapters.sqlite.database import Database, open_database
from overnight.adapters.sqlite.wakeups import open_wakeups, socket_directory
from overnight.adapters.system import SystemEntropy

PATIENCE = 10.0
NEVER = 3600.0
"""Seconds between two looks of the net, where a test must not be saved by it."""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path) as database:
        yield database


def touch(connection: apsw.Connection) -> None:
    connection.execute("INSERT INTO bells (job_id, visible_at) VALUES ('a', 0)")


async def test_a_datagram_wakes_the_other_process(database: Database) -> None:
    entropy = SystemEntropy()
    async with (
        open_wakeups(database, MemoryWakeups(), entropy, net_seconds=NEVER) as one,
        open_wakeups(database, MemoryWakeups(), entropy, net_seconds=NEVER) as two,
    ):
        with two.subscribe("job:1") as wanted, two.subscribe("job:2") as other:
            one.announce("job:1", "job:3")
            assert await wanted.wait(PATIENCE)
            assert not await other.wait(0.0)


async def test_the_net_wakes_everybody_after_a_write_that_announced_nothing(
    database: Database, tmp_path: Path
) -> None:
    async with open_wakeups(database, MemoryWakeups(), SystemEntropy(), net_seconds=0.01) as wakeups:
        with wakeups.subscribe("job:1") as subscription:
            await database.write(touch)
            assert not await subscription.wait(0.1), "our own writes are announced, not netted"
            async with open_database(tmp_path) as another:
                await another.write(lambda connection: connection.execute("DELETE FROM bells"))
            assert await subscription.wait(PATIENCE)


async def test_the_socket_of_a_dead_process_is_removed(database: Database, tmp_path: Path) -> None:
    async with open_wakeups(database, MemoryWakeups(), SystemEntropy()) as wakeups:
        dead = tmp_path / "wake" / "1-dead.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
            left.bind(str(dead))
        wakeups.announce("queue")
        await asyncio.sleep(0)
        assert not dead.exists()
        assert len(list(dead.parent.iterdir())) == 1


async def test_a_process_that_does_not_read_holds_nobody_up(database: Database, tmp_path: Path) -> None:
    async with open_wakeups(database, MemoryWakeups(), SystemEntropy()) as wakeups:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
            stuck.bind(str(tmp_path / "wake" / "1-stuck.sock"))
            async with asyncio.timeout(PATIENCE):
                for _ in range(2000):
                    wakeups.announce("queue")
                    await asyncio.sleep(0)


async def test_the_socket_leaves_with_its_process(database: Database, tmp_path: Path) -> None:
    async with open_wakeups(database, MemoryWakeups(), SystemEntropy()):
        assert len(list((tmp_path / "wake").iterdir())) == 1
    assert list((tmp_path / "wake").iterdir()) == []


async def test_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20) / ("er" * 20)
    entropy = SystemEntropy()
    async with (
        open_database(deep) as one,
        open_database(deep) as two,
        open_wakeups(one, MemoryWakeups(), entropy, net_seconds=NEVER) as announcer,
        open_wakeups(two, MemoryWakeups(), entropy, net_seconds=NEVER) as listener,
    ):
        with listener.subscribe("queue") as subscription:
            announcer.announce("queue")
            assert await subscription.wait(PATIENCE)
    remove_directory(deep / "wake.path")


def remove_directory(record: Path) -> None:
    Path(record.read_text()).rmdir()


def test_processes_with_another_temporary_directory_meet(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    for temporary in (tmp_path / "one", tmp_path / "two"):
        temporary.mkdir()
        assert socket_directory(deep, temporary).parent == tmp_path / "one"
    assert os.listdir(deep) == ["wake.path"]  # noqa: PTH208 - names alone


def test_no_link_is_followed_to_the_sockets(tmp_path: Path) -> None:
    """In /tmp anybody could put it there before us: our sockets, and what we clean up, would be elsewhere."""
    deep, temporary, elsewhere = tmp_path / ("d" * 100), tmp_path / "tmp", tmp_path / "elsewhere"
    for directory in (deep, temporary, elsewhere):
        directory.mkdir()
    place = socket_directory(deep, temporary)
    place.rmdir()
    place.symlink_to(elsewhere)
    with pytest.raises(PermissionError, match="link"):
        socket_directory(deep, temporary)
