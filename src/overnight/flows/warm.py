"""Workspaces that are kept after a job, so that the session's next job on this machine fetches nothing.

warm/{session_id}/
    files/, workspace/   the agent's files and the conversation: HOME is made anew each time
    baseline/            the session's archive, and the record by which the tree is known to be equal to it
    about.json           whose it is, and of which archive
"""

import contextlib
import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from overnight.archive import TRANSCRIPT_PREFIX, Part, prune, remove_tree, unchanged
from overnight.domain.job import ArchiveRef, Session
from overnight.flows.places import (
    PROJECT,
    Baseline,
    parts_of,
    projects_of,
    workspace_at,
)
from overnight.ports import Owner

log = logging.getLogger(__name__)

FORMAT = 1
_NEW, _TAKEN, _WASTE = ".new.", ".taken.", ".waste."
"""Being put here, being taken, to be deleted when there is time: that slows down whoever writes next."""

_DEAD_SECONDS = 3600.0
"""Nobody needs so long to put one here or to take it: whoever was at it has died."""


@dataclass(frozen=True, slots=True)
class About:
    """`owner` is the session's; the files belong to the user `uid` and the group `gid` of the system."""

    archive: str
    sha256: str
    owner: str
    uid: int
    gid: int
    bytes: int
    format: int = FORMAT


def about(session: Session, archive: ArchiveRef, user: Owner, size: int) -> About:
    return About(archive.name, archive.sha256, session.owner, *user, size)


@dataclass(frozen=True, slots=True)
class WarmWorkspaces:
    """At most `most` of them with at most `most_bytes` in all. Blocking calls: run them in a thread.

    Every step is a rename under one lock of the directory: two processes never have the same one.
    """

    directory: Path
    most: int
    most_bytes: int
    exclude: Collection[str]

    def keep(self, root: Path, session: Session, archive: ArchiveRef, size: int) -> bool:
        """Move the tree at `root` here, if it is what the archive holds. `size` is in bytes, with the archive.

        After an OSError the tree is where it was, or lost.
        """
        workspace, baseline = workspace_at(root), Baseline(root)
        if not self.most or size > self.most_bytes or baseline.base is None:
            return False
        prune(parts_of(workspace), self.exclude)
        if not unchanged(baseline.record, parts_of(workspace), self.exclude):
            return False
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.directory / f"{_NEW}{root.name}"
        remove_tree(new)
        new.mkdir(mode=0o700)
        with projects_of(root) as projects:
            os.rename(PROJECT, new / PROJECT, src_dir_fd=projects)
        workspace.files.rename(new / "files")
        baseline.directory.rename(new / "baseline")
        note = about(session, archive, _user_of(new / "files"), size)
        (new / "about.json").write_text(json.dumps(asdict(note)))
        with self._locked():
            self._waste(self.directory / session.session_id)
            new.rename(self.directory / session.session_id)
        return True

    def user_for(self, session: Session) -> Owner | None:
        """Whose files the kept workspace of the session holds, if it is of its current archive."""
        kept = _read(self.directory / session.session_id)
        if kept is None or kept.archive != session.archive_name:
            return None
        return kept.uid, kept.gid

    def take(self, root: Path, session: Session, owner: Owner | None) -> bool:
        """Make the session's workspace the tree at `root`, if it is exactly the session's current archive."""
        kept = self.directory / session.session_id
        if session.archive is None or not kept.is_dir():
            return False
        taken = self.directory / f"{_TAKEN}{root.name}"
        with self._locked():
            try:
                kept.rename(taken)
            except FileNotFoundError:  # Another process was faster.
                return False
        if not self._fits(taken, session, owner or (os.geteuid(), os.getegid())):
            self._waste(taken)
            return False
        _move_in(taken, root)
        remove_tree(taken)
        return True

    def forget(self, session_id: str) -> None:
        """Delete the workspace of a session, if there is one."""
        if self.directory.is_dir():
            with self._locked():
                self._waste(self.directory / session_id)
            self._delete_waste()

    def evict(self, *, now: float, idle: bool) -> None:
        """Delete what is over the limits, the longest unused first, and what the dead left half-way.

        While runs are going on twice the number may stay: to delete it would slow them down.
        """
        if not self.directory.is_dir():
            return
        most = self.most if idle else 2 * self.most
        with self._locked():
            self._waste_of_the_dead(now)
            size = 0
            for number, (path, kept) in enumerate(self._newest_first()):
                size += kept.bytes if kept else 0
                if kept is None or number >= most or size > self.most_bytes:
                    self._waste(path)
        if idle:
            self._delete_waste()

    def _fits(self, taken: Path, session: Session, user: Owner) -> bool:
        kept = _read(taken)
        if kept is None or session.archive is None:
            return False
        if kept != about(session, session.archive, user, kept.bytes):
            return False
        try:
            return unchanged(Baseline(taken).record, _parts_in(taken), self.exclude)
        except OSError:
            return False

    def _newest_first(self) -> list[tuple[Path, About | None]]:
        found = []
        for path in self.directory.iterdir():
            if not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # Somebody has just taken it.
                    found.append((path.stat().st_mtime_ns, path, _read(path)))
        return [(path, kept) for _, path, kept in sorted(found, key=lambda line: line[0], reverse=True)]

    def _waste(self, path: Path) -> None:
        if path.exists():
            path.rename(Path(tempfile.mkdtemp(dir=self.directory, prefix=_WASTE)) / "tree")

    def _waste_of_the_dead(self, now: float) -> None:
        for path in self.directory.iterdir():
            if path.name.startswith((_NEW, _TAKEN)):
                with contextlib.suppress(FileNotFoundError):
                    if now - path.stat().st_ctime > _DEAD_SECONDS:
                        self._waste(path)

    def _delete_waste(self) -> None:
        for path in self.directory.iterdir():
            if path.name.startswith(_WASTE):
                with contextlib.suppress(OSError):  # Another process may be at it.
                    remove_tree(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Held for renames only, and let go by the system when its holder dies."""
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _parts_in(kept: Path) -> tuple[Part, ...]:
    return Part(kept / "files", ""), Part(kept / PROJECT, TRANSCRIPT_PREFIX)


def _move_in(kept: Path, root: Path) -> None:
    workspace = workspace_at(root)
    for part, place in (
        ("files", workspace.files),
        (PROJECT, workspace.transcripts),
        ("baseline", Baseline(root).directory),
    ):
        (kept / part).rename(place)  # An empty directory stands there, and gives way.


def _user_of(path: Path) -> Owner:
    status = path.stat()
    return status.st_uid, status.st_gid


def _read(kept: Path) -> About | None:
    try:
        return About(**json.loads((kept / "about.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
