"""How an owner stands in a ledger: counted once each, whatever is noted twice, late, or without knowing whether."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from bench.counted import CountedDocuments
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import Batch, Document, Read
from overnight.adapters.cloudflare.owners import MENDED, Owners
from overnight.adapters.system import SystemEntropy
from overnight.domain.errors import TooManyJobs
from overnight.domain.job import Job, Status, WaitingFor
from overnight.domain.keys import KeyLimits
from overnight.domain.standing import DAY_SECONDS, Standing, room_to_run, room_to_wait
from overnight.ports import StorageFailed

OWNER = "alice"


class Clock:
    def __init__(self) -> None:
        self.time = 10.0 * DAY_SECONDS

    def now(self) -> float:
        return self.time

    @property
    def day(self) -> int:
        return int(self.time // DAY_SECONDS)


class Lossy:
    """The port `Documents`: of some writes the answer is lost, so that the writer does not know."""

    def __init__(self, inner: CountedDocuments) -> None:
        self.inner = inner
        self.lose = 0

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        return await self.inner.read(name, read)

    async def write(self, name: str, batch: Batch) -> bool:
        written = await self.inner.write(name, batch)
        if self.lose:
            self.lose -= 1
            raise StorageFailed("the answer is lost")
        return written


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.documents = Lossy(CountedDocuments(self.clock.now))
        self.counts = self.documents.inner.counts
        self.owners = Owners(self.documents, self.clock)
        self._entropy = SystemEntropy()

    def job(self) -> Job:
        return Job(
            job_id=self._entropy.job_id(),
            session_id=self._entropy.session_id(),
            status=Status.QUEUED,
            created_at=0.0,
            available_at=0.0,
            last_event=1,
            owner=OWNER,
        )

    async def standing(self) -> Standing:
        seen: list[Standing] = []
        await self.owners.reserve(other := self.job(), lambda _, standing: seen.append(standing))
        await self.owners.forget(OWNER, [other.job_id])
        return seen[0]

    async def store(self, job: Job) -> None:
        put = {codec.JOBS + job.job_id: codec.encode(job)}
        await self.documents.write(codec.session_object(job.session_id), Batch(put=put))


@pytest.fixture
def world() -> World:
    return World()


def anything(_job: Job, _standing: Standing) -> None:
    return


def moved(job: Job, status: Status, *, cost: float = 0.0) -> Job:
    attempt = job.attempt + (status is Status.PROCESSING)
    return replace(
        job, status=status, attempt=attempt, last_event=job.last_event + 1, cost_usd=job.cost_usd + cost
    )


async def begun(world: World) -> tuple[Job, Job]:
    """A job that waits, and runs."""
    queued = world.job()
    await world.owners.reserve(queued, anything)
    running = moved(queued, Status.PROCESSING)
    await world.owners.reserve(running, anything)
    return queued, running


async def test_an_end_that_is_noted_again_is_counted_once(world: World) -> None:
    _, running = await begun(world)
    done = moved(running, Status.FAILED, cost=0.25)
    for _ in range(3):
        await world.owners.follow(running, done, reserved=False)
    assert await world.standing() == Standing(queued=0, processing=0, spent_today_usd=0.25, queued_by_all=0)


async def test_an_end_whose_answer_was_lost_is_counted_once(world: World) -> None:
    _, running = await begun(world)
    done = moved(running, Status.COMPLETED, cost=0.25)
    world.documents.lose = 1
    await world.owners.follow(running, done, reserved=False)
    assert await world.standing() == Standing(queued=0, processing=0, spent_today_usd=0.25, queued_by_all=0)


async def test_a_job_that_is_sent_again_costs_what_each_of_its_lives_did(world: World) -> None:
    _, running = await begun(world)
    failed = moved(running, Status.FAILED, cost=0.25)
    await world.owners.follow(running, failed, reserved=False)
    again = moved(failed, Status.QUEUED)
    await world.owners.reserve(again, anything)
    await world.owners.follow(running, failed, reserved=False)  # somebody still notes the first end
    assert (await world.standing()).queued == 1
    rerun = moved(again, Status.PROCESSING)
    await world.owners.reserve(rerun, anything)
    await world.owners.follow(rerun, moved(rerun, Status.COMPLETED, cost=0.5), reserved=False)
    assert await world.standing() == Standing(queued=0, processing=0, spent_today_usd=0.75, queued_by_all=0)


async def test_an_attempt_that_goes_back_costs_too(world: World) -> None:
    _, running = await begun(world)
    back = moved(running, Status.QUEUED, cost=0.1)
    for _ in range(2):
        await world.owners.follow(running, back, reserved=False)
    assert await world.standing() == Standing(queued=1, processing=0, spent_today_usd=0.1, queued_by_all=1)


async def test_a_job_that_its_owners_limit_holds_is_counted_until_it_does_not(world: World) -> None:
    for status in (Status.PROCESSING, Status.CANCELLED):
        queued = world.job()
        held = replace(queued, waiting_for=WaitingFor.OWNER_LIMIT)
        for each in (queued, held, held):
            await world.owners.reserve(each, anything)
        assert await world.standing() == Standing(
            queued=1, processing=0, spent_today_usd=0.0, queued_by_all=1, held=1
        )
        gone = replace(moved(held, status), waiting_for=None)
        if not status.final:
            await world.owners.reserve(gone, anything)
            gone = moved(gone, Status.COMPLETED)
        await world.owners.follow(held, gone, reserved=False)
        assert (await world.standing()).held == 0


async def test_a_held_job_that_was_noted_and_never_written_is_found(world: World) -> None:
    queued = world.job()
    await world.owners.reserve(replace(queued, waiting_for=WaitingFor.OWNER_LIMIT), anything)
    await world.store(queued)
    world.clock.time += 60.0
    check = room_to_wait(KeyLimits(max_queued=1), max_queued_by_all=9, now=0.0)
    with pytest.raises(TooManyJobs):
        await world.owners.reserve(world.job(), check)
    stands = await world.standing()
    assert (stands.queued, stands.held) == (1, 0)


async def test_what_was_spent_on_another_day_is_not_of_today(world: World) -> None:
    for day in range(4):
        world.clock.time += DAY_SECONDS
        _, running = await begun(world)
        await world.owners.follow(running, moved(running, Status.COMPLETED, cost=day + 1), reserved=False)
    today = world.clock.day
    spent = [(await world.owners.books(OWNER, day=today - ago)).spent_usd for ago in range(3)]
    assert spent == [4.0, 3.0, 0.0]


async def test_the_cost_of_an_end_that_nobody_noted_is_found_when_a_limit_refuses(world: World) -> None:
    """Its worker died between the job's end and the note."""
    _, running = await begun(world)
    await world.store(moved(running, Status.COMPLETED, cost=0.25))
    world.clock.time += 60.0
    check = room_to_wait(KeyLimits(max_queued=0, daily_budget_usd=1.0), max_queued_by_all=9, now=0.0)
    with pytest.raises(TooManyJobs):
        await world.owners.reserve(world.job(), check)
    assert await world.standing() == Standing(queued=0, processing=0, spent_today_usd=0.25, queued_by_all=0)


