"""Every adapter of JobStore, JobIndex, Queue and Wakeups, under one set of names.

`twin_*` are a second set of adapters on the same data, as another process would have them.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, cast

import pytest

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import Batch, Document, Documents, Read, Span
from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.messages import MAX_RETRIES
from overnight.adapters.cloudflare.over_http import edge_documents
from overnight.adapters.cloudflare.queue import QueueAddress, cloudflare_queue
from overnight.adapters.cloudflare.turns import Turns
from overnight.adapters.memory import MemoryQueue, MemoryStore, MemoryWakeups
from overnight.adapters.memory_keys import MemoryKeys
from overnight.adapters.sqlite.database import open_database
from overnight.adapters.sqlite.history import SqliteHistory
from overnight.adapters.sqlite.index import SqliteIndex
from overnight.adapters.sqlite.keys import SqliteKeys
from overnight.adapters.sqlite.owners import SqliteOwners
from overnight.adapters.sqlite.queue import SqliteQueue
from overnight.adapters.sqlite.store import SqliteStore
from overnight.adapters.sqlite.wakeups import open_wakeups
from overnight.adapters.system import SystemEntropy
from overnight.domain.ids import uuid4, uuid7
from overnight.domain.job import Delivery, Job, JobRequest, Session
from overnight.domain.keys import LOCAL, Caller
from overnight.domain.standing import Check
from overnight.domain.transitions import submit
from overnight.ports import (
    Clock,
    Entropy,
    Idempotency,
    JobHistory,
    JobIndex,
    JobStore,
    KeyStore,
    Owners,
    Queue,
    Wakeups,
)
from overnight.rehearsal.pull_queue import pull_queue_app
from overnight.serving import listen, serving, url_of


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
    history: JobHistory | None = None
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


OF_A_LEDGER = {"test_job_store", "test_job_store_sessions", "test_owners"}
"""The suites of what the ledger claims to be."""
NEEDS_ALL_SESSIONS = {
    "test_a_check_sees_how_the_owner_stands",
    "test_the_whole_queue_has_a_limit",
    "test_a_job_that_its_owners_limit_held_is_found_and_let_in",
    "test_a_worker_that_waits_for_a_bell_wakes_when_a_held_job_is_let_in",
}
"""No object of a ledger knows how many jobs wait for all owners, nor which jobs a limit holds (docs/decisions/0081)."""
NOT_KEPT_BY_CLOUDFLARE = {
    "test_bells_come_earliest_first_and_no_more_than_asked_for",
    "test_a_receipt_that_is_no_longer_current_is_ignored",
}
"""Its queue keeps no order, and takes late acks (docs/decisions/0082)."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pair" in metafunc.fixturenames:
        adapters = ["memory", "sqlite"]
        if (
            metafunc.module.__name__.rpartition(".")[2] in OF_A_LEDGER
            and metafunc.function.__name__ not in NEEDS_ALL_SESSIONS
        ):
            adapters.append("ledger")
        if (
            metafunc.module.__name__.rpartition(".")[2] == "test_queue"
            and metafunc.function.__name__ not in NOT_KEPT_BY_CLOUDFLARE
        ):
            adapters.append("cloudflare")
        metafunc.parametrize("pair", adapters, indirect=True)


@pytest.fixture
async def pair(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, entropy: Entropy
) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            memory = in_memory(clock, entropy)
            yield Pair(memory, memory)
        elif request.param == "cloudflare":
            yield await pulled(stack, clock, entropy)
        elif request.param == "ledger":
            settings = request.getfixturevalue("edge_settings")
            yield await on_the_edge(stack, settings, clock, entropy)
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
        history=store,
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
        history=SqliteHistory(database, wakeups),
        owners=SqliteOwners(database),
        queue=SqliteQueue(database, wakeups, clock, entropy),
        wakeups=wakeups,
        keys=SqliteKeys(database),
    )


async def on_the_edge(
    stack: AsyncExitStack, settings: Mapping[str, str], clock: Clock, entropy: Entropy
) -> Pair:
    """Two ledgers over two connections. What one process writes, the wakeups of another learn by looking, so
    here both share theirs; queue and keys are not of a ledger."""
    reached = [
        await stack.enter_async_context(
            edge_documents(settings["OVERNIGHT_EDGE_URL"], settings["OVERNIGHT_LEDGER_TOKEN"])
        )
        for _ in range(2)
    ]
    wakeups, own = MemoryWakeups(), OwnObjects(entropy.token())
    backends = []
    for documents in reached:
        seen = SeenDocuments(documents, own)
        store = LedgerStore(seen, wakeups, clock, Turns())
        stack.push_async_callback(store.settle)
        backends.append(
            Backend(
                store=store,
                index=cast("JobIndex", LedgerIndex(seen, wakeups, clock)),
                owners=store,
                queue=MemoryQueue(wakeups, clock, entropy),
                wakeups=wakeups,
                keys=MemoryKeys(),
            )
        )
    return Pair(*backends)


async def pulled(stack: AsyncExitStack, clock: Clock, entropy: Entropy) -> Pair:
    """Two pull consumers of one queue, by the official client over a socket. The rest is in memory."""
    token, listener = entropy.token(), listen("127.0.0.1", 0)
    stack.callback(listener.close)
    queues = pull_queue_app(token, clock.now, max_retries=MAX_RETRIES)
    await stack.enter_async_context(serving(queues, listener, grace_seconds=1.0))
    address = QueueAddress(account_id="a", queue_id="q")
    one, two = [
        await stack.enter_async_context(cloudflare_queue(url_of(listener), token, address, clock))
        for _ in range(2)
    ]
    memory = in_memory(clock, entropy)
    return Pair(replace(memory, queue=one), replace(memory, queue=two))


@dataclass
class OwnObjects:
    """The objects of one test: its names are its own, and those of sessions are remembered."""

    prefix: str
    sessions: set[str] = field(default_factory=set)

    def named(self, name: str) -> str:
        if name.startswith("session:"):
            self.sessions.add(name)
        return self.prefix + name


@dataclass
class SeenDocuments:
    documents: Documents
    own: OwnObjects

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        return await self.documents.read(self.own.named(name), read)

    async def write(self, name: str, batch: Batch) -> bool:
        return await self.documents.write(self.own.named(name), batch)


@dataclass
class LedgerIndex:
    """Looks at all that the test has written, as the index over all sessions that a ledger has not."""

    seen: SeenDocuments
    wakeups: Wakeups
    clock: Clock

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def look(*args: object, **options: object) -> object:
            found = MemoryStore(self.wakeups, self.clock)
            for session in sorted(self.seen.own.sessions):
                await self._load(found, session)
            return await getattr(found, name)(*args, **options)

        return look

    async def _load(self, found: MemoryStore, name: str) -> None:
        documents = await self.seen.read(name, Read(spans=[Span("", limit=10_000)]))
        for key, document in documents.items():
            if key == codec.SESSION:
                session = codec.decode(Session, document.body)
                found._sessions[session.session_id] = session
            elif key.startswith(codec.JOBS) and document.body != codec.ABANDONED:
                job = codec.decode(Job, document.body)
                found._jobs[job.job_id] = job
            elif key.startswith(codec.DELIVERIES):
                delivery = codec.decode(Delivery, document.body)
                found._deliveries[delivery.delivery_id] = delivery


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
def history(pair: Pair) -> JobHistory:
    assert pair.one.history is not None
    return pair.one.history


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
