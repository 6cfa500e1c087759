"""Every adapter of JobStore, JobIndex, Queue and Wakeups, under one set of names.

`twin_*` are a second set of adapters on the same data, as another process would have them.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from overnight.adapters.memory import MemoryQueue, MemoryStore, MemoryWakeups
from overnight.adapters.memory_keys import MemoryKeys
from overnight.adapters.sqlite.database import open_database
from overnight.adapters.sqlite.index import SqliteIndex
from overnight.adapters.sqlite.keys import SqliteKeys
from overnight.adapters.sqlite.owners import SqliteOwners
from overnight.adapters.sqlite.queue import SqliteQueue
from overnight.adapters.sqlite.store import SqliteStore
from overnight.adapters.sqlite.wakeups import open_wakeups
from overnight.adapters.system import SystemEntropy
from overnight.domain.ids import uuid4, uuid7
from overnight.domain.job import Job, JobRequest
from overnight.domain.keys import LOCAL, Caller
from overnight.domain.standing import Check
from overnight.domain.transitions import submit
from overnight.ports import Clock, Entropy, Idempotency, JobIndex, JobStore, KeyStore, Owners, Queue, Wakeups


class ShiftedClock:
    """Runs like the real one, and can be put forward."""

    def __init__(self) -> None:
        self._start = 1_700_000_000.0 - time.monotonic()

    def now(self) -> float:
        return self._start + time.monotonic()

    def tick(self, seconds: float) -> None:
        self._start += seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    store: JobStore
    index: JobIndex
    owners: Owners
    queue: Queue
    wakeups: Wakeups
    keys: KeyStore


@dataclass(frozen=True, slots=True)
class Pair:
    one: Backend
    two: Backend


class Submit(Protocol):
    def __call__(
        self,
        store: JobStore,
        *,
        session_id: str | None = None,
        continues: bool = False,
        idempotency: Idempotency | None = None,
        prompt: str = "say hello",
        callback_url: str | None = None,
        caller: Caller = LOCAL,
        check: Check | None = None,
    ) -> Awaitable[Job]: ...


@pytest.fixture
def shifted_clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def clock(shifted_clock: ShiftedClock) -> Clock:
    return shifted_clock


@pytest.fixture
def tick(shifted_clock: ShiftedClock) -> Callable[[float], None]:
    return shifted_clock.tick


@pytest.fixture
def entropy() -> Entropy:
    return SystemEntropy()


@pytest.fixture(params=["memory", "sqlite"])
async def pair(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, entropy: Entropy
) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            memory = in_memory(clock, entropy)
            yield Pair(memory, memory)
        else:
            yield Pair(
                await on_sqlite(stack, tmp_path, clock, entropy),
                await on_sqlite(stack, tmp_path, clock, entropy),
            )


def in_memory(clock: Clock, entropy: Entropy) -> Backend:
    wakeups = MemoryWakeups()
    store = MemoryStore(wakeups, clock)
    return Backend(
        store=store,
        index=store,
        owners=store,
        queue=MemoryQueue(wakeups, clock, entropy),
        wakeups=wakeups,
        keys=MemoryKeys(),
    )


async def on_sqlite(stack: AsyncExitStack, data_dir: Path, clock: Clock, entropy: Entropy) -> Backend:
    database = await stack.enter_async_context(open_database(data_dir))
    wakeups = await stack.enter_async_context(open_wakeups(database, MemoryWakeups(), entropy))
    return Backend(
        store=SqliteStore(database, wakeups, clock),
        index=SqliteIndex(database),
        owners=SqliteOwners(database),
        queue=SqliteQueue(database, wakeups, clock, entropy),
        wakeups=wakeups,
        keys=SqliteKeys(database),
    )


@pytest.fixture
def owners(pair: Pair) -> Owners:
    return pair.one.owners


@pytest.fixture
def keys(pair: Pair) -> KeyStore:
    return pair.one.keys


@pytest.fixture
def twin_keys(pair: Pair) -> KeyStore:
    return pair.two.keys


@pytest.fixture
def store(pair: Pair) -> JobStore:
    return pair.one.store


@pytest.fixture
def twin_store(pair: Pair) -> JobStore:
    return pair.two.store


@pytest.fixture
def index(pair: Pair) -> JobIndex:
    return pair.one.index


@pytest.fixture
def queue(pair: Pair) -> Queue:
    return pair.one.queue


@pytest.fixture
def twin_queue(pair: Pair) -> Queue:
    return pair.two.queue


@pytest.fixture
def wakeups(pair: Pair) -> Wakeups:
    return pair.one.wakeups


@pytest.fixture
def twin_wakeups(pair: Pair) -> Wakeups:
    return pair.two.wakeups


@pytest.fixture
def submitted(clock: Clock, entropy: Entropy) -> Submit:
    """Submits a job, of a new session unless one is named, and returns it as it was written."""

    async def submit_one(
        store: JobStore,
        *,
        session_id: str | None = None,
        continues: bool = False,
        idempotency: Idempotency | None = None,
        prompt: str = "say hello",
        callback_url: str | None = None,
        caller: Caller = LOCAL,
        check: Check | None = None,
    ) -> Job:
        session_id = session_id or entropy.session_id()
        request = JobRequest(prompt=prompt, callback_url=callback_url)
        admit = submit(
            request,
            job_id=entropy.job_id(),
            session_id=session_id,
            continues=continues,
            now=clock.now(),
            caller=caller,
        )
        created = await store.create(session_id, request, admit, idempotency, check=check)
        return created.change.job

    return submit_one


@pytest.fixture
def unknown_job() -> str:
    return uuid7(0.0, bytes(10))


@pytest.fixture
def unknown_session() -> str:
    return uuid4(bytes(16))
