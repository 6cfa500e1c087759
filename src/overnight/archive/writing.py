"""Writes files below an open directory, and never through a link. Both processes of a restore do it this way."""

import errno
import os
from dataclasses import dataclass

from overnight.archive.model import ArchiveRefused, Kind, Refusal
from overnight.archive.owners import Owner
from overnight.archive.reader import ArchiveFile, Record
from overnight.archive.record import status_of
from overnight.archive.spans import Span, contents
from overnight.archive.walk import OPEN_DIRECTORY

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CANNOT_HOLD = frozenset({errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ})


@dataclass(frozen=True, slots=True)
class Manner:
    """`plain_modes` and no others for a stranger's; `fresh_times` leaves the time of writing.

    The status of each entry, once nothing of it changes any more, is put into `statuses` if there is one.
    """

    plain_modes: bool
    fresh_times: bool
    owner: Owner | None
    statuses: dict[bytes, bytes] | None = None

    def finish(self, fd: int, record: Record | None) -> None:
        """The owner before the mode: a change of owner may clear bits of it. None: a directory without entry."""
        if self.owner is not None:
            os.fchown(fd, *self.owner)
        if record is None:
            return
        os.fchmod(fd, self._mode(record))
        if not self.fresh_times:
            mtime_ns = record.mtime_ns
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        if self.statuses is not None:
            self.statuses[record.raw_name.removesuffix(b"/")] = status_of(os.fstat(fd))

    def finish_link(self, directory: int, leaf: str, record: Record) -> None:
        if self.owner is not None:
            os.chown(leaf, *self.owner, dir_fd=directory, follow_symlinks=False)
        if not self.fresh_times:
            times = (record.mtime_ns, record.mtime_ns)
            os.utime(leaf, ns=times, dir_fd=directory, follow_symlinks=False)
        if self.statuses is not None:
            status = os.stat(leaf, dir_fd=directory, follow_symlinks=False)
            self.statuses[record.raw_name] = status_of(status)

    def _mode(self, record: Record) -> int:
        """Ours as it was; a stranger's becomes plain. Never set-user-id or set-group-id."""
        if not self.plain_modes:
            return record.mode & 0o1777
        return 0o755 if record.kind is Kind.DIRECTORY or record.mode & 0o100 else 0o644


class Reach:
    """Reaches directories below the root, each from the one above it: one open descriptor per level, until `close`.

    The way to the last one is kept: the entries of one directory mostly follow each other.
    """

    def __init__(self, root: int) -> None:
        """Takes the open root over."""
        self._open: list[tuple[str, int]] = [("", root)]
        self._here = ""

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop()[1])

    def directory(self, path: str) -> int:
        """A descriptor that is good until the next call."""
        if path != self._here:
            self._go(path.split("/") if path else [])
            self._here = path
        return self._open[-1][1]

    def _go(self, parts: list[str]) -> None:
        shared = 0
        while shared < min(len(parts), len(self._open) - 1) and self._open[shared + 1][0] == parts[shared]:
            shared += 1
        while len(self._open) > shared + 1:
            os.close(self._open.pop()[1])
        for part in parts[shared:]:
            self._open.append((part, os.open(part, OPEN_DIRECTORY, dir_fd=self._open[-1][1])))


@dataclass(frozen=True, slots=True)
class FileWriter:
    """One thread's. All files lie below the prefix in the archive."""

    archive: ArchiveFile
    manner: Manner
    prefix: str
    reach: Reach

    def write(self, batch: list[Span]) -> None:
        """Raises ArchiveRefused, or OSError for trouble of our own."""
        for record, pieces in contents(self.archive, batch):
            parent, _, leaf = path_below(self.prefix, record).rpartition("/")
            directory = self.reach.directory(parent)
            try:
                fd = os.open(leaf, _CREATE, 0o600, dir_fd=directory)
            except OSError as error:
                raise clash(error) from error
            try:
                for piece in pieces:
                    _write_all(fd, piece)
                self.manner.finish(fd, record)
            finally:
                os.close(fd)


def path_below(prefix: str, record: Record) -> str:
    return record.name[len(prefix) + 1 :] if prefix else record.name


def _write_all(fd: int, piece: bytes) -> None:
    written = os.write(fd, piece) if piece else 0
    while written < len(piece):
        written += os.write(fd, memoryview(piece)[written:])


def clash(error: OSError) -> Exception:
    """A file system may take two names for one, or refuse one that others take."""
    if error.errno not in _CANNOT_HOLD:
        return error
    message = "The file system here cannot hold the names of this archive. Nothing was written."
    return ArchiveRefused(Refusal.CLASHING_NAMES, message)
