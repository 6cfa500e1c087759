"""Deletes the archives that a session has outgrown. What fails is tried again by the sweep; no job fails by it."""

import logging
from dataclasses import dataclass

from overnight.domain.archive_names import archives_of, parse_archive_name
from overnight.domain.errors import JobNotFound, SessionNotFound
from overnight.domain.job import Job
from overnight.domain.retention import RetentionPolicy, StoredArchives, superfluous
from overnight.ports import ArchiveStore, Clock, JobStore, StorageError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    store: JobStore
    archives: ArchiveStore
    clock: Clock
    policy: RetentionPolicy

    async def tidy(self, session_id: str) -> None:
        """Delete what the session does not need any more. Never raises for a store's sake; idempotent."""
        try:
            for name in await self._superfluous(session_id):
                await self.archives.delete(name)
        except SessionNotFound:
            return  # It is being erased, with all its archives.
        except (OSError, StorageError):
            log.exception("could not delete old archives of session %s; it is tried again later", session_id)

    async def _superfluous(self, session_id: str) -> list[str]:
        listed = await self.archives.listing(archives_of(session_id))
        jobs = await self._jobs({archive.name for archive in listed})
        current = (await self.store.session(session_id)).archive
        archives = StoredArchives(
            stored_at={archive.name: archive.stored_at for archive in listed},
            jobs=jobs,
            current=current.name if current else None,
        )
        return superfluous(archives, policy=self.policy, now=self.clock.now())

    async def _jobs(self, names: set[str]) -> dict[str, Job]:
        jobs: dict[str, Job] = {}
        for job_id in {parsed.job_id for name in names if (parsed := parse_archive_name(name)) is not None}:
            try:
                jobs[job_id] = (await self.store.snapshot(job_id)).job
            except JobNotFound:
                continue
        return jobs
