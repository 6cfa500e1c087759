"""One file, one writer, group commit, short readers."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from overnight.adapters.sqlite import index, queue, tallies
from overnight.adapters.sqlite.database import Database, open_database
from overnight.adapters.sqlite.rows import encode, find_events, find_snapshot
from overnight.adapters.sqlite.schema import FIRST, MIGRATIONS
from overnight.adapters.sqlite.turn import Turn
from overnight.domain.errors import Refused
from overnight.domain.job import Event
from overnight.ports import SchemaTooNew, StorageError, StorageFailed

PATIENCE = 10.0


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path) as database:
        yield database


def add(name: str) -> Callable[[apsw.Connection], None]:
    def work(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO bells (job_id, visible_at) VALUES (?, 0)", (name,))

    return work


def names(connection: apsw.Connection) -> set[str]:
    return {str(name) for (name,) in connection.execute("SELECT job_id FROM bells")}


def execute(statement: str, values: tuple[str, ...], connection: apsw.Connection) -> None:
    connection.execute(statement, values)


@asynccontextmanager
async def writer_at_work(database: Database) -> AsyncIterator[None]:
    """While the context lasts the writer is inside a transaction, so that further writes wait."""
    begun, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(_connection: apsw.Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert release.wait(PATIENCE)

    busy = asyncio.create_task(database.write(work))
    await begun.wait()
    try:
        yield
    finally:
        release.set()
        await busy


async def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    for name in ("one", "two"):
        async with open_database(tmp_path) as database:
            await database.write(add(name))
    async with open_database(tmp_path) as database:
        assert await database.read(names) == {"one", "two"}


async def test_a_closed_database_says_so(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        pass
    for call in (database.read(names), database.write(add("late"))):
        with pytest.raises(StorageError, match="closed"):
            await call


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        await database.write(lambda connection: connection.pragma("user_version", len(MIGRATIONS) + 1))
    with pytest.raises(SchemaTooNew, match="newer version"):
        async with open_database(tmp_path):
            pass
    with sqlite3.connect(tmp_path / "overnight.db") as plain:
        assert plain.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    plain.close()


async def test_every_commit_is_synced(database: Database) -> None:
    settings = ("journal_mode", "synchronous", "wal_autocheckpoint")
    found = await database.write(lambda connection: [connection.pragma(name) for name in settings])
    assert found == ["wal", 2, 0]


async def test_writes_that_wait_share_a_commit(database: Database) -> None:
    async with writer_at_work(database):
        writes = [asyncio.create_task(database.write(add(str(n)))) for n in range(1100)]
        await asyncio.sleep(0)
        before = database.commits
    await asyncio.gather(*writes)
    assert database.commits - before == 3  # 512 + 512 + 76
    assert len(await database.read(names)) == 1100


async def test_one_refusal_does_not_undo_the_rest_of_its_batch(database: Database) -> None:
    def refused(connection: apsw.Connection) -> None:
        add("half")(connection)
        raise Refused("no")

    def broken(connection: apsw.Connection) -> None:
        add("half")(connection)
        connection.execute("INSERT INTO nowhere VALUES (1)")

    async with writer_at_work(database):
        works = [add("one"), refused, add("two"), broken, add("two"), add("three")]
        writes = [asyncio.create_task(database.write(work)) for work in works]
        await asyncio.sleep(0)
        before = database.commits
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert database.commits - before == 1
    kinds = [type(result) for result in results]
    nothing = type(None)
    assert kinds == [nothing, Refused, nothing, apsw.SQLError, apsw.ConstraintError, nothing]
    assert await database.read(names) == {"one", "two", "three"}


async def test_a_write_waits_for_its_turn(database: Database, tmp_path: Path) -> None:
    with closing(Turn(tmp_path / "overnight.db.turn")) as other_process:
        with other_process.held():
            writing = asyncio.create_task(database.write(add("one")))
            done, _ = await asyncio.wait([writing], timeout=0.1)
            assert not done
        async with asyncio.timeout(PATIENCE):
            await writing


async def test_a_reader_does_not_hold_up_the_writer_and_sees_one_view(database: Database) -> None:
    await database.write(add("before"))
    begun, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def query(connection: apsw.Connection) -> tuple[set[str], set[str]]:
        first = names(connection)
        loop.call_soon_threadsafe(begun.set)
        assert release.wait(PATIENCE)
        return first, names(connection)

    reading = asyncio.create_task(database.read(query))
    await begun.wait()
    async with asyncio.timeout(PATIENCE):
        await database.write(add("meanwhile"))
    release.set()
    assert await reading == ({"before"}, {"before"})
    assert await database.read(names) == {"before", "meanwhile"}


async def test_the_writer_does_not_hold_up_readers(database: Database) -> None:
    await database.write(add("before"))
    async with writer_at_work(database), asyncio.timeout(PATIENCE):
        assert await database.read(names) == {"before"}


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(StorageError):
        await database.read(add("one"))
    assert await database.read(names) == set()


async def test_closing_commits_what_waits_and_takes_no_more(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database, writer_at_work(database):
        writes = [asyncio.create_task(database.write(add(str(n)))) for n in range(20)]
        await asyncio.sleep(0)
    await asyncio.gather(*writes)
    with pytest.raises(StorageFailed):
        await database.write(add("late"))
    async with open_database(tmp_path) as database:
        assert len(await database.read(names)) == 20


async def test_the_log_is_moved_into_the_file_as_it_grows(database: Database, tmp_path: Path) -> None:
    """The checkpoint rule: without it the log would hold all 40 MB, and every reader would search it."""
    for n in range(40):
        name = (f"job {n}",)
        await database.write(partial(execute, "INSERT INTO requests VALUES (?, zeroblob(1000000))", name))
    assert (tmp_path / "overnight.db-wal").stat().st_size < 10_000_000


async def test_the_queue_does_not_age(database: Database) -> None:
    """What the sweep and the workers ask, again and again, never reads the jobs that are done."""
    page: dict[str, Any] = {"owner": "alice", "before": "~", "limit": 1}
    asked: dict[str, Any] = {
        index._RUNNABLE: (0.0, 1),
        index._RUNNING: (),
        index._COUNTS: (),
        index._DUE_DELIVERIES: (0.0, 1),
        index._NEXT_DELIVERY: (),
        index._ERASING: (),
        queue._DUE: (0.0, 1),
        queue._NEXT: (),
        index._OF_OTHER_STATUS: {"status": "failed", "before": "~", "limit": 1},
        index._OF_SESSION: page | {"session": "", "any": True, "statuses": "[]", "every_owner": True},
        index._NEWEST: {"before": "~", "limit": 1},
        index._NEWEST_OF_OWNER: page,
        index._OTHERS_OF_OWNER: page | {"status": "failed"},
        index._SESSIONS: (9.0, "", 1),
        index._SESSIONS_OF_OWNER: ("alice", 9.0, "", 1),
        tallies._STANDING: ("alice", 1),
    }

    def plans(connection: apsw.Connection) -> list[str]:
        return [
            f"{statement}: {row[3]}".removesuffix(":")
            for statement, values in asked.items()
            for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        ]

    # `open_jobs` has a row per owner, however many jobs there are.
    fine = (
        "SEARCH",
        "LIST",
        "SCAN json_each",
        "SCAN open_jobs",
        "SCAN CONSTANT ROW",
        "SCALAR",
        "CREATE BLOOM",
    )
    for plan in await database.read(plans):
        step = plan.rpartition(": ")[2]
        assert step.startswith(fine), plan


async def test_half_a_surrogate_pair_is_stored_as_a_question_mark(database: Database) -> None:
    """An agent's output can hold one, and its job must end all the same."""
    event = Event(seq=1, type="text", time=1.0, attempt=1, data={"text": "a\ud800b ☀"})
    await database.write(
        lambda connection: connection.execute("INSERT INTO events VALUES ('j', 1, ?)", (encode(event),))
    )
    (found,) = await database.read(lambda connection: find_events(connection, "j", after=0, limit=9))
    assert found.data == {"text": "a?b ☀"}


