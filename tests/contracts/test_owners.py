"""Owners in JobStore and JobIndex, over every adapter: whose rows they are, and how their owner stands."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from overnight.domain.errors import (
    BudgetExhausted,
    IdempotencyConflict,
    JobNotFound,
    OwnerBusy,
    QueueFull,
    RoomToRun,
    SessionNotFound,
    TooManyJobs,
)
from overnight.domain.holding import hold, release
from overnight.domain.job import Job, Status, WaitingFor
from overnight.domain.keys import LOCAL, Caller, KeyLimits, Scope
from overnight.domain.outcome import Ending, Outcome
from overnight.domain.standing import HOLD_SECONDS, Standing, day_of, room_to_run, room_to_wait, still_no_room
from overnight.domain.transitions import cancel, finish, resend, seen_by, start
from overnight.flows.bells import ring
from overnight.ports import Books, Clock, Entropy, Idempotency, JobIndex, JobStore, Owners, Queue

Submitted = Callable[..., Awaitable[Job]]
DAY = 86400.0
PATIENCE = 10.0


def named(owner: str, **limits: float) -> Caller:
    scopes = frozenset({Scope.SUBMIT, Scope.READ})
    return Caller(owner=owner, scopes=scopes, key_id=f"ovn_{owner}", limits=KeyLimits(**limits))  # type: ignore[arg-type]  # the tests' own numbers


ALICE, BOB = named("alice"), named("bob")


@dataclass
class Seen:
    """A check that allows everything and remembers how the owner stood. `held` is not every store's to know."""

    standings: list[Standing] = field(default_factory=list)

    def __call__(self, job: Job, standing: Standing) -> None:
        self.standings.append(replace(standing, held=0))


async def begun(store: JobStore, job: Job, clock: Clock) -> Job:
    decide = start(worker="w", now=clock.now(), lease_seconds=60.0, isolation="none")
    return (await store.change(job.job_id, decide, check=room_to_run(now=clock.now()))).job


async def ended(store: JobStore, job: Job, clock: Clock, entropy: Entropy, *, cost: float = 0.0) -> None:
    outcome = Outcome(ending=Ending.DONE, result="r", cost_usd=cost)
    decide = finish(outcome, attempt=1, now=clock.now(), archive=None, delivery_id=entropy.delivery_id())
    await store.change(job.job_id, decide)


