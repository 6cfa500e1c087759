"""The small repair that runs all the time: lapsed leases, lost bells, leftovers of the dead. Idempotent."""

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from overnight.domain.errors import JobNotFound, Refused
from overnight.domain.job import Job, Lease, Status
from overnight.domain.retry import RetryPolicy
from overnight.domain.transitions import lapse
from overnight.flows.bells import ring
from overnight.flows.lease import RENEWALS
from overnight.flows.limits import LetIn, nobody
from overnight.flows.workspace import Workspaces
from overnight.ports import Agent, Clock, Entropy, JobIndex, JobStore, Queue, Roster

log = logging.getLogger(__name__)

BELLS_AT_ONCE = 200


def sights_of(lease_seconds: float, *, pause_seconds: float) -> int:
    """How many sweeps in a row, so far apart, must find a lease lapsed: its worker could have renewed it by then."""
    return 1 + math.ceil(lease_seconds / RENEWALS / pause_seconds)


class Left(Enum):
    """What directories of a job are that attempts left behind."""

    NEEDED = auto()
    """The next attempt goes on from them, or the last one is not done with them."""
    SAVED = auto()
    """Nothing of them is needed: an archive has it, or their session is gone."""
    NOT_SAVED = auto()
    """The job is over, but no archive has what it had taken from `unsaved`: that goes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    store: JobStore
    index: JobIndex
    queue: Queue
    agent: Agent
    roster: Roster
    workspaces: Workspaces
    clock: Clock
    entropy: Entropy
    policy: RetryPolicy
    let_in: LetIn = nobody
    sights: int = 2
    suspects: dict[tuple[str, Lease], int] = field(default_factory=dict)
    """How many sweeps in a row have found a job's lease lapsed. A machine that wakes from sleep, or whose store was
    away, finds all of them lapsed, its own included; lost is one that is not renewed within `sights`."""

    async def once(self) -> None:
        """Raises ExceptionGroup of what failed: on a full disk nothing can be written, but room can be made."""
        failed: list[Exception] = []
        for part in (self._take_back_lost_jobs, self._ring_lost_bells, self._clear_leftovers, self._evict):
            try:
                await part()
            except Exception as trouble:  # noqa: BLE001 - raised below; it must not hold up the other parts
                failed.append(trouble)
        if failed:
            raise ExceptionGroup("the sweep", failed)

    async def _evict(self) -> None:
        await self.workspaces.evict(now=self.clock.now())

    async def _take_back_lost_jobs(self) -> None:
        before, lapsed = dict(self.suspects), dict[tuple[str, Lease], int]()
        self.suspects.clear()  # Anew if this fails: what cannot be written now could not be renewed either.
        for job in await self.index.running():
            if job.lease is None:
                continue
            if await asyncio.to_thread(self.roster.is_dead, job.lease.worker):
                await self._take_back(job, dead=True)
            elif job.lease.until <= self.clock.now():
                suspect = job.job_id, job.lease
                lapsed[suspect] = before.get(suspect, 0) + 1
                if lapsed[suspect] >= self.sights:
                    await self._take_back(job, dead=False)
        self.suspects.update(lapsed)

    async def _take_back(self, job: Job, *, dead: bool) -> None:
        decide = lapse(
            attempt=job.attempt,
            now=self.clock.now(),
            policy=self.policy,
            chance=self.entropy.chance(),
            delivery_id=self.entropy.delivery_id(),
            worker_is_dead=dead,
        )
        try:
            change = await self.store.change(job.job_id, decide)
        except Refused:
            return  # Its worker came back, or another sweep was faster.
        if change.job.attempt == job.attempt and change.job.status is Status.PROCESSING:
            return
        log.warning("worker of job %s (attempt %d) is lost", job.job_id, job.attempt)
        await self._reaped([self.workspaces.root(job.job_id, job.attempt)])
        await ring(self.queue, change.rings)
        await self.let_in(job.owner)

    async def _ring_lost_bells(self) -> None:
        """At once: a queue that syncs to a disk then does it for all of them together."""
        now = self.clock.now()
        async with asyncio.TaskGroup() as bells:
            for job_id in await self.index.runnable(now=now, limit=BELLS_AT_ONCE):
                bells.create_task(self.queue.send(job_id, at=now))

    async def _clear_leftovers(self) -> None:
        """Delete directories that no attempt will go on from, after killing what may still run in them."""
        for job_id, roots in (await asyncio.to_thread(self.workspaces.leftovers)).items():
            left = await self._what_is_left(job_id, roots)
            if left is not Left.NEEDED and await self._reaped(roots):
                await self.workspaces.discard(roots, saved=left is Left.SAVED)

    async def _reaped(self, roots: Sequence[Path]) -> bool:
        """Whether nothing runs in them any more. What cannot be ended holds up nothing else; whoever wants to use the
        directory tries again."""
        try:
            for root in roots:
                await self.agent.reap(root)
        except OSError:
            log.exception("what an attempt left running cannot be ended")
            return False
        return True

    async def _what_is_left(self, job_id: str, roots: Sequence[Path]) -> Left:
        try:
            seen = await self.store.snapshot(job_id)
        except JobNotFound:
            return Left.SAVED  # Its session is gone.
        job = seen.job
        if not job.status.final or self.workspaces.is_settling(seen.session):
            return Left.NEEDED
        # A dead letter that was not saved is sent again in what it left, unless other jobs have run in between.
        unsaved = job.status is Status.FAILED and job.archive is None
        if unsaved and await asyncio.to_thread(self.workspaces.go_on_in, roots, seen.session):
            return Left.NEEDED
        # The archive holds it if the last attempt was here: one elsewhere may not have known what was left here.
        last_was_here = self.workspaces.root(job_id, job.attempt) in roots
        return Left.SAVED if job.archive is not None and last_was_here else Left.NOT_SAVED
