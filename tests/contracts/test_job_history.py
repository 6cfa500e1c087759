"""The contract of JobHistory, over every adapter that has a view over all jobs."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from overnight.domain.errors import ErrorCode, JobNotFound
from overnight.domain.job import DeliveryStatus, Job
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.transitions import finish, resend, start
from overnight.ports import Clock, Entropy, Idempotency, JobHistory, JobIndex, JobStore, Wakeups

Submitted = Callable[..., Awaitable[Job]]
Finished = Callable[..., Awaitable[Job]]
DAY = 86_400.0


@pytest.fixture
def finished(store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy) -> Finished:
    async def job_of(session_id: str | None = None, *, outcome: Outcome | None = None, **more: object) -> Job:
        job = await submitted(store, session_id=session_id, continues=session_id is not None, **more)
        await store.change(
            job.job_id, start(worker="w", now=clock.now(), lease_seconds=9.0, isolation="none")
        )
        end = finish(
            outcome or Outcome(ending=Ending.DONE, result="r"),
            attempt=1,
            now=clock.now(),
            archive=None,
            delivery_id=entropy.delivery_id(),
        )
        return (await store.change(job.job_id, end)).job

    return job_of


async def all_jobs(index: JobIndex) -> set[str]:
    return {snapshot.job.job_id for snapshot in (await index.jobs(limit=1000)).rows}


async def test_a_job_that_is_long_over_goes_with_all_that_there_is_of_it(
    store: JobStore,
    index: JobIndex,
    history: JobHistory,
    finished: Finished,
    tick: Callable[[float], None],
    clock: Clock,
    wakeups: Wakeups,
) -> None:
    old = await finished()
    dead = await finished(old.session_id, outcome=failed(ErrorCode.TIMEOUT, "too long"))
    newest = await finished(old.session_id)
    before = await store.session(old.session_id)
    with wakeups.subscribe(f"job:{old.job_id}") as watching:
        assert await history.forget(finished_before=clock.now() - DAY, after=None, limit=9) is None
        assert await all_jobs(index) == {old.job_id, dead.job_id, newest.job_id}
        tick(2 * DAY)
        assert await history.forget(finished_before=clock.now() - DAY, after=None, limit=9) is None
        assert await watching.wait(5.0), "whoever follows it is told"
    assert await all_jobs(index) == {newest.job_id}
    with pytest.raises(JobNotFound):
        await store.request(old.job_id)
    assert list(await store.events(old.job_id)) == []
    assert await store.session(old.session_id) == before, "the session is as it was"


async def test_what_something_hangs_on_stays(
    store: JobStore,
    index: JobIndex,
    history: JobHistory,
    submitted: Submitted,
    finished: Finished,
    tick: Callable[[float], None],
    clock: Clock,
) -> None:
    """Open jobs, the newest of a session, one that owes a webhook, and one that was sent again and is over since."""
    waiting = await submitted(store)
    behind = await submitted(store, session_id=waiting.session_id, continues=True)
    only = await finished()
    owes = await finished(callback_url="https://example.com/hook")
    again = await finished(owes.session_id, outcome=failed(ErrorCode.TIMEOUT, "too long"))
    last = await finished(owes.session_id)
    kept = {job.job_id for job in (waiting, behind, only, owes, again, last)}
    await store.change(again.job_id, resend(now=clock.now()))
    tick(2 * DAY)
    await history.forget(finished_before=clock.now() - DAY, after=None, limit=9)
    assert await all_jobs(index) == kept

    await store.change(again.job_id, start(worker="w", now=clock.now(), lease_seconds=9.0, isolation="none"))
    end = finish(
        Outcome(ending=Ending.DONE), attempt=2, now=clock.now(), archive=None, delivery_id="msg_" + "a" * 32
    )
    await store.change(again.job_id, end)
    [owed] = await store.deliveries(owes.job_id)
    sent = replace(owed, status=DeliveryStatus.DELIVERED)
    await store.change_delivery(owed.delivery_id, lambda _: sent)
    await history.forget(finished_before=clock.now() - DAY, after=None, limit=9)
    assert await all_jobs(index) == kept - {owes.job_id}, "it was over only now"
    assert await store.deliveries(owes.job_id) == []


async def test_it_goes_on_where_it_stopped_and_looks_at_no_more_than_asked_for(
    index: JobIndex, history: JobHistory, finished: Finished, tick: Callable[[float], None], clock: Clock
) -> None:
    first = await finished()
    jobs = [first, *[await finished(first.session_id) for _ in range(5)]]
    tick(2 * DAY)
    after, left = None, []
    for _ in range(3):
        after = await history.forget(finished_before=clock.now() - DAY, after=after, limit=2)
        left.append(len(await all_jobs(index)))
    assert left == [4, 2, 1]
    if after is not None:
        after = await history.forget(finished_before=clock.now() - DAY, after=after, limit=2)
    assert after is None
    assert await all_jobs(index) == {jobs[-1].job_id}


async def test_a_key_that_made_a_job_that_is_forgotten_is_free_again(
    store: JobStore,
    history: JobHistory,
    finished: Finished,
    submitted: Submitted,
    tick: Callable[[float], None],
    clock: Clock,
) -> None:
    key = Idempotency(key="k", fingerprint="f")
    old = await finished(idempotency=key)
    await finished(old.session_id)
    tick(DAY)
    await history.forget(finished_before=clock.now() - DAY / 2, after=None, limit=9)
    assert (await submitted(store, idempotency=key)).job_id != old.job_id