async def test_a_job_and_what_comes_of_it_belong_to_the_owner_of_the_key(
    store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    job = await submitted(store, caller=named("alice", max_running=3), callback_url="https://example.com/")
    await store.change(job.job_id, cancel(now=clock.now(), delivery_id=entropy.delivery_id()))
    snapshot = await store.snapshot(job.job_id)
    assert (snapshot.job.owner, snapshot.job.key_id, snapshot.job.max_running) == ("alice", "ovn_alice", 3)
    assert snapshot.session.owner == "alice"
    [delivery] = await store.deliveries(job.job_id)
    assert (delivery.owner, delivery.key_id) == ("alice", "ovn_alice")


async def test_another_owners_session_does_not_exist(store: JobStore, submitted: Submitted) -> None:
    job = await submitted(store, caller=ALICE)
    with pytest.raises(SessionNotFound):
        await submitted(store, session_id=job.session_id, continues=True, caller=BOB)
    assert (await store.session(job.session_id)).line == (job.job_id,)


async def test_what_an_administrator_adds_belongs_to_the_owner_of_the_session(
    store: JobStore, submitted: Submitted
) -> None:
    job = await submitted(store, caller=ALICE)
    added = await submitted(store, session_id=job.session_id, continues=True, caller=LOCAL)
    assert (added.owner, added.key_id) == ("alice", None)


async def test_another_owners_job_does_not_exist(
    store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    job = await submitted(store, caller=ALICE)
    decide = cancel(now=clock.now(), delivery_id=entropy.delivery_id())
    with pytest.raises(JobNotFound):
        await store.change(job.job_id, seen_by(BOB, decide))
    assert (await store.snapshot(job.job_id)).job.status is Status.QUEUED
    assert (await store.change(job.job_id, seen_by(ALICE, decide))).job.status is Status.CANCELLED


async def test_listings_can_be_held_to_an_owner(
    store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    jobs = [await submitted(store, caller=caller) for caller in (ALICE, BOB, LOCAL, ALICE, ALICE)]
    await begun(store, jobs[0], clock)
    await ended(store, jobs[0], clock, entropy)
    mine = [jobs[4].job_id, jobs[3].job_id, jobs[0].job_id]
    page = await index.jobs(owner="alice", limit=2)
    rest = await index.jobs(owner="alice", limit=2, before=page.next)
    assert [row.job.job_id for row in (*page.rows, *rest.rows)] == mine
    assert rest.next is None

    async def listed(**wanted: object) -> list[str]:
        return [row.job.job_id for row in (await index.jobs(owner="alice", **wanted)).rows]  # type: ignore[arg-type]

    assert await listed(statuses=[Status.QUEUED]) == mine[:2]
    assert await listed(statuses=[Status.COMPLETED]) == mine[2:]
    assert await listed(statuses=list(Status)) == mine
    assert await listed(session_id=jobs[3].session_id) == [jobs[3].job_id]
    assert await listed(session_id=jobs[1].session_id) == []
    assert len((await index.jobs()).rows) == 5


async def test_sessions_can_be_held_to_an_owner(
    store: JobStore, index: JobIndex, submitted: Submitted
) -> None:
    jobs = [await submitted(store, caller=caller) for caller in (ALICE, BOB, ALICE, LOCAL)]
    page = await index.sessions(owner="alice", limit=1)
    rest = await index.sessions(owner="alice", limit=1, before=page.next)
    assert [row.session_id for row in (*page.rows, *rest.rows)] == [jobs[2].session_id, jobs[0].session_id]
    assert rest.next is None
    assert len((await index.sessions()).rows) == 4


async def test_each_owner_has_idempotency_keys_of_its_own(store: JobStore, submitted: Submitted) -> None:
    def key(owner: str, fingerprint: str) -> Idempotency:
        return Idempotency(key="same", fingerprint=fingerprint, owner=owner)

    alices = await submitted(store, caller=ALICE, idempotency=key("alice", "1"))
    bobs = await submitted(store, caller=BOB, idempotency=key("bob", "2"))
    again = await submitted(store, caller=ALICE, idempotency=key("alice", "1"))
    assert alices.job_id == again.job_id != bobs.job_id
    with pytest.raises(IdempotencyConflict):
        await submitted(store, caller=BOB, idempotency=key("bob", "1"))


async def test_a_check_sees_how_the_owner_stands(
    store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    jobs = [await submitted(store, caller=caller) for caller in (ALICE, ALICE, ALICE, BOB)]
    await begun(store, jobs[0], clock)
    await begun(store, jobs[1], clock)
    await ended(store, jobs[1], clock, entropy, cost=0.25)
    seen = Seen()
    await submitted(store, caller=ALICE, check=seen)
    assert seen.standings == [Standing(queued=1, processing=1, spent_today_usd=0.25, queued_by_all=2)]


async def test_the_standing_stays_right_when_sessions_are_erased(
    store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock
) -> None:
    kept, erased = await submitted(store, caller=ALICE), await submitted(store, caller=ALICE)
    await begun(store, erased, clock)
    await store.erase(erased.session_id)
    seen = Seen()
    await store.change(kept.job_id, cancel(now=clock.now(), delivery_id="msg_1"), check=seen)
    assert seen.standings == [Standing(queued=1, processing=0, spent_today_usd=0.0, queued_by_all=1)]
    assert dict(await index.counts()) == {Status.QUEUED: 0, Status.PROCESSING: 0}


async def test_a_refused_job_leaves_nothing_behind(
    store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock
) -> None:
    check = room_to_wait(KeyLimits(max_queued=2), max_queued_by_all=100, now=clock.now())
    for _ in range(2):
        await submitted(store, caller=ALICE, check=check)
    with pytest.raises(TooManyJobs):
        await submitted(store, caller=ALICE, check=check, idempotency=Idempotency(key="k", fingerprint="f"))
    await submitted(store, caller=BOB, check=check, idempotency=Idempotency(key="k", fingerprint="g"))
    assert len((await index.jobs()).rows) == 3
    assert len((await index.sessions()).rows) == 3


async def test_a_repeated_request_is_answered_whatever_the_limits(
    store: JobStore, submitted: Submitted
) -> None:
    idempotency = Idempotency(key="k", fingerprint="f", owner="alice")
    job = await submitted(store, caller=ALICE, idempotency=idempotency)
    full = room_to_wait(KeyLimits(max_queued=0), max_queued_by_all=0, now=0.0)
    assert (await submitted(store, caller=ALICE, idempotency=idempotency, check=full)).job_id == job.job_id


async def test_a_limit_holds_when_many_come_at_once(
    store: JobStore, index: JobIndex, submitted: Submitted, clock: Clock
) -> None:
    check = room_to_wait(KeyLimits(max_queued=3), max_queued_by_all=100, now=clock.now())
    tries = [submitted(store, caller=ALICE, check=check) for _ in range(10)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(each, TooManyJobs) for each in done) == 7
    assert len((await index.jobs(owner="alice")).rows) == 3


async def test_the_whole_queue_has_a_limit(store: JobStore, submitted: Submitted, clock: Clock) -> None:
    check = room_to_wait(KeyLimits(), max_queued_by_all=2, now=clock.now())
    await submitted(store, caller=ALICE, check=check)
    await submitted(store, caller=LOCAL, check=check)
    with pytest.raises(QueueFull):
        await submitted(store, caller=BOB, check=check)


async def test_no_more_jobs_of_an_owner_run_than_the_key_allows(
    store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    one, two = [await submitted(store, caller=named("alice", max_running=1)) for _ in range(2)]
    done = await asyncio.gather(*(begun(store, job, clock) for job in (one, two)), return_exceptions=True)
    busy = [isinstance(each, OwnerBusy) for each in done]
    assert sorted(busy) == [False, True]
    if busy[0]:  # which of them wins is nobody's promise
        one, two = two, one
    assert (await store.snapshot(two.job_id)).job.attempt == 0
    assert (await begun(store, await submitted(store, caller=BOB), clock)).attempt == 1
    await ended(store, one, clock, entropy)
    assert (await begun(store, two, clock)).attempt == 1


async def test_the_money_of_a_day_is_spent_until_midnight(
    store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy, tick: Callable[[float], None]
) -> None:
    limits = KeyLimits(daily_budget_usd=0.5)

    def check(job: Job, standing: Standing) -> None:
        room_to_wait(limits, max_queued_by_all=100, now=clock.now())(job, standing)

    job = await submitted(store, caller=ALICE, check=check)
    await begun(store, job, clock)
    await ended(store, job, clock, entropy, cost=0.5)
    with pytest.raises(BudgetExhausted) as caught:
        await submitted(store, caller=ALICE, check=check)
    assert 0 < caught.value.wait_seconds <= DAY
    await submitted(store, caller=BOB, check=check)
    tick(caught.value.wait_seconds)
    await submitted(store, caller=ALICE, check=check)


async def test_a_resend_is_held_to_the_same_limits_and_one_that_is_void_is_not(
    store: JobStore, submitted: Submitted, clock: Clock
) -> None:
    job = await submitted(store, caller=ALICE)
    full = room_to_wait(KeyLimits(max_queued=0), max_queued_by_all=100, now=clock.now())
    assert (await store.change(job.job_id, resend(now=clock.now()), check=full)).job == job


async def test_the_books_tell_what_a_day_has_cost_and_which_attempts_are_not_in_it(
    store: JobStore, owners: Owners, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    jobs = [await submitted(store, caller=caller) for caller in (ALICE, ALICE, ALICE, BOB)]
    for job in (jobs[0], jobs[1], jobs[3]):
        await begun(store, job, clock)
    await ended(store, jobs[0], clock, entropy, cost=0.25)
    today = day_of(clock.now())
    running = frozenset({(jobs[1].job_id, 1)})
    assert await owners.books("alice", day=today) == Books(spent_usd=0.25, running=running)
    assert await owners.books("alice", day=today + 1) == Books(spent_usd=0.0, running=running)
    assert await owners.books("carol", day=today) == Books(spent_usd=0.0, running=frozenset())


async def test_a_job_that_its_owners_limit_held_is_found_and_let_in(
    store: JobStore, owners: Owners, submitted: Submitted, clock: Clock, entropy: Entropy
) -> None:
    runs, *waiting = [await submitted(store, caller=named("alice", max_running=1)) for _ in range(4)]
    await begun(store, runs, clock)
    later, no_room = clock.now() + 30.0, still_no_room(now=clock.now())
    for job in reversed(waiting):
        held = await store.change(
            job.job_id, hold(waiting_for=WaitingFor.OWNER_LIMIT, at=later), check=no_room
        )
        assert (held.job.available_at, held.job.waiting_for) == (later, WaitingFor.OWNER_LIMIT)
    assert await owners.held("alice", limit=2) == [job.job_id for job in waiting[:2]]
    assert await owners.held("bob", limit=2) == []

    await ended(store, runs, clock, entropy)
    await store.change(waiting[0].job_id, release(now=clock.now()))
    assert (await begun(store, waiting[0], clock)).waiting_for is None
    assert await owners.held("alice", limit=9) == [job.job_id for job in waiting[1:]]


async def test_the_more_jobs_a_limit_holds_the_more_seldom_each_of_them_tries_again(
    store: JobStore, submitted: Submitted, clock: Clock
) -> None:
    runs, *waiting = [await submitted(store, caller=named("alice", max_running=1)) for _ in range(17)]
    await begun(store, runs, clock)
    decide = hold(waiting_for=WaitingFor.OWNER_LIMIT, at=clock.now())
    for job in waiting:
        await store.change(job.job_id, decide, check=still_no_room(now=clock.now()))
    with pytest.raises(OwnerBusy) as busy:
        await begun(store, waiting[0], clock)
    assert busy.value.wait_seconds > 3 * HOLD_SECONDS


async def test_a_worker_that_waits_for_a_bell_wakes_when_a_held_job_is_let_in(
    store: JobStore, queue: Queue, submitted: Submitted, clock: Clock
) -> None:
    runs, waits = [await submitted(store, caller=named("alice", max_running=1)) for _ in range(2)]
    await begun(store, runs, clock)
    for job in (runs, waits):
        await queue.send(job.job_id, at=clock.now())
    for bell in await queue.receive(limit=2, visibility_seconds=30.0, wait_seconds=0.0):
        await queue.ack(bell)
    decide = hold(waiting_for=WaitingFor.OWNER_LIMIT, at=clock.now() + 3600.0)
    await ring(queue, (await store.change(waits.job_id, decide)).rings)
    async with asyncio.timeout(PATIENCE):
        waiting = asyncio.create_task(queue.receive(limit=1, visibility_seconds=30.0, wait_seconds=3600.0))
        await asyncio.sleep(0)
        let_in = await store.change(waits.job_id, release(now=clock.now()))
        await ring(queue, let_in.rings)
        assert [bell.job_id for bell in await waiting] == [waits.job_id]


async def test_a_job_is_not_held_by_a_limit_that_is_over(
    store: JobStore, submitted: Submitted, clock: Clock
) -> None:
    job = await submitted(store, caller=named("alice", max_running=1, daily_budget_usd=1.0))
    decide = hold(waiting_for=WaitingFor.OWNER_LIMIT, at=clock.now() + 30.0)
    with pytest.raises(RoomToRun):
        await store.change(job.job_id, decide, check=still_no_room(now=clock.now()))
    assert (await store.snapshot(job.job_id)).job.waiting_for is None


async def test_a_job_does_not_start_when_the_day_has_no_money_left(
    store: JobStore, submitted: Submitted, clock: Clock, entropy: Entropy, tick: Callable[[float], None]
) -> None:
    first, second = [await submitted(store, caller=named("alice", daily_budget_usd=0.5)) for _ in range(2)]
    await begun(store, first, clock)
    await ended(store, first, clock, entropy, cost=0.5)
    with pytest.raises(BudgetExhausted) as caught:
        await begun(store, second, clock)
    tick(caught.value.wait_seconds)
    assert (await begun(store, second, clock)).attempt == 1
