"""The contract of JobStore, continued: sessions, their erasure, and deliveries."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from overnight.domain.delivery import redeliver, reserve
from overnight.domain.errors import (
    DeliveryNotFound,
    JobNotFound,
    Refused,
    SessionNotFound,
)
from overnight.domain.job import (
    ArchiveRef,
    Change,
    DeliveryStatus,
    Job,
    Origin,
    Session,
    Status,
    Usage,
)
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.transitions import (
    Decide,
    cancel,
    finish,
    start,
)
from overnight.ports import Clock, Entropy, Idempotency, JobIndex, JobStore, Wakeups

Submitted = Callable[..., Awaitable[Job]]

CALLBACK = "https://example.com/hook"
ARCHIVE = ArchiveRef(name="claude-code/s/j.1.zip", size=10, sha256="ab" * 32, origin=Origin.RUN)
DONE = Outcome(
    ending=Ending.DONE,
    result="grün ☀",
    structured_output={"answer": [1, 2.5, None, 2**70]},
    usage=Usage(input_tokens=3),
    num_turns=2,
    cost_usd=0.25,
)
KEY = Idempotency(key="k", fingerprint="f")


def started(clock: Clock, worker: str = "w") -> Decide:
    return start(worker=worker, now=clock.now(), lease_seconds=15.0, isolation="none")


def finished(clock: Clock, entropy: Entropy, attempt: int = 1) -> Decide:
    return finish(DONE, attempt=attempt, now=clock.now(), archive=ARCHIVE, delivery_id=entropy.delivery_id())


async def test_a_session_can_be_changed_alone(store: JobStore, clock: Clock, unknown_session: str) -> None:
    seen: list[Session | None] = []

    def upload(session: Session | None) -> Session:
        seen.append(session)
        return Session(session_id=unknown_session, created_at=1.0, updated_at=clock.now(), archive=ARCHIVE)

    written = await store.change_session(unknown_session, upload)
    assert seen[-1] is None
    assert await store.session(unknown_session) == written
    await store.change_session(unknown_session, upload)
    assert seen[-1] == written


async def test_a_refused_change_of_a_session_writes_nothing(
    store: JobStore, index: JobIndex, unknown_session: str
) -> None:
    def refuse(_session: Session | None) -> Session:
        raise Refused("no")

    with pytest.raises(Refused):
        await store.change_session(unknown_session, refuse)
    assert not (await index.sessions()).rows


async def test_a_session_that_is_being_erased_is_not_found(store: JobStore, submitted: Submitted) -> None:
    job = await submitted(store)
    await mark_erased(store, job.session_id)
    with pytest.raises(SessionNotFound):
        await store.session(job.session_id)
    with pytest.raises(SessionNotFound):
        await submitted(store, session_id=job.session_id, continues=True)


async def mark_erased(store: JobStore, session_id: str) -> None:
    def mark(session: Session | None) -> Session:
        assert session is not None
        return replace(session, erased_at=5.0)

    await store.change_session(session_id, mark)


async def test_erase_removes_everything_of_the_session_and_nothing_else(
    store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    kept = await submitted(store, callback_url=CALLBACK)
    job = await submitted(store, callback_url=CALLBACK, idempotency=KEY)
    await store.change(job.job_id, started(clock))
    owed = (await store.change(job.job_id, finished(clock, entropy))).deliveries[0]
    more = [await submitted(store, session_id=job.session_id, continues=True) for _ in range(45)]
    await mark_erased(store, job.session_id)
    assert list(await index.erasing()) == [job.session_id]

    await store.erase(job.session_id)
    await store.erase(job.session_id)

    for gone in (job, *more):
        with pytest.raises(JobNotFound):
            await store.snapshot(gone.job_id)
    with pytest.raises(JobNotFound):
        await store.request(job.job_id)
    assert list(await store.events(job.job_id)) == []
    assert list(await store.deliveries(job.job_id)) == []
    with pytest.raises(DeliveryNotFound):
        await store.change_delivery(owed.delivery_id, lambda delivery: delivery)
    assert [snapshot.job for snapshot in (await index.jobs()).rows] == [kept]
    assert list(await index.erasing()) == []
    assert await index.next_delivery_at() is None
    assert list(await index.runnable(now=clock.now(), limit=100)) == [kept.job_id]
    assert (await submitted(store, idempotency=KEY)).job_id != job.job_id


async def test_an_unknown_session_can_be_erased(store: JobStore, unknown_session: str) -> None:
    await store.erase(unknown_session)


async def test_deliveries_come_oldest_first(
    store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    job = await submitted(store, callback_url=CALLBACK)
    await store.change(job.job_id, started(clock))
    first = (await store.change(job.job_id, finished(clock, entropy))).deliveries[0]
    later = replace(first, delivery_id=f"msg_{'0' * 32}", created_at=first.created_at + 1)
    await store.change(job.job_id, lambda job, session: Change(job=job, session=session, deliveries=(later,)))
    assert list(await store.deliveries(job.job_id)) == [first, later]


async def test_a_delivery_is_changed_like_a_job(
    store: JobStore, index: JobIndex, wakeups: Wakeups, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    job = await submitted(store, callback_url=CALLBACK)
    await store.change(job.job_id, started(clock))
    owed = (await store.change(job.job_id, finished(clock, entropy))).deliveries[0]
    now = clock.now()

    taken = await asyncio.gather(
        *(
            store.change_delivery(owed.delivery_id, lambda one: reserve(one, now=now, seconds=60.0))
            for _ in range(4)
        )
    )
    assert [one for one in taken if one is not None] == [replace(owed, next_at=now + 60.0)]
    assert await index.next_delivery_at() == now + 60.0

    await store.change_delivery(owed.delivery_id, lambda one: replace(one, status=DeliveryStatus.DELIVERED))
    assert await index.next_delivery_at() is None
    with wakeups.subscribe("deliveries") as watcher:
        await store.change_delivery(owed.delivery_id, lambda one: redeliver(one, now=now))
        assert await watcher.wait(10.0)
    assert [one.status for one in await store.deliveries(job.job_id)] == [DeliveryStatus.OWED]


async def test_an_unknown_delivery(store: JobStore, entropy: Entropy) -> None:
    with pytest.raises(DeliveryNotFound):
        await store.change_delivery(entropy.delivery_id(), lambda delivery: delivery)


async def test_a_cancelled_job_is_final_at_once_when_it_waits(
    store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    job = await submitted(store, callback_url=CALLBACK)
    end = cancel(now=clock.now(), delivery_id=entropy.delivery_id())
    change = await store.change(job.job_id, end)
    assert change.job.status is Status.CANCELLED
    assert (await store.change(job.job_id, end)).events == ()
    assert len(await store.deliveries(job.job_id)) == 1
