"""The worker: takes a bell whenever a slot is free, and outlives whatever a run does."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from overnight.flows.run_job import Runner
from overnight.ports import Bell, Queue

T = TypeVar("T")

log = logging.getLogger(__name__)

VISIBILITY_SECONDS = 30.0
"""A bell that was received but led to no claim (the worker died in between) rings again after this."""
WAIT_SECONDS = 20.0
ERROR_PAUSE_SECONDS = 1.0


class Idleness:
    """How long no job has run here. `limit` is when that is too long: never, if it is None."""

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._running = 0
        self._since = asyncio.get_running_loop().time()

    @property
    def over(self) -> bool:
        quiet = asyncio.get_running_loop().time() - self._since
        return self._limit is not None and self._running == 0 and quiet >= self._limit

    @contextlib.contextmanager
    def interrupted(self) -> Iterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._since = asyncio.get_running_loop().time()


async def work(
    runner: Runner,
    queue: Queue,
    *,
    concurrency: int,
    leaving: asyncio.Event,
    idle_seconds: float | None = None,
) -> None:
    """Run jobs, at most `concurrency` at once, until `leaving` is set or none has run for `idle_seconds`; returns
    when the last one has ended."""
    slots, idleness = asyncio.Semaphore(concurrency), Idleness(idle_seconds)
    wait = WAIT_SECONDS if idle_seconds is None else min(WAIT_SECONDS, idle_seconds)
    async with asyncio.TaskGroup() as runs:
        while not leaving.is_set() and not idleness.over:
            if not await _unless(leaving, slots.acquire()):
                break
            bell = await _unless(leaving, _next_bell(queue, wait))
            if bell is None:
                slots.release()
            else:
                runs.create_task(_run(runner, bell, leaving, slots, idleness))


async def _run(
    runner: Runner, bell: Bell, leaving: asyncio.Event, slots: asyncio.Semaphore, idleness: Idleness
) -> None:
    try:
        with idleness.interrupted():
            await runner.run(bell, leaving=leaving)
    except Exception:
        # One broken run must not take the others down. Its lease lapses, and the sweep brings the job back.
        log.exception("the run of job %s broke", bell.job_id)
    finally:
        slots.release()


async def _next_bell(queue: Queue, wait_seconds: float) -> Bell | None:
    try:
        bells = await queue.receive(limit=1, visibility_seconds=VISIBILITY_SECONDS, wait_seconds=wait_seconds)
    except Exception:
        # Whatever is wrong with a queue must not take down the runs that are under way.
        log.exception("could not receive from the queue")
        await asyncio.sleep(ERROR_PAUSE_SECONDS)
        return None
    return bells[0] if bells else None


async def every(
    seconds: float, act: Callable[[], Awaitable[None]], *, what: str, leaving: asyncio.Event
) -> None:
    """Call `act` now and then again `seconds` after each end, until `leaving` is set."""
    while not leaving.is_set():
        try:
            await act()
        except Exception:
            # A repair that fails today must be tried again tomorrow, whatever the reason.
            log.exception("%s failed", what)
        await _unless(leaving, asyncio.sleep(seconds))


async def _unless(leaving: asyncio.Event, work: Awaitable[T]) -> T | None:
    """The result of `work`, or None if `leaving` is set first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(leaving.wait())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
