"""Workspaces whose archive could not be stored. They wait here until it can be, or their session goes on in them.

unsaved/{session_id}.{job_id}.{attempt}/   the directory of that attempt, as it was below runs/ (places.py)

Several processes may work in one data directory. Whoever packs, takes or deletes such a directory holds it first,
by a lock of the operating system that ends with its process (docs/decisions/0099).
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from overnight.domain.ids import InvalidId, parse_uuid
from overnight.domain.job import Job, Session
from overnight.flows.places import Baseline, delete, fresh_home

MARK = "aside"
"""In the root of a tree that was taken from here: the name that it had."""

HANDOVER_SECONDS, LOOK_SECONDS = 60.0, 0.25
"""How long one waits for a directory that is held, and between two looks. Who stores it lets go of it as soon as it
sees that the session has a new job or is being erased (late_saving.py)."""

log = logging.getLogger(__name__)

T = TypeVar("T")


class InUse(OSError):
    """Someone, maybe in another process, holds the directory."""


@contextlib.contextmanager
def held(place: Path) -> Iterator[None]:
    """Nobody else packs, takes or deletes the directory meanwhile. Never waits.

    Raises InUse, and FileNotFoundError if it is not there any more.
    """
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(f"{place.name} is in use") from None
        # Before the lock it may have been renamed, and another put there.
        if not os.path.samestat(os.fstat(fd), place.lstat()):
            raise InUse(f"{place.name} is in use")
        yield
    finally:
        os.close(fd)


async def once_free(work: Callable[[], T]) -> T:
    """Run blocking work in a thread, and again while it raises InUse, which is raised in the end."""
    for _ in range(round(HANDOVER_SECONDS / LOOK_SECONDS)):
        with contextlib.suppress(InUse):
            return await asyncio.to_thread(work)
        await asyncio.sleep(LOOK_SECONDS)
    return await asyncio.to_thread(work)


@dataclass(frozen=True, slots=True)
class Unsaved:
    place: Path
    session_id: str
    job_id: str
    attempt: int

    @property
    def name(self) -> str:
        return self.place.name

    def follows(self, session_archive: str | None) -> bool:
        """Whether it is what a job made of this archive of the session, and so exactly one version ahead of it."""
        return Baseline(self.place).is_known_to_begin_from(session_archive)


@dataclass(frozen=True, slots=True)
class UnsavedWorkspaces:
    """Blocking calls: run them in a thread."""

    directory: Path

    def make_room(self) -> None:
        """So that `put` has to rename only: on a full disk, which is when it is needed, nothing can be made."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def place_of(self, job: Job) -> Path:
        return self.directory / f"{job.session_id}.{job.job_id}.{job.attempt}"

    def put(self, root: Path, job: Job) -> None:
        place = self.place_of(job)
        self.make_room()
        (root / MARK).unlink(missing_ok=True)
        root.rename(place)

    def taken(self, runs: Path, session: Session) -> list[Path]:
        """Directories below `runs` that were taken from here, and still follow the session's archive."""
        return [root for root in runs.glob("[!.]*") if self._was_taken(root, session)]

    def _was_taken(self, root: Path, session: Session) -> bool:
        try:
            name = (root / MARK).read_text()
        except OSError:
            return False
        of_session = name.startswith(f"{session.session_id}.")
        return of_session and Baseline(root).is_known_to_begin_from(session.archive_name)

    def put_back(self, root: Path) -> bool:
        """If the tree was taken from here, and what it became is in no archive, it must not be deleted."""
        try:
            place = self.directory / (root / MARK).read_text()
            root.rename(place)
        except FileNotFoundError:
            return False
        except OSError:
            log.exception("%s cannot be put back below %s", root, self.directory)
        return True

    def clear(self, roots: Iterable[Path], *, saved: bool = False) -> None:
        """Delete directories of attempts. One that was taken from here goes back, if what it became was not `saved`."""
        for root in roots:
            half_deleted = root.name.startswith(".")
            if saved or half_deleted or not self.put_back(root):
                # A sweep may be at the same tree; the next one finds what is left.
                with contextlib.suppress(OSError):
                    delete(root)

    def all(self) -> list[Unsaved]:
        return list(self._found("*.*.*"))

    def of(self, session_id: str) -> list[Unsaved]:
        """The newest job's first."""
        found = self._found(f"{session_id}.*.*")
        return sorted(found, key=lambda each: (each.job_id, each.attempt), reverse=True)

    def take(
        self, session: Session, root: Path, job_id: str | None = None, oldest: int = 1
    ) -> Unsaved | None:
        """Make what follows the session's archive the tree at `root`, with a new HOME; None: there is none.

        With `job_id` only what that job left, from the attempt `oldest` on. After an OSError it is where it was;
        InUse is one.
        """
        for unsaved in self.of(session.session_id):
            if job_id is not None and (unsaved.job_id != job_id or unsaved.attempt < oldest):
                continue
            if unsaved.follows(session.archive_name):
                with held(unsaved.place):
                    fresh_home(unsaved.place)
                    (unsaved.place / MARK).write_text(unsaved.name)
                    unsaved.place.rename(root)
                return unsaved
        return None

    def _found(self, pattern: str) -> Iterator[Unsaved]:
        """Names that are not of this form are not ours."""
        for place in self.directory.glob(pattern):
            session_id, job_id, attempt = place.name.split(".", 2)
            try:
                yield Unsaved(place, parse_uuid(session_id), parse_uuid(job_id), int(attempt))
            except (InvalidId, ValueError):
                continue