async def test_data_from_before_there_were_owners_belongs_to_nobody(tmp_path: Path) -> None:
    """Rows as the first version wrote them: their JSON knows no owner, and open jobs are counted."""
    job_id = "01900000-0000-7000-8000-000000000000"
    session = {"session_id": "s", "created_at": 1.0, "updated_at": 1.0, "line": [job_id]}
    job = {"job_id": job_id, "session_id": "s", "status": "queued", "created_at": 1.0, "available_at": 1.0}
    old = apsw.Connection(str(tmp_path / "overnight.db"))
    old.execute(FIRST)
    old.pragma("user_version", 1)
    old.execute("INSERT INTO sessions VALUES ('s', 1.0, NULL, ?, 1.0, ?)", (job_id, encode(session)))
    old.execute("INSERT INTO jobs VALUES (1, ?, 's', 'queued', 1.0, ?, NULL)", (job_id, encode(job)))
    old.execute("INSERT INTO idempotency VALUES ('k', 'f', ?, 1.0)", (job_id,))
    old.close()
    async with open_database(tmp_path) as database:
        snapshot = await database.read(lambda connection: find_snapshot(connection, job_id))
        [row] = await database.read(
            lambda connection: connection.execute("SELECT * FROM open_jobs").fetchall()
        )
        [used] = await database.read(
            lambda connection: connection.execute("SELECT * FROM idempotency").fetchall()
        )
    assert snapshot is not None
    assert (snapshot.job.owner, snapshot.job.key_id, snapshot.session.owner) == ("", None, "")
    assert row == ("", 1, 0)
    assert used == ("", "k", "f", job_id, 1.0)
