"""The contract of JobIndex, over every adapter."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from overnight.domain.errors import ErrorCode
from overnight.domain.job import Job, Session, Status
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.transitions import Decide, cancel, finish, requeue, start
from overnight.ports import Clock, Entropy, JobIndex, JobStore

Submitted = Callable[..., Awaitable[Job]]
Reach = Callable[[Status], Awaitable[Job]]


@pytest.fixture
def reach(store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy) -> Reach:
    """Brings a new job to a status."""

    async def bring(status: Status) -> Job:
        job = await submitted(store, callback_url="https://example.com/hook")
        if status is Status.CANCELLED:
            end = cancel(now=clock.now(), delivery_id=entropy.delivery_id())
            return (await store.change(job.job_id, end)).job
        if status is not Status.QUEUED:
            job = (await store.change(job.job_id, begin(clock))).job
        if status.final:
            outcome = {
                Status.COMPLETED: Outcome(ending=Ending.DONE, result="r", structured_output={"a": 1}),
                Status.FAILED: failed(ErrorCode.TIMEOUT, "too long"),
            }[status]
            end = finish(outcome, attempt=1, now=clock.now(), archive=None, delivery_id=entropy.delivery_id())
            job = (await store.change(job.job_id, end)).job
        return job

    return bring


def begin(clock: Clock) -> Decide:
    return start(worker="w", now=clock.now(), lease_seconds=15.0, isolation="none")


async def everything(
    index: JobIndex, *, statuses: Sequence[Status] = (), session_id: str | None = None
) -> list[str]:
    """All pages of a listing, two jobs at a time."""
    found: list[str] = []
    before = None
    while True:
        page = await index.jobs(statuses=statuses, session_id=session_id, limit=2, before=before)
        assert len(page.rows) <= 2
        found += [snapshot.job.job_id for snapshot in page.rows]
        if page.next is None:
            return found
        before = page.next


async def test_jobs_are_listed_newest_first_in_pages(
    store: JobStore, index: JobIndex, submitted: Submitted
) -> None:
    jobs = [await submitted(store) for _ in range(6)]
    assert await everything(index) == [job.job_id for job in reversed(jobs)]


async def test_the_last_page_says_so(store: JobStore, index: JobIndex, submitted: Submitted) -> None:
    for _ in range(2):
        await submitted(store)
    assert (await index.jobs(limit=2)).next is None
    assert (await index.jobs(limit=1)).next is not None


async def test_jobs_that_come_meanwhile_do_not_disturb_a_listing(
    store: JobStore, index: JobIndex, submitted: Submitted
) -> None:
    jobs = [await submitted(store) for _ in range(3)]
    page = await index.jobs(limit=2)
    await submitted(store)
    rest = await index.jobs(limit=2, before=page.next)
    assert [snapshot.job.job_id for snapshot in rest.rows] == [jobs[0].job_id]


async def test_jobs_can_be_listed_by_status(index: JobIndex, reach: Reach) -> None:
    by_status = {status: [(await reach(status)).job_id for _ in range(3)] for status in Status}
    for status, job_ids in by_status.items():
        assert await everything(index, statuses=[status]) == job_ids[::-1]
    mixed = sorted(by_status[Status.FAILED] + by_status[Status.COMPLETED], reverse=True)
    assert await everything(index, statuses=[Status.COMPLETED, Status.FAILED]) == mixed


async def test_jobs_can_be_listed_by_session(
    store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock
) -> None:
    first = await submitted(store)
    await submitted(store)
    others = [await submitted(store, session_id=first.session_id, continues=True) for _ in range(3)]
    await store.change(first.job_id, begin(clock))

    jobs = [job.job_id for job in (first, *others)]
    assert await everything(index, session_id=first.session_id) == jobs[::-1]
    waiting = await everything(index, session_id=first.session_id, statuses=[Status.QUEUED])
    assert waiting == jobs[:0:-1]


async def test_a_listed_job_comes_with_its_session(
    store: JobStore, index: JobIndex, submitted: Submitted
) -> None:
    first = await submitted(store)
    await submitted(store, session_id=first.session_id, continues=True)
    for snapshot in (await index.jobs()).rows:
        assert snapshot == await store.snapshot(snapshot.job.job_id)


async def test_results_are_left_out_of_listings(store: JobStore, index: JobIndex, reach: Reach) -> None:
    job = await reach(Status.COMPLETED)
    assert (await store.snapshot(job.job_id)).job.result == "r"
    pages = (
        await index.jobs(),
        await index.jobs(statuses=[Status.COMPLETED]),
        await index.jobs(session_id=job.session_id),
    )
    for page in pages:
        assert [one.job for one in page.rows] == [replace(job, result=None, structured_output=None)]


@pytest.mark.parametrize("cursor", ["", "x", "' OR 1=1 --", "1:x", "nan:", "inf:" + "0" * 36, "☀"])
async def test_a_malformed_cursor_is_refused(index: JobIndex, cursor: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        await index.jobs(before=cursor)
    with pytest.raises(ValueError, match=r"."):
        await index.sessions(before=cursor)


async def test_sessions_are_listed_newest_first_in_pages(
    store: JobStore, index: JobIndex, entropy: Entropy
) -> None:
    """Some were made in the same moment: none is skipped or shown twice."""
    made = [
        Session(session_id=entropy.session_id(), created_at=created_at, updated_at=9.0)
        for created_at in (1.25, 1.25, 1.25, 0.1 + 0.2, 7e9)
    ]
    for session in made:
        await store.change_session(session.session_id, lambda _: session)  # noqa: B023 - awaited in its turn
    made.sort(key=lambda session: (session.created_at, session.session_id), reverse=True)

    listed: list[Session] = []
    before = None
    while True:
        page = await index.sessions(limit=2, before=before)
        listed += page.rows
        if page.next is None:
            break
        before = page.next
    assert listed == made


async def test_sessions_that_are_being_erased_are_listed_apart(
    store: JobStore, index: JobIndex, submitted: Submitted
) -> None:
    kept, erased = await submitted(store), await submitted(store)

    def mark(session: Session | None) -> Session:
        assert session is not None
        return replace(session, erased_at=3.0)

    await store.change_session(erased.session_id, mark)
    assert [session.session_id for session in (await index.sessions()).rows] == [kept.session_id]
    assert list(await index.erasing()) == [erased.session_id]


async def test_running_jobs(index: JobIndex, reach: Reach) -> None:
    running = [(await reach(status)) for status in Status][1]
    assert running.status is Status.PROCESSING
    assert list(await index.running()) == [running]


async def test_counts_are_of_the_open_statuses(index: JobIndex, reach: Reach) -> None:
    assert dict(await index.counts()) == {Status.QUEUED: 0, Status.PROCESSING: 0}
    for status in (*Status, Status.QUEUED):
        await reach(status)
    assert dict(await index.counts()) == {Status.QUEUED: 2, Status.PROCESSING: 1}


async def test_runnable_jobs_are_first_in_their_line_and_due(
    store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    first = await submitted(store)
    second = await submitted(store, session_id=first.session_id, continues=True)
    other = await submitted(store)
    now = clock.now()

    async def runnable(at: float) -> list[str]:
        return list(await index.runnable(now=at, limit=10))

    assert await runnable(now) == [first.job_id, other.job_id]
    assert list(await index.runnable(now=now, limit=1)) == [first.job_id]
    assert await runnable(first.created_at - 1) == []

    await store.change(first.job_id, begin(clock))
    assert await runnable(now) == [other.job_id]
    again = requeue(failed(ErrorCode.OVERLOADED, "later"), attempt=1, now=now, at=now + 60)
    await store.change(first.job_id, again)
    assert await runnable(now) == [other.job_id]
    assert await runnable(now + 60) == [other.job_id, first.job_id]

    await store.change(first.job_id, cancel(now=now, delivery_id=entropy.delivery_id()))
    assert set(await runnable(now)) == {other.job_id, second.job_id}


async def test_due_deliveries(store: JobStore, index: JobIndex, reach: Reach) -> None:
    async def owe_at(at: float) -> str:
        job = await reach(Status.COMPLETED)
        (delivery,) = await store.deliveries(job.job_id)
        await store.change_delivery(delivery.delivery_id, lambda one: replace(one, next_at=at))
        return delivery.delivery_id

    assert await index.next_delivery_at() is None
    ids = [await owe_at(1_000.0 + delay) for delay in (30.0, 10.0, 20.0)]
    assert await index.next_delivery_at() == 1_010.0
    assert list(await index.due_deliveries(now=1_020.0, limit=10)) == [ids[1], ids[2]]
    assert list(await index.due_deliveries(now=2_000.0, limit=2)) == [ids[1], ids[2]]
    assert list(await index.due_deliveries(now=1_009.0, limit=10)) == []
