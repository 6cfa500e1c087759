"""Where the files of an attempt come from: the newest state that there is of them becomes its directory.

One that an attempt left behind is the newest checkpoint there is; the checkpoint that the job points at is for workers
on other machines, and for a lost disk.
"""

import asyncio
import logging
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from overnight.archive import give_tree, remove_tree
from overnight.domain.job import ArchiveRef, Job, Session, Snapshot
from overnight.flows.places import (
    Baseline,
    fresh_home,
    has_conversation,
    make_empty,
    mend_conversation,
    workspace_at,
)
from overnight.flows.restoring import Restoring, WorkspaceUnavailable
from overnight.flows.unsaved import InUse, Unsaved, UnsavedWorkspaces, once_free
from overnight.flows.warm import WarmWorkspaces
from overnight.ports import Owner, Workspace

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Preparing:
    """`runs` holds the directories of attempts."""

    runs: Path
    unsaved: UnsavedWorkspaces
    warm: WarmWorkspaces
    restoring: Restoring

    def root(self, job_id: str, attempt: int) -> Path:
        return self.runs / f"{job_id}.{attempt}"

    def earlier(self, job: Job) -> list[Path]:
        """Where the attempts before this one worked on this machine, newest first."""
        return [self.root(job.job_id, number) for number in range(job.attempt - 1, 0, -1)]

    async def left_to(self, job: Job, session: Session) -> list[Path]:
        """All directories that the attempt may go on from: nothing must run in them any more."""
        return self.earlier(job) + await self._borrowed(job, session)

    async def prepare(self, job: Job, session: Session, owner: Owner | None = None) -> Prepared:
        """Restore the newest state of the job's files, for `owner`. Raises WorkspaceUnavailable, OSError."""
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
            await self.restoring.restore(archive, new, owner)
        except (OSError, WorkspaceUnavailable):  # It may have filled the disk.
            await asyncio.to_thread(remove_tree, new)
            raise
        if source is Source.CHECKPOINT:
            await asyncio.to_thread(mend_conversation, new)
        await asyncio.to_thread(_begin, new, root, session.archive_name, source is not Source.CHECKPOINT)
        return _prepared(root, source, archive)

    async def _borrowed(self, job: Job, session: Session) -> list[Path]:
        """Where other jobs of the session went on in its newest files. None of them runs: it is this one's turn."""
        found = await asyncio.to_thread(self.unsaved.taken, self.runs, session)
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
            taken = self.warm.take(new, session, owner)
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
