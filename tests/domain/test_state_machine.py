"""The rules together: any workers, alive or long replaced, do anything in any order, and what must always hold does.

The machine keeps a small model of its own: who is in which line, which attempt is current, how often a job ended.
After every step the store is compared with it. At the end, a drain must bring every job to a final status.
"""

import asyncio
import tempfile
from collections import Counter, defaultdict
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from overnight.adapters.memory import MemoryStore, MemoryWakeups
from overnight.adapters.sqlite.database import open_database
from overnight.adapters.sqlite.index import SqliteIndex
from overnight.adapters.sqlite.store import SqliteStore
from overnight.domain.dead_letter import give_up
from overnight.domain.errors import CancelRequested, ErrorCode, NotRetryable, Refused, StaleAttempt
from overnight.domain.ids import uuid4, uuid7
from overnight.domain.job import ArchiveRef, Change, Delivery, Event, JobRequest, Origin, Snapshot, Status
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.retry import RetryPolicy
from overnight.domain.transitions import (
    Decide,
    Note,
    cancel,
    finish,
    lapse,
    record,
    renew,
    requeue,
    resend,
    returns_at,
    start,
    submit,
)
from overnight.ports import JobIndex, JobStore

T = TypeVar("T")

LEASE = 15.0
POLICY = RetryPolicy(delays=(10.0, 60.0), jitter=0.2, max_losses=2)
DAY = 86400.0
MOST_JOBS = 5
SESSIONS = (uuid4(b"1" * 16), uuid4(b"2" * 16))
"""Few of both, so that the same one meets many things."""

OUTCOMES = (
    Outcome(ending=Ending.DONE, result="done", cost_usd=1.0),
    Outcome(ending=Ending.CANCELLED),
    Outcome(ending=Ending.INTERRUPTED),
    failed(ErrorCode.OVERLOADED, "transient"),
    failed(ErrorCode.RATE_LIMITED, "later"),
    failed(ErrorCode.TIMEOUT, "permanent"),
)

choices = st.integers(0, MOST_JOBS - 1)
chances = st.sampled_from([0.0, 0.5, 0.99])


@dataclass
class SteppedClock:
    time: float = 1_000_000.0

    def now(self) -> float:
        return self.time


@dataclass(frozen=True)
class Seen:
    """All that the store tells about a job."""

    snapshot: Snapshot
    events: Sequence[Event]
    deliveries: Sequence[Delivery]


@dataclass
class Model:
    """What must be true, kept by the story alone. `held` is the current attempt of each running job."""

    session_of: dict[str, str] = field(default_factory=dict)
    calls_back: dict[str, bool] = field(default_factory=dict)
    line: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    held: dict[str, int] = field(default_factory=dict)
    final: dict[str, Status] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    pointer: dict[str, ArchiveRef | None] = field(default_factory=dict)

    def is_first(self, job_id: str) -> bool:
        return self.line[self.session_of[job_id]][:1] == [job_id]

    def join(self, job_id: str) -> None:
        self.final.pop(job_id, None)
        self.line[self.session_of[job_id]].append(job_id)

    def end(self, job_id: str, status: Status) -> None:
        self.held.pop(job_id, None)
        self.line[self.session_of[job_id]].remove(job_id)
        self.final[job_id] = status
        self.ends[job_id] += 1


