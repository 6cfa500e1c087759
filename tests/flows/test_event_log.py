"""Events reach the store in the order in which they were noted."""

import asyncio
from typing import Any

import pytest

from overnight.domain import transitions
from overnight.domain.redaction import Redactor
from overnight.flows.event_log import BATCH_BYTES, EventLog
from overnight.ports import StorageBusy, StorageFailed


class Slow:
    """A store whose first change takes until `answers` is set, and may fail then."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._first = True
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self.trouble: Exception | None = None

    async def change(self, *given: Any, **more: Any) -> Any:
        first, self._first = self._first, False
        if first:
            self.asked.set()
            await self.answers.wait()
            if self.trouble is not None:
                raise self.trouble
        return await self._store.change(*given, **more)


@pytest.mark.parametrize("trouble", [None, StorageBusy("busy")])
async def test_a_flush_waits_for_the_one_before_it(world: Any, trouble: Exception | None) -> None:
    job = await world.submit()
    start = transitions.start(worker="w", now=world.clock.now(), lease_seconds=15.0, isolation="test")
    job, slow = (await world.store.change(job.job_id, start)).job, Slow(world.store)
    slow.trouble = trouble
    log = EventLog(slow, world.clock, job, Redactor())  # type: ignore[arg-type]  # a store that can only change
    log.emit("agent.text", {"text": "one"})
    first = asyncio.create_task(log.flush())
    await slow.asked.wait()
    log.emit("agent.text", {"text": "two"})
    second = asyncio.create_task(log.flush())
    await asyncio.sleep(0)
    slow.answers.set()
    await asyncio.wait([first, second])
    assert first.exception() is trouble
    assert [told["text"] for told in await world.told(job.job_id, "agent.text")] == ["one", "two"]


class Small:
    """A store that takes no more than so many bytes at once."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def change(self, job_id: str, decide: Any) -> Any:
        def small(job: Any, session: Any) -> Any:
            change = decide(job, session)
            if sum(len(event.data["text"]) for event in change.events) > BATCH_BYTES:
                raise StorageFailed("too much")
            return change

        return await self._store.change(job_id, small)


async def test_what_gathered_in_an_outage_is_written_in_pieces(world: Any) -> None:
    """Else it would be refused for its size, again and again, and grow."""
    job = await world.submit()
    start = transitions.start(worker="w", now=world.clock.now(), lease_seconds=15.0, isolation="test")
    job = (await world.store.change(job.job_id, start)).job
    log = EventLog(Small(world.store), world.clock, job, Redactor())  # type: ignore[arg-type]  # it can only change
    texts = [str(number) * (BATCH_BYTES // 4) for number in range(9)]
    for text in texts:
        log.emit("agent.text", {"text": text})
    await log.flush()
    assert [told["text"] for told in await world.told(job.job_id, "agent.text")] == texts
