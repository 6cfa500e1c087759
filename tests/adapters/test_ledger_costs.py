"""What a ledger asks and writes for each step of a job, and that what it remembers is never believed alone."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import pytest
from bench.counted import Counts
from bench.story import Story, told

from overnight.adapters.cloudflare import codec
from overnight.adapters.cloudflare.documents import Batch, Document, Read
from overnight.adapters.cloudflare.ledger import LedgerStore
from overnight.adapters.cloudflare.polling import PollingWakeups
from overnight.adapters.cloudflare.turns import no_turns
from overnight.domain.errors import JobNotFound, StaleAttempt, TooManyJobs
from overnight.domain.job import Status
from overnight.domain.keys import KeyLimits
from overnight.domain.retry import RetryPolicy
from overnight.domain.standing import room_to_wait
from overnight.domain.transitions import Decide, Note, cancel, lapse, record, start
from overnight.ports import StorageFailed

MOST = {
    "accept": (5, 10),
    "claim": (8, 4),
    "a bell in vain": (3, 0),
    "renew": (1, 1),
    "write of events": (1, 2),
    "two events": (1, 3),
    "checkpoint": (1, 2),
    "alarm": (1, 1),
    "waiting alarm": (1, 1),
    "finish": (9, 8),
    "webhook": (5, 2),
}
"""Requests to objects, and rows written. More of either makes every job dearer (docs/explain/scale.md)."""


@pytest.mark.parametrize("step", MOST)
def test_a_step_costs_no_more_than_it_did(step: str) -> None:
    spent = told()[step]
    assert (spent.reads + spent.writes + spent.inner, spent.rows_written) == MOST[step]


def test_the_story_has_no_other_steps() -> None:
    assert set(told()) == set(MOST)


def test_a_job_is_mirrored_three_times_and_rings_without_the_worker() -> None:
    mirrored = {step for step, spent in told().items() if spent.kv_writes}
    assert mirrored == {"accept", "claim", "finish"}
    assert {step for step, spent in told().items() if spent.bells} == {"accept", "finish", "waiting alarm"}


@pytest.fixture
async def story() -> Story:
    """A job that runs, with what its worker remembers of it."""
    made = Story()
    await made.accept("job")
    await made.claim("job")
    return made


async def cost(story: Story, step: str, *args: object) -> Counts:
    await story.counted(step, lambda: getattr(story, step)("job", *args))
    return story.costs[step]


def taken_back(story: Story) -> Decide:
    return lapse(
        attempt=1,
        now=story.clock.now(),
        policy=RetryPolicy(),
        chance=0.0,
        delivery_id="msg",
        worker_is_dead=True,
    )


async def test_what_another_has_written_is_seen_by_the_next_write(story: Story) -> None:
    await story.front.change("job", cancel(now=story.clock.now(), delivery_id="msg"))
    told = await story.worker.change("job", record([Note("agent.text", 1.0, {})], attempt=1))
    assert told.job.cancel_requested_at is not None
    assert [event.seq for event in await story.worker.events("job")] == [1, 2, 3, 4]


async def test_a_worker_that_has_lost_its_job_changes_nothing(story: Story) -> None:
    await story.front.change("job", taken_back(story))
    with pytest.raises(StaleAttempt):
        await story.renew("job")
    assert (await story.worker.snapshot("job")).job.status is Status.QUEUED


async def test_a_session_that_was_erased_elsewhere_is_gone(story: Story) -> None:
    await story.front.erase("s")
    with pytest.raises(JobNotFound):
        await story.renew("job")
    assert await story.worker.deliveries("job") == []
    assert await story.worker.events("job") == []


class Deaf:
    """The port `Documents`: the answer to its next write of the session is lost, and with `instead` the write too."""

    def __init__(self, story: Story) -> None:
        self._edge = story.edge
        self.deaf = False
        self.instead: Callable[[], Awaitable[object]] | None = None

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        return await self._edge.read(name, read)

    async def write(self, name: str, batch: Batch) -> bool:
        if not self.deaf or name != codec.session_object("s"):
            return await self._edge.write(name, batch)
        self.deaf = False
        await (self._edge.write(name, batch) if self.instead is None else self.instead())
        raise StorageFailed("the answer is lost")


@pytest.fixture
def deaf(story: Story) -> Deaf:
    documents = Deaf(story)
    story.worker = LedgerStore(documents, PollingWakeups(1.0), story.clock, no_turns)
    return documents


async def test_a_write_whose_answer_is_lost_is_looked_up_and_made_once(story: Story, deaf: Deaf) -> None:
    await story.renew("job")
    deaf.deaf = True
    await story.tell("job", 1)
    assert [event.seq for event in await story.worker.events("job")] == [1, 2, 3]
    assert (await cost(story, "renew")).requests == 1
    deaf.deaf = True
    await story.finish("job")
    assert (await story.worker.snapshot("job")).job.status is Status.COMPLETED


async def nothing() -> None:
    pass


@pytest.mark.parametrize("overtaken", [False, True])
async def test_a_write_that_did_not_arrive_has_failed(story: Story, deaf: Deaf, overtaken: bool) -> None:
    await story.renew("job")
    cancelled = cancel(now=story.clock.now(), delivery_id="msg")
    deaf.instead = partial(story.front.change, "job", cancelled) if overtaken else nothing
    deaf.deaf = True
    with pytest.raises(StorageFailed):
        await story.tell("job", 1)
    kinds = [event.type for event in await story.worker.events("job")]
    assert "agent.text" not in kinds
    await story.tell("job", 1)
    assert [event.type for event in await story.worker.events("job")] == [*kinds, "agent.text"]


async def test_a_job_that_ran_long_ago_is_remembered_no_more(story: Story) -> None:
    assert (await cost(story, "renew")).requests == 1
    await story.finish("job")
    writes = story.edge.counts.writes
    with pytest.raises(StaleAttempt):
        await story.renew("job")
    assert story.edge.counts.writes == writes, "it was tried by memory"


async def test_what_a_rule_refuses_by_memory_is_asked_for_anew(story: Story) -> None:
    await story.front.change("job", taken_back(story))
    again = start(worker="w", now=story.clock.now(), lease_seconds=15.0, isolation="namespace")
    assert (await story.worker.change("job", again)).job.attempt == 2


class Frozen:
    """The port `Documents`: a worker stands still before it writes a start, and its room is taken back."""

    def __init__(self, story: Story) -> None:
        self._story = story

    async def read(self, name: str, read: Read) -> Mapping[str, Document]:
        return await self._story.edge.read(name, read)

    async def write(self, name: str, batch: Batch) -> bool:
        if name == codec.session_object("s"):
            self._story.clock.time += 60.0
            nobody = room_to_wait(KeyLimits(max_queued=0), max_queued_by_all=9, now=0.0)
            with contextlib.suppress(TooManyJobs):
                await self._story.front._owners.reserve(
                    (await self._story.front.snapshot("other")).job, nobody
                )
        return await self._story.edge.write(name, batch)


async def test_a_start_that_comes_long_after_its_room_was_made_is_counted_all_the_same() -> None:
    story = Story()
    await story.accept("job")
    await story.accept("other", "t")
    story.worker = LedgerStore(Frozen(story), PollingWakeups(1.0), story.clock, no_turns)
    await story.claim("job")
    books = await story.front.books("alice", day=0)
    assert books.running == {("job", 1)}
