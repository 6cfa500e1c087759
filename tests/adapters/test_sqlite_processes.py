"""Several processes on one file, and what a SIGKILL leaves. The file is its own child: see the end."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import apsw
import pytest

from overnight.adapters.memory import MemoryWakeups
from overnight.adapters.sqlite.database import Database, open_database
from overnight.adapters.sqlite.index import SqliteIndex
from overnight.adapters.sqlite.store import SqliteStore
from overnight.adapters.sqlite.wakeups import open_wakeups
from overnight.adapters.system import SystemClock, SystemEntropy
from overnight.domain.job import Change, Job, JobRequest, Session
from overnight.domain.transitions import Note, record, start, submit

PATIENCE = 20.0
WAITERS = 8
COMPETE_SECONDS = 1.0


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.endswith("\n"):  # the last one may be cut off
            yield line.strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.chaos
async def test_a_sigkill_loses_no_acknowledged_job(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for enough in (50, 120, 30, 200):
        with child("create", str(tmp_path)) as process:
            tell(process)
            for count, job_id in enumerate(lines(process)):
                acknowledged.add(job_id)
                if count == enough:
                    process.kill()
    assert len(acknowledged) >= 400

    async with open_database(tmp_path) as database:
        assert await database.read(lambda connection: connection.pragma("integrity_check")) == "ok"
        store, index = SqliteStore(database, MemoryWakeups(), SystemClock()), SqliteIndex(database)
        stored = {snapshot.job.job_id for snapshot in (await index.jobs(limit=1_000_000)).rows}
        assert acknowledged <= stored
        for job_id in stored:  # each is whole
            assert (await store.request(job_id)).prompt == "say hello"
            assert len(await store.events(job_id)) == 1


@pytest.mark.chaos
def test_processes_share_the_file_fairly(tmp_path: Path) -> None:
    """SQLite's own busy handler lets some of them wait for seconds (facts: queue 3.3)."""
    with ExitStack() as stack:
        processes = [stack.enter_context(child("compete", str(tmp_path))) for _ in range(3)]
        for process in processes:
            assert next(lines(process)) == "ready"
        for process in processes:
            tell(process)
        commits = [int(next(lines(process))) for process in processes]
    assert min(commits) > 0.5 * max(commits), commits


@pytest.mark.chaos
async def test_changes_of_two_processes_follow_one_another(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        store = SqliteStore(database, MemoryWakeups(), SystemClock())
        job_id = await create(store)
        await store.change(job_id, begin)
        with child("record", str(tmp_path), job_id) as process:
            tell(process)
            ours = record_many(store, job_id)
            await asyncio.gather(ours, asyncio.to_thread(process.wait, PATIENCE))
            assert process.returncode == 0
        events = await store.events(job_id, limit=10_000)
        assert [event.seq for event in events] == list(range(1, 2 + 1 + 2 * RECORDS))


@pytest.mark.chaos
async def test_a_commit_of_another_process_wakes_those_who_wait(tmp_path: Path) -> None:
    entropy = SystemEntropy()
    async with (
        open_database(tmp_path) as database,
        open_wakeups(database, MemoryWakeups(), entropy, net_seconds=3600.0) as wakeups,
    ):
        store = SqliteStore(database, wakeups, SystemClock())
        job_id = await create(store)
        await store.change(job_id, begin)
        with child("record", str(tmp_path), job_id) as process, wakeups.subscribe(f"job:{job_id}") as watcher:
            tell(process)
            assert await watcher.wait(PATIENCE)
            assert len(await store.events(job_id, after=2)) >= 1


RECORDS = 40


def begin(job: Job, session: Session) -> Change | None:
    return start(worker="w", now=time.time(), lease_seconds=15.0, isolation="none")(job, session)


async def create(store: SqliteStore) -> str:
    entropy, request = SystemEntropy(), JobRequest(prompt="say hello")
    job_id, session_id = entropy.job_id(), entropy.session_id()
    admit = submit(request, job_id=job_id, session_id=session_id, continues=False, now=time.time())
    await store.create(session_id, request, admit)
    return job_id


async def create_for_ever(store: SqliteStore) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(WAITERS):
            group.create_task(create_and_say(store))


async def create_and_say(store: SqliteStore) -> None:
    while True:
        print(await create(store), flush=True)


async def record_many(store: SqliteStore, job_id: str) -> None:
    for n in range(RECORDS):
        await store.change(job_id, record([Note("note", time.time(), {"n": n})], attempt=1))


def insert_something(connection: apsw.Connection) -> None:
    connection.execute("INSERT INTO requests VALUES (hex(randomblob(16)), x'')")


async def compete(database: Database) -> None:
    """Commit as often as possible for a while, beside others that do the same."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    ends = time.monotonic() + COMPETE_SECONDS
    while time.monotonic() < ends:
        await asyncio.gather(*(database.write(insert_something) for _ in range(64)))
    print(database.commits, flush=True)


async def be_child(task: str, data_dir: str, *arguments: str) -> None:
    async with open_database(Path(data_dir)) as database:
        if task == "compete":
            await compete(database)
            return
        async with open_wakeups(database, MemoryWakeups(), SystemEntropy()) as wakeups:
            sys.stdin.readline()
            store = SqliteStore(database, wakeups, SystemClock())
            await (create_for_ever(store) if task == "create" else record_many(store, *arguments))


if __name__ == "__main__":
    asyncio.run(be_child(*sys.argv[1:]))
