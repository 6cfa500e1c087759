"""A stored archive becomes the tree of an attempt."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from overnight.archive import OWN, TRANSCRIPT_PREFIX, ArchiveRefused, Profile, unpack
from overnight.domain.errors import ErrorCode
from overnight.domain.job import ArchiveRef, Origin
from overnight.flows.places import Baseline, workspace_at
from overnight.ports import ArchiveMissing, ArchiveStore, Owner


class WorkspaceUnavailable(Exception):
    """The session's files cannot be restored; the job fails with this code and message."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Restoring:
    archives: ArchiveStore
    uploads: Profile
    """How archives of strangers are judged."""

    async def restore(self, archive: ArchiveRef, root: Path, owner: Owner | None) -> None:
        """Fill the empty directories at `root`. An archive of ours stays, as what the next pack builds on.

        Raises WorkspaceUnavailable, OSError.
        """
        fetched = Baseline(root).archive
        try:
            stored = await self.archives.fetch(archive.name, fetched)
            if stored.sha256 != archive.sha256:
                raise WorkspaceUnavailable(ErrorCode.SESSION_UNAVAILABLE, _DAMAGED)
            await asyncio.to_thread(self._unpack, archive, root, owner)
        except ArchiveMissing:
            raise WorkspaceUnavailable(ErrorCode.SESSION_UNAVAILABLE, _MISSING) from None
        except ArchiveRefused as refused:
            raise WorkspaceUnavailable(ErrorCode.ARCHIVE_REFUSED, f"{_REFUSED} {refused}") from None

    def _unpack(self, archive: ArchiveRef, root: Path, owner: Owner | None) -> None:
        workspace, baseline = workspace_at(root), Baseline(root)
        routes = {"": workspace.files, TRANSCRIPT_PREFIX: workspace.transcripts}
        if archive.origin is Origin.RUN:
            unpack(
                baseline.archive,
                routes,
                profile=OWN,
                owner=owner,
                record=baseline.record,
                sha256=archive.sha256,
            )
        else:
            unpack(baseline.archive, routes, profile=self.uploads, owner=owner)
            baseline.archive.unlink()


_MISSING = (
    "The session's archive is not in the store any more, so its files cannot be restored. Nothing was changed. "
    "Put the archive back, or start a new session."
)
_DAMAGED = (
    "The session's archive is not the one that was stored (its SHA-256 differs). Nothing was changed. "
    "Restore it from a backup, or start a new session."
)
_REFUSED = "The session's archive was refused and nothing of it was unpacked:"
