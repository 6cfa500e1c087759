"""Holding a job: the lease is renewed, and the run is told to stop for whichever reason comes first."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

from overnight.domain.errors import Refused
from overnight.domain.job import Job, Status
from overnight.domain.transitions import renew
from overnight.ports import Clock, JobStore, StorageError, Wakeups

log = logging.getLogger(__name__)


RENEWALS = 3
"""In the length of a lease: a worker that lives has renewed its own within a third of it."""


class StopReason(StrEnum):
    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    UNSURE = "unsure"
    """The lease is over and the store does not answer: another attempt may have the job by now, and run beside it."""
    LOST = "lost"
    """The job has moved on: whatever this attempt did is void."""


class RunStop:
    """Tells a run to stop, once; the first reason counts, except that a lost lease overrules every other.

    `worth_waiting`: the store is away and this worker stays, so what the run has come to can wait for the store.
    """

    def __init__(self) -> None:
        self._set = asyncio.Event()
        self.reason: StopReason | None = None
        self.away = self._leaving = False

    @property
    def worth_waiting(self) -> bool:
        return self.away and not self._leaving

    def set(self, reason: StopReason) -> None:
        self._leaving = self._leaving or reason is StopReason.SHUTDOWN
        if self.reason is None or reason is StopReason.LOST:
            self.reason = reason
        self._set.set()

    def is_set(self) -> bool:
        return self._set.is_set()

    async def wait(self) -> None:
        await self._set.wait()


class Holder:
    """Keeps leases alive for one worker. While the store does not answer it is asked five times in the time between two
    renewals, until it says who has the job."""

    def __init__(self, store: JobStore, wakeups: Wakeups, clock: Clock, lease_seconds: float) -> None:
        self._store = store
        self._wakeups = wakeups
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._pause = lease_seconds / RENEWALS
        self._margin = lease_seconds - self._pause

    @asynccontextmanager
    async def hold(self, job: Job, *, leaving: asyncio.Event) -> AsyncIterator[RunStop]:
        """Renew the job's lease until the block ends. The stop is set by a cancel, a shutdown or a loss."""
        stop = RunStop()
        async with asyncio.TaskGroup() as tasks:
            watchers = [
                tasks.create_task(self._renew(job, stop)),
                tasks.create_task(set_after(leaving.wait(), stop, StopReason.SHUTDOWN)),
            ]
            try:
                yield stop
            finally:
                for watcher in watchers:
                    watcher.cancel()

    async def _renew(self, job: Job, stop: RunStop) -> None:
        until = job.lease.until if job.lease else self._clock.now()
        with self._wakeups.subscribe(f"job:{job.job_id}") as changes:
            while stop.reason is not StopReason.LOST:
                now, away = self._clock.now(), False
                try:
                    # A call may hang, and the end of the lease must stop the run all the same.
                    async with asyncio.timeout(max(until - now, self._pause)):
                        seen = await self._seen(job, renew_it=now >= until - self._margin)
                    until = seen.lease.until if seen.lease else until
                    _heed(seen, job.attempt, stop)
                except Refused:
                    stop.set(StopReason.LOST)
                except (StorageError, TimeoutError):
                    away = True
                    if not stop.away:  # Said once, and not for as long as the store is away.
                        log.exception("could not renew the lease of job %s; it is tried again", job.job_id)
                    if self._clock.now() >= until:
                        stop.set(StopReason.UNSURE)
                stop.away = away
                left = until - self._margin - self._clock.now()
                await changes.wait(max(left, self._pause / 5))

    async def _seen(self, job: Job, *, renew_it: bool) -> Job:
        if not renew_it:
            return (await self._store.snapshot(job.job_id)).job
        decide = renew(attempt=job.attempt, now=self._clock.now(), lease_seconds=self._lease_seconds)
        return (await self._store.change(job.job_id, decide)).job


def _heed(seen: Job, attempt: int, stop: RunStop) -> None:
    if seen.attempt != attempt or seen.status is not Status.PROCESSING:
        stop.set(StopReason.LOST)
    elif seen.cancel_requested_at is not None:
        stop.set(StopReason.CANCEL)


async def set_after(signal: Coroutine[Any, Any, Any], stop: RunStop, reason: StopReason) -> None:
    await signal
    stop.set(reason)
