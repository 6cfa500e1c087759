"""The directories of an attempt: restored before it, saved as an archive after it, kept while it may go on.

Below the data directory, `runs/{job_id}.{attempt}/` holds one attempt (see places.py). A directory under that
name is always whole: it is made beside it and renamed.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from overnight.archive import SESSION_ENTRY, UPLOAD, Profile, unchanged
from overnight.domain.archive_names import alias_name, archive_name, archives_of, checkpoint_name
from overnight.domain.job import Job, Session
from overnight.domain.redaction import Redactor
from overnight.domain.retention import spent_checkpoints
from overnight.flows.places import Baseline, parts_of, workspace_at
from overnight.flows.preparing import Prepared, Preparing
from overnight.flows.restoring import Restoring
from overnight.flows.saving import Packing, Saved, Saving
from overnight.flows.unsaved import Unsaved, UnsavedWorkspaces
from overnight.flows.warm import WarmWorkspaces
from overnight.ports import ArchiveStore, Owner, Workspace

log = logging.getLogger(__name__)

FORMAT = 1


class Workspaces:
    """`redactor` knows the secrets that archives are scanned for; `refuse_secrets`: then they are not stored.

    At most `warm` workspaces with at most `warm_bytes` are kept for the next job of their session.
    """

    def __init__(
        self,
        data: Path,
        archives: ArchiveStore,
        exclude: Sequence[str],
        *,
        uploads: Profile = UPLOAD,
        redactor: Redactor | None = None,
        refuse_secrets: bool = False,
        warm: int = 0,
        warm_bytes: int = 0,
    ) -> None:
        self._runs = data / "runs"
        self.unsaved = UnsavedWorkspaces(data / "unsaved")
        self._archives = archives
        self._exclude = tuple(exclude)
        self._packing = Packing(
            archives=archives,
            exclude=self._exclude,
            redactor=redactor or Redactor(),
            refuse_secrets=refuse_secrets,
        )
        self._warm = WarmWorkspaces(data / "warm", warm, warm_bytes, self._exclude)
        self._preparing = Preparing(self._runs, self.unsaved, self._warm, Restoring(archives, uploads))
        self._settling: dict[str, asyncio.Event] = {}
        self._busy = 0

    def root(self, job_id: str, attempt: int) -> Path:
        return self._preparing.root(job_id, attempt)

    def until(self, job: Job) -> list[Path]:
        """Where the attempt and those before it worked on this machine, newest first."""
        return [self.root(job.job_id, job.attempt), *self._preparing.earlier(job)]

    async def left_to(self, job: Job, session: Session) -> list[Path]:
        """All directories that the attempt may go on from: nothing must run in them any more."""
        return await self._preparing.left_to(job, session)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """A run is going on: large deletions wait."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    @contextlib.contextmanager
    def settling(self, session_id: str) -> Iterator[None]:
        """The session's next job may begin already, but its workspace waits for what this one leaves, and no sweep of
        this process deletes that."""
        over = self._settling[session_id] = asyncio.Event()
        try:
            yield
        finally:
            self._settling.pop(session_id, None)
            over.set()

    async def prepare(self, job: Job, session: Session, owner: Owner | None = None) -> Prepared:
        """Restore the newest state of the job's files, for `owner`. Raises WorkspaceUnavailable, OSError."""
        await self._settled(session)
        return await self._preparing.prepare(job, session, owner)

    async def kept_for(self, session: Session) -> Owner | None:
        """The user whom the workspace belongs to that is kept for the session's next job: only its runs go on in it."""
        await self._settled(session)
        return await asyncio.to_thread(self._warm.user_for, session)

    def is_settling(self, session: Session) -> bool:
        return session.session_id in self._settling

    async def _settled(self, session: Session) -> None:
        if (settling := self._settling.get(session.session_id)) is not None:
            await settling.wait()

    async def unchanged(self, job: Job) -> bool:
        """Whether the tree is what its last archive holds, be that a checkpoint or what it was restored from."""
        root = self.root(job.job_id, job.attempt)
        return await asyncio.to_thread(self._unchanged, workspace_at(root), Baseline(root))

    def saving(self, job: Job, session: Session, cost_usd: float) -> Saving:
        """The archive that the attempt leaves, under the attempt's name. It has cost `cost_usd`."""
        so_far = round(session.cost_usd + cost_usd, 9)
        return self._saving(job, session, archive_name(job), so_far, settled=True)

    def saving_late(self, unsaved: Unsaved, job: Job, session: Session) -> Saving:
        """The same, of a workspace that was set aside. Its cost is in the session's already."""
        return self._saving(
            job, session, archive_name(job), session.cost_usd, settled=True, root=unsaved.place
        )

    async def is_stored(self, job: Job) -> bool:
        """Whether the archive under the attempt's name is there. Raises OSError."""
        return bool(await self._archives.listing(archive_name(job)))

    def checkpoint(self, job: Job, session: Session, number: int, *, settled: bool) -> Saving:
        return self._saving(job, session, checkpoint_name(job, number), session.cost_usd, settled=settled)

    async def publish(self, session_id: str, archive: str) -> None:
        """Raises ArchiveMissing, OSError."""
        await self._archives.publish(archive, alias_name(session_id))

    async def forget(self, archive: str) -> None:
        """Delete an archive that nothing points at. Best effort: retention finds what is left."""
        try:
            await self._archives.delete(archive)
        except OSError:
            log.warning("could not delete %s", archive, exc_info=True)

    async def drop_checkpoints(self, job: Job) -> None:
        """Delete those of the attempt and of those before it. Best effort."""
        ours = f"{archives_of(job.session_id)}{job.job_id}."
        try:
            names = [archive.name for archive in await self._archives.listing(ours)]
        except OSError:
            log.warning("could not list the checkpoints of job %s", job.job_id, exc_info=True)
            return
        for name in spent_checkpoints(names, job):
            await self.forget(name)

    async def keep(self, job: Job, session: Session, saved: Saved) -> None:
        """Keep the workspace for the session's next job, if there is room and nothing speaks against it."""
        root, size = self.root(job.job_id, job.attempt), saved.packed.content_bytes + saved.archive.size
        try:
            await asyncio.to_thread(self._warm.keep, root, session, saved.archive, size)
        except OSError:
            log.warning("could not keep the workspace of job %s", job.job_id, exc_info=True)

    async def forget_session(self, session_id: str) -> None:
        """Delete what a job that had just ended may have left of an erased session. Best effort."""
        try:
            await asyncio.to_thread(self._warm.forget, session_id)
        except OSError:  # The housekeeping finds it.
            log.warning("could not delete the workspace of session %s", session_id, exc_info=True)
        await self.forget(alias_name(session_id))

    async def discard(self, roots: Sequence[Path], *, saved: bool) -> None:
        """Delete these directories of a job. What it had taken from `unsaved` goes back if it was not `saved`.

        They are named, because one that they are not may be in use: the job may have been sent again by now.
        """
        await asyncio.to_thread(self.unsaved.clear, roots, saved=saved)

    def place_aside(self, job: Job) -> Path:
        """Where `set_aside` keeps the attempt's workspace."""
        return self.unsaved.place_of(job)

    async def set_aside(self, job: Job) -> None:
        """Keep a workspace that could not be saved where no sweep deletes it."""
        await asyncio.to_thread(self.unsaved.put, self.root(job.job_id, job.attempt), job)

    def leftovers(self) -> dict[str, list[Path]]:
        """The attempts' directories that are there, by job id. Blocking."""
        found: dict[str, list[Path]] = {}
        if self._runs.is_dir():
            for root in self._runs.iterdir():
                found.setdefault(root.name.lstrip(".").partition(".")[0], []).append(root)
        return found

    def go_on_in(self, roots: Sequence[Path], session: Session) -> bool:
        """Whether a next attempt of their job would go on in one of these directories. Blocking."""
        whole = (root for root in roots if not root.name.startswith("."))
        return any(Baseline(root).began_from(session.archive_name) for root in whole)

    async def evict(self, *, now: float) -> None:
        """Hold the kept workspaces to their limits; large deletions only while nothing runs here."""
        await asyncio.to_thread(self._warm.evict, now=now, idle=not self._busy)

    def _saving(
        self,
        job: Job,
        session: Session,
        name: str,
        cost_usd: float,
        *,
        settled: bool,
        root: Path | None = None,
    ) -> Saving:
        note = {
            "format": FORMAT,
            "session_id": session.session_id,
            "job_id": job.job_id,
            "attempt": job.attempt,
            "cost_usd": cost_usd,
        }
        entries = {SESSION_ENTRY: json.dumps(note).encode()}
        root = root or self.root(job.job_id, job.attempt)
        return Saving(self._packing, root, name, entries, settled=settled)

    def _unchanged(self, workspace: Workspace, baseline: Baseline) -> bool:
        return baseline.base is not None and unchanged(baseline.record, parts_of(workspace), self._exclude)
