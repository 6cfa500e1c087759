"""The directories of an attempt: restored before it, saved as an archive after it, kept while it may go on.

Below the data directory, `runs/{job_id}.{attempt}/` holds one attempt: `files/` (the agent's workspace) and
`home/` (its HOME, with the conversation). A directory under that name is always whole: it is made beside it
and renamed. One that an attempt left behind *is* the checkpoint from which the next attempt goes on.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from overnight.archive import (
    OWN,
    SESSION_ENTRY,
    TRANSCRIPT_PREFIX,
    UPLOAD,
    ArchiveRefused,
    Packed,
    Part,
    Profile,
    Scan,
    give_tree,
    pack,
    remove_tree,
    scan,
    unpack,
)
from overnight.domain.errors import ErrorCode
from overnight.domain.job import ArchiveRef, Job, Origin, Session
from overnight.domain.redaction import Redactor
from overnight.ports import ArchiveMissing, ArchiveStore, Owner, Workspace

log = logging.getLogger(__name__)

PREFIX = "claude-code"
PROJECT = "workspace"
"""The folder in which Claude Code keeps the conversation, the same wherever the workspace lies."""
FORMAT = 1


def archive_name(job: Job) -> str:
    return f"{PREFIX}/{job.session_id}/{job.job_id}.{job.attempt}.zip"


def alias_name(session_id: str) -> str:
    """The stable name of a session's current archive: the name of the plan."""
    return f"{PREFIX}/{session_id}.zip"


