"""While a run lasts, its files and conversation are stored now and then, for a next attempt on any machine.

If the worker dies after
- storing a checkpoint: nothing points at it, and retention sweeps it;
- pointing the job at it: the one before is left over, and retention sweeps that.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from overnight.archive import ArchiveRefused
from overnight.domain.errors import Refused
from overnight.domain.job import Job, Session
from overnight.domain.transitions import checkpoint
from overnight.flows.event_log import EventLog
from overnight.flows.saving import Saving, SecretsInArchive
from overnight.flows.workspace import Workspaces
from overnight.ports import ArchiveConflict, ArchiveTooLarge, Clock, JobStore, StorageError

log = logging.getLogger(__name__)

LAST_SECONDS = 10.0
"""For the checkpoint before a job goes back. With the 10 s that an agent may take to stop, a worker has left
within the 30 s that supervisors grant; what it could not store by then is on this machine only."""

Trouble = (OSError, StorageError, ArchiveRefused, ArchiveConflict)


@dataclass(slots=True, kw_only=True)
class Checkpoints:
    """Those of one attempt, one after the other. `seconds` is the pause between two; 0: there are none."""

    store: JobStore
    workspaces: Workspaces
    clock: Clock
    job: Job
    session: Session
    events: EventLog
    seconds: float
    _number: int = 0
    _pointed_at: str | None = field(init=False)

    def __post_init__(self) -> None:
        self._pointed_at = self.job.checkpoint.archive.name if self.job.checkpoint else None

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Make them in the background while the block runs. At its end none is under way."""
        async with asyncio.TaskGroup() as tasks:
            flow = tasks.create_task(self._flow())
            try:
                yield
            finally:
                flow.cancel()

    async def last(self) -> None:
        """Before the job goes back, when every process of the run is dead. Raises Refused."""
        if not self.seconds:
            return
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self._make(settled=True)
        except TimeoutError:
            self._tell("timeout")

    async def drop(self) -> None:
        """The job is over, and its archive holds all of it."""
        if self._number or self.job.checkpoint:
            await self.workspaces.drop_checkpoints(self.job)

    async def _flow(self) -> None:
        while self.seconds:
            await asyncio.sleep(self.seconds)
            try:
                await self._make(settled=False)
            except Refused:
                return  # The attempt is stale: keeping the lease finds out too, and ends the run.

    async def _make(self, *, settled: bool) -> None:
        """Raises Refused."""
        try:
            if await self.workspaces.unchanged(self.job):
                return
            self._number += 1
            saving = self.workspaces.checkpoint(self.job, self.session, self._number, settled=settled)
            await self._store_and_point(saving)
        except Refused:
            raise
        except Exception as trouble:
            # Whatever it is: a checkpoint must not cost the run that it is to protect.
            log.warning("could not make a checkpoint of job %s", self.job.job_id, exc_info=True)
            self._tell(_reason(trouble))

    async def _store_and_point(self, saving: Saving) -> None:
        archive = (await saving.store()).archive
        decide = checkpoint(archive, attempt=self.job.attempt, now=self.clock.now())
        try:
            await self.events.flush()  # What the run told before comes before this.
            await self.store.change(self.job.job_id, decide)
        except Refused:
            await self.workspaces.forget(archive.name)
            raise
        before, self._pointed_at = self._pointed_at, archive.name
        await saving.adopt()
        if before is not None:
            await self.workspaces.forget(before)

    def _tell(self, reason: str) -> None:
        self.events.emit("checkpoint.failed", {"reason": reason})


def _reason(trouble: Exception) -> str:
    if isinstance(trouble, SecretsInArchive):
        return "secrets"
    if isinstance(trouble, ArchiveTooLarge):
        return "too_large"
    return "storage" if isinstance(trouble, Trouble) else "internal"
