"""The store of the jobs is away when a run ends, for longer than the lease: what was paid for is not done again."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.flows.stores import Unsteady

from overnight.domain.job import Status
from overnight.domain.outcome import Ending, Outcome
from overnight.ports import RunOrder, Stop, StorageBusy, StorageFailed


class Away(Unsteady):
    """A store that does not answer so many `calls`."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.calls = 0

    def _answer(self) -> None:
        if self.calls:
            self.calls -= 1
            raise StorageBusy("The store restarts.")


FOR_EVER = 1 << 60


async def past_its_lease(world: Any, store: Away, job: Any, stop: Stop, *, calls: int = 100) -> None:
    """Returns once a run has been told that nobody knows whose the job is."""
    await world.until(job.job_id, "workspace.ready")
    store.calls = calls
    world.clock.time += 20.0
    world.wakeups.announce(f"job:{job.job_id}")
    await stop.wait()


@pytest.mark.parametrize(
    ("outcome", "status", "cost"),
    [
        (Outcome(ending=Ending.DONE, result="paid for", cost_usd=0.5), Status.COMPLETED, 0.5),
        (Outcome(ending=Ending.INTERRUPTED, cost_usd=0.25), Status.QUEUED, 0.25),
    ],
    ids=["it ends", "it goes back"],
)
async def test_an_outcome_waits_for_a_store_that_is_away_past_the_lease(
    world: Any, outcome: Outcome, status: Status, cost: float
) -> None:
    world.store = store = Away(world.store)
    job = await world.submit()

    async def ends(_order: RunOrder, _emit: Any, stop: Stop) -> Outcome:
        await past_its_lease(world, store, job, stop)
        return outcome

    await world.run_next(ends)
    assert store.calls == 0
    seen = await world.job(job.job_id)
    assert (seen.status, seen.attempt, seen.losses, seen.cost_usd) == (status, 1, 0, cost)


async def test_an_outcome_that_waited_is_void_if_the_job_has_moved_on(world: Any) -> None:
    """Others reach the store."""
    others = world.store
    world.store = store = Away(others)
    job = await world.submit()

    async def ends(_order: RunOrder, _emit: Any, stop: Stop) -> Outcome:
        await past_its_lease(world, store, job, stop)
        world.roster.dead.add("worker-1")
        await replace(world.sweep(), store=others).once()
        return Outcome(ending=Ending.DONE, result="too late", cost_usd=0.5)

    await world.run_next(ends)
    assert store.calls == 0
    seen = await world.job(job.job_id)
    assert (seen.status, seen.losses, seen.result, seen.cost_usd) == (Status.QUEUED, 1, None, 0.0)
    assert await world.archives.listing("") == []


async def test_a_worker_that_leaves_does_not_wait_for_a_store_that_is_away(world: Any) -> None:
    world.store = store = Away(world.store)
    job = await world.submit()

    async def ends(_order: RunOrder, _emit: Any, stop: Stop) -> Outcome:
        await past_its_lease(world, store, job, stop, calls=FOR_EVER)
        world.leaving.set()
        return Outcome(ending=Ending.DONE, result="", cost_usd=0.5)

    with pytest.RaisesGroup(StorageBusy):
        async with asyncio.timeout(60):
            await world.run_next(ends)


async def test_a_write_that_the_store_never_takes_is_given_up_while_it_takes_others(
    world: Any, agents: Any
) -> None:
    world.store = store = Away(world.store)
    job = await world.submit()
    change = store.change

    async def never_the_end(job_id: str, decide: Any, **more: Any) -> Any:
        seen = await store.snapshot(job_id)
        after = decide(seen.job, seen.session)
        if after is not None and after.job.status is Status.COMPLETED:
            raise StorageFailed("It is too large.")
        return await change(job_id, decide, **more)

    store.change = never_the_end  # type: ignore[method-assign]
    with pytest.RaisesGroup(StorageFailed):
        await world.run_next(agents.writes("a", "a", agents.done()))
    assert (await world.job(job.job_id)).status is Status.PROCESSING
