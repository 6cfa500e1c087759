"""The ports in memory: the reference for the contract suites, and the quick store of other tests.

Everything happens between two awaits, so each call is one transaction.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from overnight.domain.cursor import parse_session_cursor, session_cursor
from overnight.domain.errors import DeliveryNotFound, IdempotencyConflict, JobNotFound, SessionNotFound
from overnight.domain.ids import parse_uuid
from overnight.domain.job import (
    Change,
    Delivery,
    DeliveryStatus,
    Event,
    Job,
    JobRequest,
    Session,
    Snapshot,
    Status,
    WaitingFor,
)
from overnight.domain.retention import IDEMPOTENCY_SECONDS, may_be_forgotten
from overnight.domain.standing import Check, Standing, day_of
from overnight.domain.transitions import Admit, Decide
from overnight.ports import Bell, Books, Clock, Created, Entropy, Idempotency, Page, Wakeups


class MemorySubscription:
    """The port `Subscription`."""

    def __init__(self) -> None:
        self._announced = asyncio.Event()

    def wake(self) -> None:
        self._announced.set()

    async def wait(self, seconds: float) -> bool:
        if not self._announced.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._announced.wait()
        announced = self._announced.is_set()
        self._announced.clear()
        return announced


class MemoryWakeups:
    """The port `Wakeups`, for one process and its event loop."""

    def __init__(self) -> None:
        self._subscribed: defaultdict[str, set[MemorySubscription]] = defaultdict(set)

    def announce(self, *topics: str) -> None:
        for topic in topics:
            for subscription in self._subscribed.get(topic, ()):
                subscription.wake()

    @contextmanager
    def subscribe(self, topic: str) -> Iterator[MemorySubscription]:
        subscription = MemorySubscription()
        self._subscribed[topic].add(subscription)
        try:
            yield subscription
        finally:
            self._subscribed[topic].discard(subscription)
            if not self._subscribed[topic]:
                del self._subscribed[topic]


@dataclass(frozen=True, slots=True)
class _Key:
    fingerprint: str
    job_id: str
    created_at: float


class MemoryStore:
    """The ports `JobStore`, `JobIndex`, `JobHistory` and `Owners`."""

    def __init__(self, wakeups: Wakeups, clock: Clock) -> None:
        self._wakeups = wakeups
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._sessions: dict[str, Session] = {}
        self._requests: dict[str, JobRequest] = {}
        self._events: defaultdict[str, list[Event]] = defaultdict(list)
        self._deliveries: dict[str, Delivery] = {}
        self._keys: dict[tuple[str, str], _Key] = {}
        self._spent: defaultdict[tuple[str, int], float] = defaultdict(float)

    async def create(
        self,
        session_id: str,
        request: JobRequest,
        admit: Admit,
        idempotency: Idempotency | None = None,
        *,
        check: Check | None = None,
    ) -> Created:
        known = self._job_of(idempotency) if idempotency else None
        if known is not None:
            return Created(change=_as_it_is(self._snapshot(known)), replayed=True)
        change = admit(self._sessions.get(session_id))
        if check is not None:
            check(change.job, self._standing(change.job.owner))
        self._requests[change.job.job_id] = request
        if idempotency is not None:
            used = _Key(idempotency.fingerprint, change.job.job_id, self._clock.now())
            self._keys[idempotency.owner, idempotency.key] = used
        self._write(change)
        return Created(change=change, replayed=False)

    async def change(self, job_id: str, decide: Decide, *, check: Check | None = None) -> Change:
        before = self._snapshot(job_id)
        change = decide(before.job, before.session)
        if change is None:
            return _as_it_is(before)
        if check is not None:
            check(change.job, self._standing(change.job.owner))
        self._spent[self._today(change.job.owner)] += change.job.cost_usd - before.job.cost_usd
        self._write(change)
        return change

    async def snapshot(self, job_id: str) -> Snapshot:
        return self._snapshot(job_id)

    async def request(self, job_id: str) -> JobRequest:
        self._snapshot(job_id)
        return self._requests[job_id]

    async def events(self, job_id: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        return [event for event in self._events.get(job_id, ()) if event.seq > after][:limit]

    async def session(self, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None or session.erased_at is not None:
            raise SessionNotFound("no such session")
        return session

    async def change_session(self, session_id: str, decide: Callable[[Session | None], Session]) -> Session:
        session = self._sessions[session_id] = decide(self._sessions.get(session_id))
        return session

    async def erase(self, session_id: str) -> None:
        self._sessions.pop(session_id, None)
        self._delete({job.job_id for job in self._jobs.values() if job.session_id == session_id})

    async def forget(self, *, finished_before: float, after: str | None, limit: int) -> str | None:
        looked = sorted(job_id for job_id in self._jobs if after is None or job_id > after)[:limit]
        youngest = self._jobs[looked[-1]].created_at if looked else 0.0
        newest = {job.session_id: job_id for job_id, job in sorted(self._jobs.items())}
        owed = {delivery.job_id for delivery in self._owed()}
        self._delete(
            {
                job_id
                for job_id in looked
                if may_be_forgotten(
                    self._jobs[job_id],
                    finished_before=finished_before,
                    is_newest=job_id in newest.values(),
                    owes=job_id in owed,
                )
            }
        )
        return looked[-1] if len(looked) == limit and youngest < finished_before else None

    def _delete(self, erased: set[str]) -> None:
        for job_id in erased:
            del self._jobs[job_id], self._requests[job_id]
            self._events.pop(job_id, None)
            self._wakeups.announce(f"job:{job_id}")
        self._deliveries = {key: owed for key, owed in self._deliveries.items() if owed.job_id not in erased}
        self._keys = {key: used for key, used in self._keys.items() if used.job_id not in erased}

    async def deliveries(self, job_id: str) -> Sequence[Delivery]:
        return [delivery for delivery in self._deliveries.values() if delivery.job_id == job_id]

    async def change_delivery(
        self, delivery_id: str, decide: Callable[[Delivery], Delivery | None]
    ) -> Delivery | None:
        if delivery_id not in self._deliveries:
            raise DeliveryNotFound("no such delivery")
        after = decide(self._deliveries[delivery_id])
        if after is not None:
            self._deliveries[delivery_id] = after
            self._announce_owed([after])
        return after

    async def jobs(
        self,
        *,
        statuses: Sequence[Status] = (),
        session_id: str | None = None,
        owner: str | None = None,
        limit: int = 20,
        before: str | None = None,
    ) -> Page[Snapshot]:
        start = None if before is None else parse_uuid(before)
        found = [
            job_id
            for job_id, job in sorted(self._jobs.items(), reverse=True)
            if (not statuses or job.status in statuses)
            and session_id in (None, job.session_id)
            and owner in (None, job.owner)
            and (start is None or job_id < start)
        ]
        page = [_without_result(self._snapshot(job_id)) for job_id in found[:limit]]
        return Page(rows=page, next=page[-1].job.job_id if len(found) > limit else None)

    async def sessions(
        self, *, owner: str | None = None, limit: int = 20, before: str | None = None
    ) -> Page[Session]:
        start = None if before is None else parse_session_cursor(before)
        found = [
            session
            for session in sorted(self._sessions.values(), key=_age, reverse=True)
            if session.erased_at is None
            and owner in (None, session.owner)
            and (start is None or _age(session) < start)
        ]
        page = found[:limit]
        return Page(rows=page, next=session_cursor(page[-1]) if len(found) > limit else None)

    async def running(self) -> Sequence[Job]:
        return [job for job in self._jobs.values() if job.status is Status.PROCESSING]

    async def runnable(self, *, now: float, limit: int) -> Sequence[str]:
        first = [self._jobs[session.line[0]] for session in self._sessions.values() if session.line]
        due = [job for job in first if job.status is Status.QUEUED and job.available_at <= now]
        return [job.job_id for job in sorted(due, key=lambda job: job.available_at)][:limit]

    async def due_deliveries(self, *, now: float, limit: int) -> Sequence[str]:
        due = sorted((owed for owed in self._owed() if owed.next_at <= now), key=lambda owed: owed.next_at)
        return [owed.delivery_id for owed in due][:limit]

    async def next_delivery_at(self) -> float | None:
        return min((owed.next_at for owed in self._owed()), default=None)

    async def erasing(self) -> Sequence[str]:
        return [session.session_id for session in self._sessions.values() if session.erased_at is not None]

    async def counts(self) -> Mapping[Status, int]:
        statuses = [job.status for job in self._jobs.values()]
        return {status: statuses.count(status) for status in (Status.QUEUED, Status.PROCESSING)}

    async def books(self, owner: str, *, day: int) -> Books:
        running = [
            job for job in self._jobs.values() if job.owner == owner and job.status is Status.PROCESSING
        ]
        return Books(
            spent_usd=self._spent[owner, day], running=frozenset((job.job_id, job.attempt) for job in running)
        )

    async def held(self, owner: str, *, limit: int) -> Sequence[str]:
        held = [
            job_id
            for job_id, job in sorted(self._jobs.items())
            if job.owner == owner
            and job.status is Status.QUEUED
            and job.waiting_for is WaitingFor.OWNER_LIMIT
        ]
        return held[:limit]

    def _snapshot(self, job_id: str) -> Snapshot:
        if job_id not in self._jobs:
            raise JobNotFound("no such job")
        job = self._jobs[job_id]
        return Snapshot(job=job, session=self._sessions[job.session_id])

    def _job_of(self, idempotency: Idempotency) -> str | None:
        used = self._keys.get((idempotency.owner, idempotency.key))
        if used is None or used.created_at <= self._clock.now() - IDEMPOTENCY_SECONDS:
            return None
        if used.fingerprint != idempotency.fingerprint:
            raise IdempotencyConflict("the idempotency key was used before with another request")
        return used.job_id

    def _standing(self, owner: str) -> Standing:
        statuses = [job.status for job in self._jobs.values() if job.owner == owner]
        queued = statuses.count(Status.QUEUED)
        return Standing(
            queued=queued,
            processing=statuses.count(Status.PROCESSING),
            spent_today_usd=self._spent[self._today(owner)],
            queued_by_all=sum(job.status is Status.QUEUED for job in self._jobs.values()),
            held=queued,
        )

    def _today(self, owner: str) -> tuple[str, int]:
        return owner, day_of(self._clock.now())

    def _owed(self) -> list[Delivery]:
        return [owed for owed in self._deliveries.values() if owed.status is DeliveryStatus.OWED]

    def _write(self, change: Change) -> None:
        job_id = change.job.job_id
        self._jobs[job_id] = change.job
        self._sessions[change.session.session_id] = change.session
        self._events[job_id].extend(change.events)
        self._deliveries.update({owed.delivery_id: owed for owed in change.deliveries})
        if change.events or change.deliveries:
            self._wakeups.announce(f"job:{job_id}")
        self._announce_owed(change.deliveries)

    def _announce_owed(self, deliveries: Sequence[Delivery]) -> None:
        if any(delivery.status is DeliveryStatus.OWED for delivery in deliveries):
            self._wakeups.announce("deliveries")


def _as_it_is(snapshot: Snapshot) -> Change:
    return Change(job=snapshot.job, session=snapshot.session)


def _without_result(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, job=replace(snapshot.job, result=None, structured_output=None))


def _age(session: Session) -> tuple[float, str]:
    return session.created_at, session.session_id


@dataclass(frozen=True, slots=True)
class _Hung:
    visible_at: float
    receipt: str | None = None
    rung: int = 0


class MemoryQueue:
    """The port `Queue`."""

    def __init__(self, wakeups: Wakeups, clock: Clock, entropy: Entropy) -> None:
        self._wakeups = wakeups
        self._clock = clock
        self._entropy = entropy
        self._bells: dict[str, _Hung] = {}

    async def send(self, job_id: str, *, at: float) -> None:
        """A held bell that is sent again is a new bell: whoever holds the old one cannot ack it away."""
        hung = self._bells.get(job_id)
        if hung is None or hung.receipt is not None:
            hung = _Hung(at)
        self._bells[job_id] = replace(hung, visible_at=min(hung.visible_at, at))
        self._wakeups.announce("queue")

    async def receive(self, *, limit: int, visibility_seconds: float, wait_seconds: float) -> Sequence[Bell]:
        ends = asyncio.get_running_loop().time() + wait_seconds
        with self._wakeups.subscribe("queue") as subscription:
            while True:
                bells = self._take(limit, visibility_seconds)
                left = ends - asyncio.get_running_loop().time()
                if bells or left <= 0:
                    return bells
                await subscription.wait(min(left, self._seconds_until_next()))

    async def ack(self, bell: Bell) -> None:
        if self._holds(bell):
            del self._bells[bell.job_id]

    async def retry(self, bell: Bell, *, at: float) -> None:
        if self._holds(bell):
            self._bells[bell.job_id] = replace(self._bells[bell.job_id], visible_at=at, receipt=None)
            self._wakeups.announce("queue")

    def _holds(self, bell: Bell) -> bool:
        hung = self._bells.get(bell.job_id)
        return hung is not None and hung.receipt == bell.receipt

    def _take(self, limit: int, visibility_seconds: float) -> list[Bell]:
        now, receipt = self._clock.now(), self._entropy.token()
        due = sorted(
            (hung.visible_at, job_id) for job_id, hung in self._bells.items() if hung.visible_at <= now
        )
        return [self._hold(job_id, receipt, now + visibility_seconds) for _, job_id in due[:limit]]

    def _hold(self, job_id: str, receipt: str, hidden_until: float) -> Bell:
        rung = self._bells[job_id].rung + 1
        self._bells[job_id] = _Hung(hidden_until, receipt, rung)
        return Bell(job_id=job_id, receipt=receipt, rung=rung)

    def _seconds_until_next(self) -> float:
        next_at = min((hung.visible_at for hung in self._bells.values()), default=float("inf"))
        return max(next_at - self._clock.now(), 0.0)
