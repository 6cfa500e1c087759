"""What a worker outlives, and how it holds on to a job."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.waiting import until

from overnight.adapters.system import SystemClock
from overnight.domain import transitions
from overnight.domain.job import Status
from overnight.flows.lease import Holder, StopReason
from overnight.ports import StorageBusy
from overnight.worker.loop import work


class BreaksOnce:
    """A queue with a bug: its second answer is an error that no queue promises."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._asked = 0
        self.asked_again = asyncio.Event()

    async def receive(self, **how: Any) -> Any:
        self._asked += 1
        if self._asked == 2:
            raise RuntimeError("a bug")
        if self._asked == 3:
            self.asked_again.set()
        return await self._queue.receive(**how)


async def test_a_queue_that_breaks_takes_no_run_down(world: Any, agents: Any) -> None:
    job, queue, leaving = await world.submit(), BreaksOnce(world.queue), asyncio.Event()

    async def outlasts(_order: Any, _emit: Any, _stop: Any) -> Any:
        await queue.asked_again.wait()
        return agents.done()

    world.agent.acts.append(outlasts)
    worker = asyncio.create_task(work(world.runner(), queue, concurrency=2, leaving=leaving))  # type: ignore[arg-type]
    await world.until(job.job_id, "job.completed")
    leaving.set()
    await worker
    assert (await world.job(job.job_id)).status is Status.COMPLETED


class Waits:
    """Wakeups that note how long somebody wants to wait, and let that time pass at once."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.asked: list[float] = []

    @contextmanager
    def subscribe(self, _topic: str) -> Iterator["Waits"]:
        yield self

    async def wait(self, seconds: float) -> bool:
        self.asked.append(seconds)
        self._clock.time += seconds
        await asyncio.sleep(0)
        return False


class Away:
    async def change(self, *_given: Any) -> Any:
        raise StorageBusy("away")


async def test_a_store_that_is_away_is_not_stormed_until_the_lease_is_over(world: Any) -> None:
    start = transitions.start(worker="w", now=world.clock.now(), lease_seconds=15.0, isolation="test")
    job = (await world.store.change((await world.submit()).job_id, start)).job
    world.clock.time += 5.0
    waits = Waits(world.clock)
    holder = Holder(Away(), waits, world.clock, 15.0)  # type: ignore[arg-type]  # all of them that it needs
    async with asyncio.timeout(10), holder.hold(job, leaving=asyncio.Event()) as stop:
        await stop.wait()
    assert stop.reason is StopReason.UNSURE
    assert len(waits.asked) <= 12, "ten seconds of the lease were left"


class Hangs:
    async def change(self, *_given: Any) -> Any:
        await asyncio.Event().wait()

    snapshot = change


async def test_a_renewal_that_hangs_does_not_keep_the_run_past_its_lease(world: Any) -> None:
    clock, seconds = SystemClock(), 0.3
    start = transitions.start(worker="w", now=clock.now(), lease_seconds=seconds, isolation="test")
    job = (await world.store.change((await world.submit()).job_id, start)).job
    holder = Holder(Hangs(), world.wakeups, clock, seconds)  # type: ignore[arg-type]  # all of them that it needs
    leaving = asyncio.Event()
    async with asyncio.timeout(10), holder.hold(job, leaving=leaving) as stop:
        await stop.wait()
        assert (stop.reason, stop.worth_waiting) == (StopReason.UNSURE, True)
        leaving.set()
        await until(lambda: not stop.worth_waiting)
