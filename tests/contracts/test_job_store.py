"""The contract of JobStore: each sentence of its docstrings, over every adapter."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from overnight.domain.errors import (
    ErrorCode,
    IdempotencyConflict,
    JobNotFound,
    Refused,
    SessionBusy,
    SessionNotFound,
    StaleAttempt,
)
from overnight.domain.job import (
    ArchiveRef,
    Change,
    Job,
    JobRequest,
    Origin,
    Session,
    Status,
    Usage,
)
from overnight.domain.outcome import Ending, Outcome, failed
from overnight.domain.retry import RetryPolicy
from overnight.domain.transitions import (
    Decide,
    Note,
    finish,
    lapse,
    record,
    renew,
    requeue,
    start,
    submit,
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


async def observed(store: JobStore, index: JobIndex, job_id: str, now: float) -> tuple[object, ...]:
    """Everything that the ports tell about a job, what is searched for included."""
    return (
        await store.snapshot(job_id),
        await store.events(job_id),
        await store.deliveries(job_id),
        await index.counts(),
        await index.running(),
        await index.runnable(now=now, limit=100),
        await index.next_delivery_at(),
    )


async def test_a_created_job_is_there_for_every_reader(
    store: JobStore, twin_store: JobStore, submitted: Submitted
) -> None:
    job = await submitted(store, prompt="write a poem", callback_url=CALLBACK)

    snapshot = await twin_store.snapshot(job.job_id)
    assert snapshot.job == job
    assert snapshot.job.status is Status.QUEUED
    assert snapshot.session.line == (job.job_id,)
    assert await twin_store.session(job.session_id) == snapshot.session
    assert (await twin_store.request(job.job_id)).prompt == "write a poem"
    assert [event.type for event in await twin_store.events(job.job_id)] == ["job.queued"]


async def test_every_field_of_a_request_is_kept(store: JobStore, clock: Clock, entropy: Entropy) -> None:
    request = JobRequest(
        prompt="p" * 100_000,
        callback_url=CALLBACK,
        model="m",
        max_turns=3,
        max_budget_usd=0.5,
        timeout_seconds=60,
        append_system_prompt="be kind",
        allowed_tools=("Bash(ls:*)", "Read"),
        disallowed_tools=("Write",),
        output_schema={"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
        metadata={"team": "ä"},
    )
    job_id, session_id = entropy.job_id(), entropy.session_id()
    admit = submit(request, job_id=job_id, session_id=session_id, continues=False, now=clock.now())
    await store.create(session_id, request, admit)
    assert await store.request(job_id) == request


async def test_a_refused_job_leaves_nothing(
    store: JobStore, index: JobIndex, submitted: Submitted, unknown_session: str
) -> None:
    with pytest.raises(SessionNotFound):
        await submitted(store, session_id=unknown_session, continues=True, idempotency=KEY)

    assert not (await index.jobs()).rows
    assert not (await index.sessions()).rows
    job = await submitted(store, idempotency=replace(KEY, fingerprint="another"))  # the key is still free
    assert job.status is Status.QUEUED


async def test_the_same_key_gives_the_first_job_back(
    store: JobStore, twin_store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock
) -> None:
    first = await submitted(store, idempotency=KEY)
    await store.change(first.job_id, started(clock))

    again = await submitted(twin_store, idempotency=KEY)
    assert (again.job_id, again.status) == (first.job_id, Status.PROCESSING)
    assert len((await index.jobs()).rows) == 1
    assert len((await index.sessions()).rows) == 1


async def test_a_replay_says_so_and_writes_nothing(
    store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    first = await submitted(store, idempotency=KEY)
    request = JobRequest(prompt="hello")
    admit = submit(
        request, job_id=entropy.job_id(), session_id=first.session_id, continues=True, now=clock.now()
    )
    created = await store.create(first.session_id, request, admit, KEY)
    assert created.replayed
    assert created.change == Change(job=first, session=await store.session(first.session_id))


async def test_the_same_key_with_another_request_is_a_conflict(
    store: JobStore, index: JobIndex, submitted: Submitted
) -> None:
    await submitted(store, idempotency=KEY)
    with pytest.raises(IdempotencyConflict):
        await submitted(store, idempotency=replace(KEY, fingerprint="another"))
    assert len((await index.jobs()).rows) == 1


async def test_a_burst_of_equal_requests_makes_one_job(
    store: JobStore, twin_store: JobStore, index: JobIndex, submitted: Submitted
) -> None:
    stores = [store, twin_store] * 10
    jobs = await asyncio.gather(*(submitted(one, idempotency=KEY) for one in stores))
    assert len({job.job_id for job in jobs}) == 1
    assert len((await index.jobs()).rows) == 1


async def test_a_key_lives_for_seven_days(
    store: JobStore, submitted: Submitted, tick: Callable[[float], None]
) -> None:
    first = await submitted(store, idempotency=KEY)
    tick(6.9 * 86400)
    assert (await submitted(store, idempotency=KEY)).job_id == first.job_id
    tick(0.2 * 86400)
    assert (await submitted(store, idempotency=KEY)).job_id != first.job_id


async def test_a_change_writes_all_of_it_together(
    store: JobStore,
    twin_store: JobStore,
    index: JobIndex,
    submitted: Submitted,
    clock: Clock,
    entropy: Entropy,
) -> None:
    job = await submitted(store, callback_url=CALLBACK)
    await store.change(job.job_id, started(clock))
    change = await store.change(job.job_id, finished(clock, entropy))

    snapshot = await twin_store.snapshot(job.job_id)
    assert (snapshot.job, snapshot.session) == (change.job, change.session)
    assert snapshot.job.status is Status.COMPLETED
    assert (snapshot.job.result, snapshot.job.structured_output) == (DONE.result, DONE.structured_output)
    assert snapshot.session.archive == ARCHIVE
    assert [event.seq for event in await twin_store.events(job.job_id)] == [1, 2, 3]
    assert await twin_store.deliveries(job.job_id) == list(change.deliveries)
    assert await index.next_delivery_at() == change.deliveries[0].next_at


async def test_what_decide_raises_goes_to_the_caller_and_nothing_is_written(
    store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock
) -> None:
    job = await submitted(store)
    now = clock.now()
    before = await observed(store, index, job.job_id, now)

    def refuse(_job: Job, _session: Session) -> Change:
        raise Refused("not today")

    with pytest.raises(Refused, match="not today"):
        await store.change(job.job_id, refuse)
    assert await observed(store, index, job.job_id, now) == before


async def test_a_bug_in_a_rule_writes_nothing(
    store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock
) -> None:
    job = await submitted(store)
    now = clock.now()
    before = await observed(store, index, job.job_id, now)

    def broken(job: Job, session: Session) -> Change:
        started(clock)(job, session)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.change(job.job_id, broken)
    assert await observed(store, index, job.job_id, now) == before


async def test_nothing_to_write_gives_the_job_as_it_is(
    store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock
) -> None:
    job = await submitted(store)
    now = clock.now()
    before = await observed(store, index, job.job_id, now)
    change = await store.change(job.job_id, lambda _job, _session: None)
    assert change == Change(job=job, session=await store.session(job.session_id))
    assert await observed(store, index, job.job_id, now) == before


async def test_an_unknown_job(store: JobStore, unknown_job: str) -> None:
    for call in (store.snapshot(unknown_job), store.request(unknown_job)):
        with pytest.raises(JobNotFound):
            await call
    with pytest.raises(JobNotFound):
        await store.change(unknown_job, lambda _job, _session: None)
    assert list(await store.events(unknown_job)) == []
    assert list(await store.deliveries(unknown_job)) == []


async def test_changes_at_once_follow_one_another(
    store: JobStore, twin_store: JobStore, submitted: Submitted, clock: Clock
) -> None:
    job = await submitted(store)
    await store.change(job.job_id, started(clock))
    await asyncio.gather(
        *(
            one.change(job.job_id, record([Note("note", clock.now(), {"n": n})], attempt=1))
            for n, one in enumerate([store, twin_store] * 20)
        )
    )
    events = await store.events(job.job_id)
    assert [event.seq for event in events] == list(range(1, 43))
    assert {event.data["n"] for event in events[2:]} == set(range(40))
    assert (await store.snapshot(job.job_id)).job.last_event == 42


async def test_of_two_workers_one_gets_the_job(
    store: JobStore, twin_store: JobStore, submitted: Submitted, clock: Clock
) -> None:
    job = await submitted(store)
    results = await asyncio.gather(
        *(
            one.change(job.job_id, started(clock, worker=str(n)))
            for n, one in enumerate([store, twin_store] * 4)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Change) for result in results) == 1
    assert (await store.snapshot(job.job_id)).job.attempt == 1


async def test_a_stale_attempt_changes_nothing(
    store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    job = await submitted(store, callback_url=CALLBACK)
    await store.change(job.job_id, started(clock, worker="first"))
    lost = lapse(
        attempt=1,
        now=clock.now(),
        policy=RetryPolicy(),
        chance=0.5,
        delivery_id=entropy.delivery_id(),
        worker_is_dead=True,
    )
    await store.change(job.job_id, lost)
    await store.change(job.job_id, started(clock, worker="second"))
    now = clock.now()
    before = await observed(store, index, job.job_id, now)

    stale: list[Decide] = [
        renew(attempt=1, now=now, lease_seconds=99.0),
        record([Note("note", now, {})], attempt=1),
        requeue(failed(ErrorCode.API_ERROR, "no"), attempt=1, now=now, at=now),
        finished(clock, entropy, attempt=1),
        lost,
    ]
    for decide in stale:
        with pytest.raises(StaleAttempt):
            await store.change(job.job_id, decide)
    assert await observed(store, index, job.job_id, now) == before


async def test_jobs_of_a_session_run_one_at_a_time_in_the_order_accepted(
    store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    first = await submitted(store)
    second = await submitted(store, session_id=first.session_id, continues=True)
    with pytest.raises(SessionBusy):
        await store.change(second.job_id, started(clock))
    await store.change(first.job_id, started(clock))
    with pytest.raises(SessionBusy):
        await store.change(second.job_id, started(clock))
    await store.change(first.job_id, finished(clock, entropy))
    change = await store.change(second.job_id, started(clock))
    assert change.session.line == (second.job_id,)


async def test_events_come_in_pages(store: JobStore, submitted: Submitted, clock: Clock) -> None:
    job = await submitted(store)
    await store.change(job.job_id, started(clock))
    notes = [Note("note", clock.now(), {"text": f"line {n}", "nested": {"n": [n]}}) for n in range(7)]
    await store.change(job.job_id, record(notes, attempt=1))

    assert [event.seq for event in await store.events(job.job_id, limit=4)] == [1, 2, 3, 4]
    page = await store.events(job.job_id, after=7, limit=4)
    assert [(event.seq, event.data) for event in page] == [(8, notes[5].data), (9, notes[6].data)]
    assert list(await store.events(job.job_id, after=9)) == []


async def test_a_page_of_events_is_as_long_as_it_is_asked_for(
    store: JobStore, submitted: Submitted, clock: Clock
) -> None:
    job = await submitted(store)
    await store.change(job.job_id, started(clock))
    notes = [Note("note", clock.now(), {"n": n}) for n in range(1_100)]
    for at in range(0, len(notes), 100):
        await store.change(job.job_id, record(notes[at : at + 100], attempt=1))
    page = await store.events(job.job_id, after=2, limit=1000)
    assert [event.seq for event in page] == list(range(3, 1003))


async def test_watchers_of_the_job_wake_after_a_commit(
    store: JobStore, twin_store: JobStore, wakeups: Wakeups, submitted: Submitted, clock: Clock
) -> None:
    """Also by a store of another process; and what woke them is there to be read."""
    job = await submitted(store)
    with wakeups.subscribe(f"job:{job.job_id}") as watcher:
        for one, decide in ((store, started(clock)), (twin_store, record([Note("n", 0.0, {})], attempt=1))):
            waiting = asyncio.create_task(watcher.wait(10.0))
            change = await one.change(job.job_id, decide)
            assert await waiting
            assert (await store.snapshot(job.job_id)).job == change.job


async def test_a_wake_up_does_not_depend_on_the_caller_who_may_be_cancelled(
    store: JobStore, wakeups: Wakeups, submitted: Submitted, clock: Clock
) -> None:
    job = await submitted(store)
    with wakeups.subscribe(f"job:{job.job_id}") as watcher:
        call = asyncio.create_task(store.change(job.job_id, started(clock)))
        await asyncio.sleep(0)
        call.cancel()
        assert await watcher.wait(10.0)
    await asyncio.wait([call])
    assert (await store.snapshot(job.job_id)).job.status is Status.PROCESSING


async def test_watchers_of_deliveries_wake_when_some_are_owed(
    store: JobStore, wakeups: Wakeups, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    silent, calling = await submitted(store), await submitted(store, callback_url=CALLBACK)
    with wakeups.subscribe("deliveries") as watcher:
        for job in (silent, calling):
            await store.change(job.job_id, started(clock))
        await store.change(silent.job_id, finished(clock, entropy))
        assert not await watcher.wait(0.0)
        await store.change(calling.job_id, finished(clock, entropy))
        assert await watcher.wait(10.0)


async def test_a_cancelled_call_leaves_a_whole_job_or_none(
    store: JobStore, index: JobIndex, submitted: Submitted
) -> None:
    calls = [asyncio.ensure_future(submitted(store)) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.wait(calls)
    await submitted(store)  # everything before it is settled now

    listed = [snapshot.job for snapshot in (await index.jobs(limit=100)).rows]
    assert {call.result().job_id for call in calls[1::2]} <= {job.job_id for job in listed}
    for job in listed:
        assert (await store.request(job.job_id)).prompt == "say hello"
        assert [event.seq for event in await store.events(job.job_id)] == [1]
        assert (await store.session(job.session_id)).line == (job.job_id,)