async def test_mending_costs_no_more_the_more_are_refused_and_reaches_every_entry(world: World) -> None:
    jobs = [world.job() for _ in range(2 * MENDED + 1)]
    for job in jobs:
        await world.owners.reserve(job, anything)
    for job in jobs[:-1]:
        await world.store(job)  # the last one's writer died
    check = room_to_wait(KeyLimits(max_queued=len(jobs)), max_queued_by_all=999, now=0.0)
    costs = []
    for _ in range(4):
        world.clock.time += 10.0
        before = world.counts.requests
        with pytest.raises(TooManyJobs):
            await world.owners.reserve(world.job(), check)
        costs.append(world.counts.requests - before)
    assert sorted(costs)[:2] == [2, 2]  # most refusals mend nothing
    for _ in range(4):
        world.clock.time += 60.0
        try:
            await world.owners.reserve(world.job(), check)
        except TooManyJobs:
            continue
        return
    pytest.fail("the entry without a job was never looked at")


async def test_a_place_that_nobody_has_is_found_free_however_many_wait(world: World) -> None:
    """A fleet whose owners had many waiting jobs looked after those, and stood still."""
    waiting = [replace(world.job(), max_running=1) for _ in range(10 * MENDED)]
    for job in waiting:
        await world.owners.reserve(job, anything)
        await world.store(job)
    _, running = await begun(world)
    await world.store(moved(running, Status.COMPLETED))  # and the note of it was lost
    world.clock.time += 60.0
    await world.owners.reserve(moved(waiting[0], Status.PROCESSING), room_to_run(now=0.0))
    assert (await world.standing()).processing == 1


async def test_a_check_costs_no_more_the_more_jobs_a_day_has_seen(world: World) -> None:
    async def cost_of_a_life() -> tuple[int, int]:
        before = world.counts.requests, world.counts.rows_written
        _, running = await begun(world)
        await world.owners.follow(running, moved(running, Status.COMPLETED, cost=0.01), reserved=False)
        return world.counts.requests - before[0], world.counts.rows_written - before[1]

    assert (await cost_of_a_life())[0] == 6
    for _ in range(300):
        assert await cost_of_a_life() == (6, 7)  # an entry that goes leaves its version
    assert (await world.standing()).spent_today_usd == pytest.approx(3.01)
    (held,) = (await world.documents.read(codec.owner_object(OWNER), Read(keys=["tally"]))).values()
    assert len(held.body) < 200


steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), max_size=40)


@settings(max_examples=60, deadline=None)
@given(steps)
async def test_whatever_happens_to_jobs_the_tally_is_their_sum(taken: list[tuple[int, int, bool]]) -> None:
    """Each step moves one of three jobs on; its note is perhaps made again after all the others."""
    world, late = World(), []
    jobs = [world.job() for _ in range(3)]
    for job in jobs:
        await world.owners.reserve(job, anything)
    for number, cents, again in taken:
        before = jobs[number]
        match before.status:
            case Status.QUEUED:
                after = moved(before, Status.PROCESSING)
            case Status.FAILED:
                after = moved(before, Status.QUEUED)
            case _:
                ends = Status.FAILED if cents % 2 else Status.QUEUED
                after = moved(before, ends, cost=cents / 100)
        reserved = after.status is Status.PROCESSING or before.status is Status.FAILED
        if reserved:
            await world.owners.reserve(after, anything)
        await world.owners.follow(before, after, reserved=reserved)
        jobs[number] = after
        late += [(before, after, reserved)] if again else []
    for before, after, reserved in late:
        latest = next(job for job in jobs if job.job_id == after.job_id)
        if latest.status is not Status.FAILED or after.status is Status.FAILED:
            await world.owners.follow(before, after, reserved=reserved)
    statuses, stands = [job.status for job in jobs], await world.standing()
    assert stands.queued == statuses.count(Status.QUEUED)
    assert stands.processing == statuses.count(Status.PROCESSING)
    assert stands.spent_today_usd == pytest.approx(sum(job.cost_usd for job in jobs))
