"""What could not be stored at the end of its job is stored when the store takes it after all.

The session's pointer then moves to it, if nothing has come after that job. Its directory is held meanwhile, so no
other process can take, delete or store it; a job of the session that comes calls the storing off, and goes on in it.
If the worker dies after
- storing the archive: nothing points at it. The next try stores the same bytes again, or retention deletes it;
- moving the pointer: the directory is not in the way, and the next round deletes it.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field

from overnight.archive import ArchiveRefused, remove_tree
from overnight.domain.archive_names import archive_name
from overnight.domain.errors import JobNotFound, Refused
from overnight.domain.job import Job, Session, Snapshot
from overnight.domain.late import saved_late, still_to_save
from overnight.flows.publishing import publish
from overnight.flows.retracting import retract
from overnight.flows.saving import Saved, SecretsInArchive
from overnight.flows.telling import told_saved
from overnight.flows.unsaved import InUse, Unsaved, held
from overnight.flows.workspace import Workspaces
from overnight.ports import ArchiveConflict, ArchiveMissing, Clock, JobStore, StorageError

log = logging.getLogger(__name__)

TROUBLES = (OSError, ArchiveRefused, ArchiveConflict, ArchiveMissing, SecretsInArchive)
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0
"""Seconds between two tries of one workspace: packing it again costs more than looking."""
LOOK_SECONDS = 2.0
"""Between two looks at a session whose workspace is being stored. Its next job waits for so long at most."""


@dataclass(slots=True, kw_only=True)
class LateSaving:
    """`pauses` holds, of each place that was tried, when it is next and the pause after that."""

    store: JobStore
    workspaces: Workspaces
    clock: Clock
    look_seconds: float = LOOK_SECONDS
    pauses: dict[str, tuple[float, float]] = field(default_factory=dict)

    async def once(self) -> None:
        found = await asyncio.to_thread(self.workspaces.unsaved.all)
        first = (0.0, FIRST_PAUSE)
        self.pauses = {unsaved.name: self.pauses.get(unsaved.name, first) for unsaved in found}
        for unsaved in found:
            due, pause = self.pauses[unsaved.name]
            now = self.clock.now()
            if due <= now:
                self.pauses[unsaved.name] = (now + pause, min(2 * pause, LONGEST_PAUSE))
                try:
                    await self._hold_and_look(unsaved)
                except TROUBLES as trouble:
                    log.warning("the workspace %s still cannot be stored: %s", unsaved.name, trouble)

    async def _hold_and_look(self, unsaved: Unsaved) -> None:
        with contextlib.ExitStack() as holding:
            try:
                await asyncio.to_thread(holding.enter_context, held(unsaved.place))
            except (InUse, FileNotFoundError):
                return  # Another process is at it, or a job has taken it.
            await self._look_after(unsaved)

    async def _look_after(self, unsaved: Unsaved) -> None:
        try:
            seen = await self.store.snapshot(unsaved.job_id)
        except JobNotFound:
            return  # The session is erased, and the housekeeping deletes what is kept of it.
        if seen.job.archive == archive_name(seen.job) and seen.job.attempt == unsaved.attempt:
            if seen.session.archive_name == seen.job.archive:
                await self._settle(unsaved, seen.job, seen.session)
            else:  # The session has gone on from it.
                await asyncio.to_thread(remove_tree, unsaved.place)
        elif await self._is_next(unsaved, seen):
            await self._save(unsaved, seen.job, seen.session)

    async def _is_next(self, unsaved: Unsaved, seen: Snapshot) -> bool:
        follows = await asyncio.to_thread(unsaved.follows, seen.session.archive_name)
        return follows and still_to_save(
            seen.job, seen.session, attempt=unsaved.attempt, base=seen.session.archive_name
        )

    async def _save(self, unsaved: Unsaved, job: Job, session: Session) -> None:
        saved = await self._stored(unsaved, job, session)
        if saved is None:
            await retract(job, store=self.store, workspaces=self.workspaces)
        elif await self._point(unsaved, job, session, saved):
            await self._settle(unsaved, job, session)
            await publish(job, store=self.store, workspaces=self.workspaces)
        else:
            await self.workspaces.forget(archive_name(job))

    async def _stored(self, unsaved: Unsaved, job: Job, session: Session) -> Saved | None:
        """None: it may not become the session's archive any more, and the storing was called off."""
        storing = asyncio.ensure_future(self.workspaces.saving_late(unsaved, job, session).store())
        overtaken = asyncio.ensure_future(self._until_overtaken(unsaved))
        try:
            await asyncio.wait({storing, overtaken}, return_when=asyncio.FIRST_COMPLETED)
            return await storing if storing.done() else None
        finally:
            for task in (storing, overtaken):
                task.cancel()
            await asyncio.gather(storing, overtaken, return_exceptions=True)

    async def _until_overtaken(self, unsaved: Unsaved) -> None:
        """Returns once a job of the session has come, here or elsewhere, or the session is being erased."""
        is_next = True
        while is_next:
            await asyncio.sleep(self.look_seconds)
            try:
                is_next = await self._is_next(unsaved, await self.store.snapshot(unsaved.job_id))
            except JobNotFound:
                return
            except (StorageError, OSError):
                log.warning("could not look for a job after %s", unsaved.name, exc_info=True)

    async def _settle(self, unsaved: Unsaved, job: Job, session: Session) -> None:
        """The job points at the archive: if retention had seen it before that, this tree is all there is of it."""
        if not await self.workspaces.is_stored(job):
            await self.workspaces.saving_late(unsaved, job, session).store()
        await asyncio.to_thread(remove_tree, unsaved.place)

    async def _point(self, unsaved: Unsaved, job: Job, session: Session, saved: Saved) -> bool:
        decide = saved_late(
            saved.archive,
            attempt=unsaved.attempt,
            base=session.archive_name,
            now=self.clock.now(),
            told=told_saved(saved),
        )
        try:
            change = await self.store.change(job.job_id, decide)
        except Refused:
            return False
        return change.job.archive == saved.archive.name