class QueueRules(RuleBasedStateMachine):
    jobs: Bundle[str] = Bundle("jobs")
    attempts: Bundle[tuple[str, int]] = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = SteppedClock()
        self.model = Model()
        self.made = 0
        self.store, self.index = self.open()
        self.seen: dict[str, Seen] = {}

    def open(self) -> tuple[JobStore, JobIndex]:
        store = MemoryStore(MemoryWakeups(), self.clock)
        return store, store

    def close(self) -> None:
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def number(self) -> int:
        self.made += 1
        return self.made

    def write(self, job_id: str, decide: Decide, *, refused: type[Refused] | None) -> Change | None:
        """The rule must say what the model says; a refusal must leave everything as it was."""
        change, refusal = None, None
        try:
            change = self.run(self.store.change(job_id, decide))
        except Refused as raised:
            refusal = raised
        assert isinstance(refusal, refused or type(None))
        if refusal is not None:
            assert self.observe() == self.seen
        return change

    def write_as(self, attempt: tuple[str, int], decide: Decide) -> Change | None:
        """A write of a worker, which may have lost the job without knowing."""
        job_id, number = attempt
        return self.write(
            job_id, decide, refused=None if self.model.held.get(job_id) == number else StaleAttempt
        )

    def observe(self) -> dict[str, Seen]:
        return self.run(self.look())

    async def look(self) -> dict[str, Seen]:
        return {
            job_id: Seen(
                await self.store.snapshot(job_id),
                list(await self.store.events(job_id, limit=10_000)),
                list(await self.store.deliveries(job_id)),
            )
            for job_id in self.model.session_of
        }

    @precondition(lambda self: len(self.model.session_of) < MOST_JOBS)
    @rule(target=jobs, session_id=st.sampled_from(SESSIONS), calls_back=st.booleans())
    def submit(self, session_id: str, calls_back: bool) -> str:
        job_id = uuid7(self.clock.now() + self.number() / 1000, bytes(10))
        known = session_id in self.model.pointer
        request = JobRequest(prompt="p", callback_url="https://example.com/" if calls_back else None)
        admit = submit(request, job_id=job_id, session_id=session_id, continues=known, now=self.clock.now())
        self.run(self.store.create(session_id, request, admit))
        self.model.session_of[job_id] = session_id
        self.model.calls_back[job_id] = calls_back
        self.model.pointer.setdefault(session_id, None)
        self.model.join(job_id)
        return job_id

    @rule(target=attempts, job_id=jobs, worker=st.sampled_from("abc"))
    def start(self, job_id: str, worker: str) -> tuple[str, int]:
        return self.begin(job_id, worker)

    def begin(self, job_id: str, worker: str) -> tuple[str, int]:
        job = self.seen[job_id].snapshot.job
        waits = job_id not in self.model.held and job_id not in self.model.final
        may_start = waits and job.available_at <= self.clock.now() and self.model.is_first(job_id)
        decide = start(worker=worker, now=self.clock.now(), lease_seconds=LEASE, isolation="none")
        change = self.write(job_id, decide, refused=None if may_start else Refused)
        if change is None:
            return job_id, job.attempt
        assert change.job.attempt == job.attempt + 1
        self.model.held[job_id] = change.job.attempt
        return job_id, change.job.attempt

    @precondition(lambda self: self.next_jobs())
    @rule(target=attempts, choice=choices, worker=st.sampled_from("abc"))
    def start_next(self, choice: int, worker: str) -> tuple[str, int]:
        """What workers do nearly always: they take a job that may run."""
        jobs = self.next_jobs()
        return self.begin(jobs[choice % len(jobs)], worker)

    def next_jobs(self) -> list[str]:
        heads = [line[0] for line in self.model.line.values() if line and line[0] not in self.model.held]
        return [head for head in heads if self.seen[head].snapshot.job.available_at <= self.clock.now()]

    @rule(attempt=attempts)
    def renew(self, attempt: tuple[str, int]) -> None:
        self.write_as(attempt, renew(attempt=attempt[1], now=self.clock.now(), lease_seconds=LEASE))

    @rule(attempt=attempts, count=st.integers(0, 3))
    def record(self, attempt: tuple[str, int], count: int) -> None:
        notes = [Note("note", self.clock.now(), {"n": n}) for n in range(count)]
        self.write_as(attempt, record(notes, attempt=attempt[1]))

    @rule(attempt=attempts, outcome=st.sampled_from(OUTCOMES), chance=chances, packed=st.booleans())
    def end_attempt(self, attempt: tuple[str, int], outcome: Outcome, chance: float, packed: bool) -> None:
        """As the worker does it: back to the queue if the outcome says so, else the final status."""
        job_id, number = attempt
        job, now = self.seen[job_id].snapshot.job, self.clock.now()
        at = returns_at(job, outcome, policy=POLICY, now=now, chance=chance)
        if at is None:
            self.finish(attempt, outcome, self.archive_of(attempt) if packed else None)
        elif self.model.held.get(job_id) == number and job.cancel_requested_at is not None:
            self.write(job_id, requeue(outcome, attempt=number, now=now, at=at), refused=CancelRequested)
        elif self.write_as(attempt, requeue(outcome, attempt=number, now=now, at=at)):
            del self.model.held[job_id]

    def archive_of(self, attempt: tuple[str, int]) -> ArchiveRef:
        return ArchiveRef(name=f"{attempt[0]}.{attempt[1]}.zip", size=1, sha256="0" * 64, origin=Origin.RUN)

    def finish(self, attempt: tuple[str, int], outcome: Outcome, archive: ArchiveRef | None) -> None:
        decide = finish(
            outcome, attempt=attempt[1], now=self.clock.now(), archive=archive, delivery_id=self.delivery_id()
        )
        change = self.write_as(attempt, decide)
        if change is not None:
            self.model.end(attempt[0], change.job.status)
            session_id = self.model.session_of[attempt[0]]
            self.model.pointer[session_id] = archive or self.model.pointer[session_id]

    def delivery_id(self) -> str:
        return f"msg_{self.number():032x}"

    @rule(attempt=attempts, dead=st.booleans(), chance=chances)
    def lapse(self, attempt: tuple[str, int], dead: bool, chance: float) -> None:
        job_id, number = attempt
        lease = self.seen[job_id].snapshot.job.lease
        decide = lapse(
            attempt=number,
            now=self.clock.now(),
            policy=POLICY,
            chance=chance,
            delivery_id=self.delivery_id(),
            worker_is_dead=dead,
        )
        change = self.write_as(attempt, decide)
        if change is None:
            return
        assert lease is not None
        assert bool(change.events) == (dead or lease.until <= self.clock.now())
        if change.job.status.final:
            self.model.end(job_id, change.job.status)
        elif change.events:
            del self.model.held[job_id]

    @precondition(lambda self: self.model.held)
    @rule(choice=choices, chance=chances)
    def kill(self, choice: int, chance: float) -> None:
        """A worker dies under its job, and that is known at once."""
        held = list(self.model.held.items())
        self.lapse(held[choice % len(held)], True, chance)

    @rule(job_id=jobs, late=st.sampled_from([-1.0, 0.0, DAY]))
    def give_up(self, job_id: str, late: float) -> None:
        """The queue gives up on a bell of the job, an old one or the one that it needs."""
        job = self.seen[job_id].snapshot.job
        now = self.clock.now()
        decide = give_up(rung_for=job.available_at + late, now=now, delivery_id=self.delivery_id())
        change = self.write(job_id, decide, refused=None)
        waited = job.status is Status.QUEUED and self.model.is_first(job_id) and job.available_at <= now
        assert change is not None
        assert bool(change.events) == (waited and late >= 0)
        if change.events:
            self.model.end(job_id, Status.FAILED)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        decide = cancel(now=self.clock.now(), delivery_id=self.delivery_id())
        change = self.write(job_id, decide, refused=None)
        assert change is not None
        if job_id not in self.model.held and job_id not in self.model.final:
            self.model.end(job_id, Status.CANCELLED)

    @rule(job_id=jobs)
    def resend(self, job_id: str) -> None:
        status = self.model.final.get(job_id)
        refused = None if status in (None, Status.FAILED) else NotRetryable
        self.write(job_id, resend(now=self.clock.now()), refused=refused)
        if status is Status.FAILED:
            self.model.join(job_id)

    @rule(seconds=st.sampled_from([1.0, 9.0, LEASE, 100.0, DAY]))
    def tick(self, seconds: float) -> None:
        self.clock.time += seconds

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        self.seen = self.observe()
        for job_id, seen in self.seen.items():
            self.check_job(job_id, seen)
            self.check_session(job_id, seen)
        self.run(self.check_index())

    def check_job(self, job_id: str, seen: Seen) -> None:
        job = seen.snapshot.job
        assert [event.seq for event in seen.events] == list(range(1, job.last_event + 1))
        assert job.failures <= len(POLICY.delays)
        assert job.losses <= POLICY.max_losses
        assert len(seen.deliveries) == (self.model.ends[job_id] if self.model.calls_back[job_id] else 0)
        waiting = Status.PROCESSING if job_id in self.model.held else Status.QUEUED
        assert job.status is self.model.final.get(job_id, waiting)
        assert (job.lease is not None) == (job.status is Status.PROCESSING)
        assert (job.completed_at is not None) == job.status.final

    def check_session(self, job_id: str, seen: Seen) -> None:
        session = seen.snapshot.session
        assert list(session.line) == self.model.line[session.session_id]
        assert session.archive == self.model.pointer[session.session_id]
        if seen.snapshot.job.status is Status.PROCESSING:  # so at most one of a session is
            assert session.line[0] == job_id
            assert seen.snapshot.job.attempt == self.model.held[job_id]

    async def check_index(self) -> None:
        assert {job.job_id for job in await self.index.running()} == set(self.model.held)
        runnable = await self.index.runnable(now=self.clock.now(), limit=1_000)
        assert set(runnable) == set(self.next_jobs())
        opened = sum(len(line) for line in self.model.line.values())
        counts = await self.index.counts()
        assert (counts[Status.QUEUED], counts[Status.PROCESSING]) == (
            opened - len(self.model.held),
            len(self.model.held),
        )

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.close()

    def drain(self) -> None:
        """Workers that live take all there is, as the sweep finds it. Each round ends one job of each session."""
        self.seen = self.observe()
        for _ in range(len(self.seen) + 1):
            self.clock.time += 8 * DAY
            for job_id, number in list(self.model.held.items()):
                self.lapse((job_id, number), True, 0.5)
            self.clock.time += DAY
            for job_id in self.run(self.runnable()):
                self.seen = self.observe()
                self.end_attempt(self.begin(job_id, "drain"), OUTCOMES[0], 0.5, True)
            self.the_store_agrees_with_the_model()
        assert set(self.model.final) == set(self.seen), "a job never ends"

    async def runnable(self) -> list[str]:
        return list(await self.index.runnable(now=self.clock.now(), limit=1_000))


class QueueRulesOnSqlite(QueueRules):
    def open(self) -> tuple[JobStore, JobIndex]:
        self.directory = tempfile.TemporaryDirectory()
        self.stack = AsyncExitStack()
        database = self.run(self.stack.enter_async_context(open_database(Path(self.directory.name))))
        return SqliteStore(database, MemoryWakeups(), self.clock), SqliteIndex(database)

    def close(self) -> None:
        self.run(self.stack.aclose())
        self.directory.cleanup()
        super().close()


TestInMemory = QueueRules.TestCase
TestInMemory.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestOnSqlite = QueueRulesOnSqlite.TestCase
TestOnSqlite.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)