class WorkspaceUnavailable(Exception):
    """The session's files cannot be restored; the job fails with this code and message."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """`continued`: an earlier attempt of the same job has already worked in it."""

    workspace: Workspace
    continued: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    archive: ArchiveRef
    packed: Packed
    scan: Scan


class SecretsInArchive(Exception):
    """Secrets are in what would be stored, and the operator wants none there."""

    def __init__(self, scan: Scan) -> None:
        super().__init__(f"{scan.found_total} findings")
        self.scan = scan


class Workspaces:
    """`redactor` knows the secrets that archives are scanned for; `refuse_secrets`: then they are not stored."""

    def __init__(
        self,
        data: Path,
        archives: ArchiveStore,
        exclude: Sequence[str],
        *,
        uploads: Profile = UPLOAD,
        redactor: Redactor | None = None,
        refuse_secrets: bool = False,
    ) -> None:
        self._runs = data / "runs"
        self._unsaved = data / "unsaved"
        self._archives = archives
        self._exclude = tuple(exclude)
        self._uploads = uploads
        self._redactor = redactor or Redactor()
        self._refuse_secrets = refuse_secrets

    def root(self, job_id: str, attempt: int) -> Path:
        return self._runs / f"{job_id}.{attempt}"

    def earlier(self, job: Job) -> list[Path]:
        """Where earlier attempts of the job worked on this machine, newest first."""
        return [self.root(job.job_id, number) for number in range(job.attempt - 1, 0, -1)]

    async def prepare(self, job: Job, session: Session, owner: Owner | None = None) -> Prepared:
        """Restore the newest state of the job's files, for `owner`. Raises WorkspaceUnavailable, OSError."""
        root = self.root(job.job_id, job.attempt)
        leftover = await asyncio.to_thread(self._take_leftover, job, root)
        if not leftover:
            new = root.with_name(f".{root.name}.new")
            await asyncio.to_thread(_make_empty, new)
            if session.archive is not None:
                await self._restore(session.archive, new, owner)
            await asyncio.to_thread(new.rename, root)
        workspace = _workspace(root, owner)
        if owner is not None:
            await asyncio.to_thread(_give_away, workspace, owner)
        return Prepared(workspace=workspace, continued=leftover)

    async def save(self, job: Job, session: Session, cost_usd: float) -> Saved:
        """Pack the workspace and store it under the attempt's name. Raises SecretsInArchive, OSError."""
        workspace = _workspace(self.root(job.job_id, job.attempt))
        target = workspace.root / "archive.zip"
        note = {
            "format": FORMAT,
            "session_id": session.session_id,
            "job_id": job.job_id,
            "attempt": job.attempt,
            "cost_usd": cost_usd,
        }
        packed = await asyncio.to_thread(
            pack,
            [Part(workspace.files, ""), Part(workspace.transcripts, TRANSCRIPT_PREFIX)],
            target,
            exclude=self._exclude,
            entries={SESSION_ENTRY: json.dumps(note).encode()},
        )
        scanned = await asyncio.to_thread(scan, target, self._redactor.count)
        if scanned.found and self._refuse_secrets:
            await asyncio.to_thread(target.unlink)
            raise SecretsInArchive(scanned)
        stored = await self._archives.put(archive_name(job), target)
        archive = ArchiveRef(name=stored.name, size=stored.size, sha256=stored.sha256, origin=Origin.RUN)
        return Saved(archive=archive, packed=packed, scan=scanned)

    async def publish(self, job: Job) -> None:
        await self._archives.publish(archive_name(job), alias_name(job.session_id))

    async def discard(self, job: Job) -> None:
        """Delete every directory of the job."""
        await asyncio.to_thread(self._discard, job.job_id)

    async def set_aside(self, job: Job) -> Path:
        """Keep a workspace that could not be saved where no sweep deletes it; returns the place."""
        place = self._unsaved / f"{job.session_id}.{job.job_id}.{job.attempt}"
        await asyncio.to_thread(place.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(self.root(job.job_id, job.attempt).rename, place)
        return place

    def leftovers(self) -> dict[str, list[Path]]:
        """The attempts' directories that are there, by job id. Blocking."""
        found: dict[str, list[Path]] = {}
        if self._runs.is_dir():
            for root in self._runs.iterdir():
                found.setdefault(root.name.lstrip(".").partition(".")[0], []).append(root)
        return found

    async def clear(self, job_id: str) -> None:
        await asyncio.to_thread(self._discard, job_id)

    def _take_leftover(self, job: Job, root: Path) -> bool:
        """Move the newest earlier attempt's directory to this attempt's name; older ones are deleted."""
        there = [path for path in self.earlier(job) if path.is_dir()]
        for stale in there[1:]:
            remove_tree(stale)
        if there:
            there[0].rename(root)
        return bool(there)

    def _discard(self, job_id: str) -> None:
        for root in (*self._runs.glob(f"{job_id}.*"), *self._runs.glob(f".{job_id}.*")):
            with contextlib.suppress(
                OSError
            ):  # A sweep may be at the same tree; the next one finds what is left.
                remove_tree(root)

    async def _restore(self, archive: ArchiveRef, root: Path, owner: Owner | None) -> None:
        workspace = _workspace(root)
        fetched = root / "restore.zip"
        profile = OWN if archive.origin is Origin.RUN else self._uploads
        routes = {"": workspace.files, TRANSCRIPT_PREFIX: workspace.transcripts}
        try:
            stored = await self._archives.fetch(archive.name, fetched)
            if stored.sha256 != archive.sha256:
                raise WorkspaceUnavailable(ErrorCode.SESSION_UNAVAILABLE, _DAMAGED)
            await asyncio.to_thread(unpack, fetched, routes, profile=profile, owner=owner)
        except ArchiveMissing:
            raise WorkspaceUnavailable(ErrorCode.SESSION_UNAVAILABLE, _MISSING) from None
        except ArchiveRefused as refused:
            raise WorkspaceUnavailable(ErrorCode.ARCHIVE_REFUSED, f"{_REFUSED} {refused}") from None
        finally:
            await asyncio.to_thread(fetched.unlink, missing_ok=True)


_MISSING = (
    "The session's archive is not in the store any more, so its files cannot be restored. Nothing was changed. "
    "Put the archive back, or start a new session."
)
_DAMAGED = (
    "The session's archive is not the one that was stored (its SHA-256 differs). Nothing was changed. "
    "Restore it from a backup, or start a new session."
)
_REFUSED = "The session's archive was refused and nothing of it was unpacked:"


def _workspace(root: Path, owner: Owner | None = None) -> Workspace:
    home = root / "home"
    return Workspace(
        root=root,
        files=root / "files",
        home=home,
        transcripts=home / ".claude" / "projects" / PROJECT,
        owner=owner,
    )


def _give_away(workspace: Workspace, owner: Owner) -> None:
    """What an unpacked archive did not bring, and all that an earlier attempt of another user left."""
    for tree in (workspace.files, workspace.home):
        give_tree(tree, owner)


def _make_empty(root: Path) -> None:
    remove_tree(root)
    root.mkdir(mode=0o700, parents=True)
    workspace = _workspace(root)
    workspace.files.mkdir(mode=0o700)
    workspace.transcripts.mkdir(mode=0o700, parents=True)
