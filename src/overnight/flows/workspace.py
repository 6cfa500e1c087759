"""The directories of an attempt: restored before it, saved as an archive after it, kept while it may go on.

Below the data directory, `runs/{job_id}.{attempt}/` holds one attempt (see places.py). A directory under that
name is always whole: it is made beside it and renamed. One that an attempt left behind is the newest checkpoint
there is; the checkpoint that the job points at is for workers on other machines, and for a lost disk.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from overnight.archive import SESSION_ENTRY, UPLOAD, Profile, give_tree, remove_tree, unchanged
from overnight.domain.archive_names import alias_name, archive_name, archives_of, checkpoint_name
from overnight.domain.job import ArchiveRef, Job, Session, Snapshot
from overnight.domain.redaction import Redactor
from overnight.domain.retention import spent_checkpoints
from overnight.flows.places import (
    Baseline,
    fresh_home,
    has_conversation,
    make_empty,
    mend_conversation,
    parts_of,
    workspace_at,
)
from overnight.flows.restoring import Restoring, WorkspaceUnavailable
from overnight.flows.saving import Packing, Saved, Saving
from overnight.flows.unsaved import InUse, Unsaved, UnsavedWorkspaces, once_free
from overnight.flows.warm import WarmWorkspaces
from overnight.ports import ArchiveStore, Owner, Workspace

log = logging.getLogger(__name__)

FORMAT = 1


class Source(StrEnum):
    """Where the files of an attempt came from."""

    NEW = "new"
    ARCHIVE = "archive"
    WARM = "warm"
    CHECKPOINT = "checkpoint"
    LEFTOVER = "leftover"
    UNSAVED = "unsaved"
    """The session's last job could not be saved, and left them on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`archive` names what was restored, `fetched_bytes` how much of it came from the store. `aside` names what is kept
    of the session below `unsaved` and is not in these files."""

    workspace: Workspace
    source: Source
    archive: str | None = None
    fetched_bytes: int = 0
    aside: tuple[str, ...] = ()

    @property
    def continued(self) -> bool:
        """An earlier attempt of the same job has already worked in it."""
        return self.source in {Source.LEFTOVER, Source.CHECKPOINT}


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
        self._restoring = Restoring(archives, uploads)
        self._warm = WarmWorkspaces(data / "warm", warm, warm_bytes, self._exclude)
        self._settling: dict[str, asyncio.Event] = {}
        self._busy = 0

    def root(self, job_id: str, attempt: int) -> Path:
        return self._runs / f"{job_id}.{attempt}"

    def until(self, job: Job) -> list[Path]:
        """Where the attempt and those before it worked on this machine, newest first."""
        return [self.root(job.job_id, number) for number in range(job.attempt, 0, -1)]

    def earlier(self, job: Job) -> list[Path]:
        """The same without the attempt itself."""
        return self.until(job)[1:]

    async def left_to(self, job: Job, session: Session) -> list[Path]:
        """All directories that the attempt may go on from: nothing must run in them any more."""
        return self.earlier(job) + await self._borrowed(job, session)

    def go_on_in(self, roots: Sequence[Path], session: Session) -> bool:
        """Whether a next attempt of their job would go on in one of these directories. Blocking."""
        whole = (root for root in roots if not root.name.startswith("."))
        return any(Baseline(root).began_from(session.archive_name) for root in whole)

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
        root = self.root(job.job_id, job.attempt)
        for borrowed in await self._borrowed(job, session):  # A sweep puts it back too, but may come later.
            await asyncio.to_thread(self.unsaved.put_back, borrowed)
        prepared = await self._newest(job, session, root, owner)
        await asyncio.to_thread(self.unsaved.clear, self.earlier(job))
        aside = await asyncio.to_thread(self.unsaved.of, session.session_id)
        prepared = replace(prepared, aside=tuple(each.name for each in aside))
        if owner is None:
            return prepared
        await asyncio.to_thread(_give_away, prepared.workspace, owner)
        return replace(prepared, workspace=replace(prepared.workspace, owner=owner))

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

    async def evict(self, *, now: float) -> None:
        """Hold the kept workspaces to their limits; large deletions only while nothing runs here."""
        await asyncio.to_thread(self._warm.evict, now=now, idle=not self._busy)

    async def _newest(self, job: Job, session: Session, root: Path, owner: Owner | None) -> Prepared:
        checkpoint = Snapshot(job=job, session=session).checkpoint
        made_by = checkpoint.attempt if checkpoint else 1
        if await asyncio.to_thread(self._take_leftover, job, session, root, made_by):
            return Prepared(workspace=workspace_at(root), source=Source.LEFTOVER)
        # What the job itself set aside at its end is newer than the checkpoints of that attempt.
        if await once_free(lambda: self._take_unsaved(session, root, job, made_by)) is not None:
            return _prepared(root, Source.LEFTOVER, None)
        if checkpoint is not None:
            try:
                return await self._restored(checkpoint.archive, Source.CHECKPOINT, session, root, owner)
            except WorkspaceUnavailable as lost:
                log.warning("the checkpoint of job %s cannot be used: %s", job.job_id, lost.message)
        if await asyncio.to_thread(self._take_leftover, job, session, root, 1):
            return Prepared(workspace=workspace_at(root), source=Source.LEFTOVER)
        if (unsaved := await once_free(lambda: self._take_unsaved(session, root))) is not None:
            own = unsaved.job_id == job.job_id
            return _prepared(root, Source.LEFTOVER if own else Source.UNSAVED, None)
        if await asyncio.to_thread(self._take_warm, session, root, owner):
            return _prepared(root, Source.WARM, session.archive)
        if session.archive is not None:
            return await self._restored(session.archive, Source.ARCHIVE, session, root, owner)
        await asyncio.to_thread(_begin_empty, root)
        return _prepared(root, Source.NEW, None)

    async def _restored(
        self, archive: ArchiveRef, source: Source, session: Session, root: Path, owner: Owner | None
    ) -> Prepared:
        new = _aside(root)
        await asyncio.to_thread(make_empty, new)
        try:
            await self._restoring.restore(archive, new, owner)
        except (OSError, WorkspaceUnavailable):  # It may have filled the disk.
            await asyncio.to_thread(remove_tree, new)
            raise
        if source is Source.CHECKPOINT:
            await asyncio.to_thread(mend_conversation, new)
        await asyncio.to_thread(_begin, new, root, session.archive_name, source is not Source.CHECKPOINT)
        return _prepared(root, source, archive)

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

    async def _borrowed(self, job: Job, session: Session) -> list[Path]:
        """Where other jobs of the session went on in its newest files. None of them runs: it is this one's turn."""
        found = await asyncio.to_thread(self.unsaved.taken, self._runs, session)
        return [root for root in found if not root.name.startswith(job.job_id)]

    def _take_leftover(self, job: Job, session: Session, root: Path, oldest: int) -> bool:
        """Move the newest directory of an attempt that is not older than `oldest` to this attempt's name.

        One that grew from another archive than the session's is void: other jobs have run in between.
        """
        for attempt in range(job.attempt - 1, oldest - 1, -1):
            left = self.root(job.job_id, attempt)
            if left.is_dir() and Baseline(left).began_from(session.archive_name):
                left.rename(root)
                if not has_conversation(root):  # Claude Code would find what that run put in its place.
                    fresh_home(root)
                return True
        return False

    def _take_unsaved(
        self, session: Session, root: Path, job: Job | None = None, oldest: int = 1
    ) -> Unsaved | None:
        """Only what `job` left, from the attempt `oldest` on, if it is given. Raises InUse."""
        root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.unsaved.make_room()
            return self.unsaved.take(session, root, job.job_id if job else None, oldest)
        except InUse:  # The session's newest files: to go on without them would leave them behind.
            raise
        except OSError:
            log.warning("session %s cannot go on in what it left", session.session_id, exc_info=True)
            return None

    def _take_warm(self, session: Session, root: Path, owner: Owner | None) -> bool:
        new = _aside(root)
        make_empty(new)
        try:
            taken = self._warm.take(new, session, owner)
        except OSError:
            log.warning("could not take the kept workspace of session %s", session.session_id, exc_info=True)
            return False
        if taken:
            _begin(new, root, session.archive_name, True)
        return taken


def _aside(root: Path) -> Path:
    return root.with_name(f".{root.name}.new")


def _begin_empty(root: Path) -> None:
    make_empty(_aside(root))
    _begin(_aside(root), root, None, False)


def _begin(new: Path, root: Path, session_archive: str | None, restored: bool) -> None:
    Baseline(new).begin(session_archive, restored=restored)
    new.rename(root)


def _prepared(root: Path, source: Source, archive: ArchiveRef | None) -> Prepared:
    fetched = archive.size if archive and source in {Source.ARCHIVE, Source.CHECKPOINT} else 0
    return Prepared(
        workspace=workspace_at(root),
        source=source,
        archive=archive.name if archive else None,
        fetched_bytes=fetched,
    )


def _give_away(workspace: Workspace, owner: Owner) -> None:
    """What an unpacked archive did not bring, and all that an earlier attempt of another user left."""
    for tree in (workspace.files, workspace.home):
        give_tree(tree, owner)
