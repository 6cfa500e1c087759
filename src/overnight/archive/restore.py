"""Writes one part of an archive: always from an open directory, and never through a link."""

import errno
import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from overnight.archive.hands import share_out
from overnight.archive.model import ArchiveRefused, Kind, Refusal
from overnight.archive.owners import Owner
from overnight.archive.reader import ArchiveFile, Record
from overnight.archive.record import status_of
from overnight.archive.spans import Span, batches, contents, is_small
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


@dataclass(frozen=True, slots=True)
class Restore:
    """All entries to restore must be below the prefix."""

    root: Path
    archive: ArchiveFile
    manner: Manner
    prefix: str

    def run(self, share: list[Span], targets: Mapping[str, bytes]) -> None:
        """Directories first, then files: a second thread writes the large ones.

        Links come after all files and before the modes of directories, which may forbid writing. The root
        changes hands last: until then a new owner cannot reach in and move things about.
        """
        made = self._directories(share)
        with closing(_Reach(self.root)) as reach:
            for path in sorted(made):
                _make_directory(reach, path)
            self._write_files([span for span in share if span.record.kind is Kind.FILE])
            for span in share:
                if span.record.kind is Kind.SYMLINK:
                    self._write_link(reach, span.record, targets[span.record.name])
            for path in sorted(made, reverse=True):  # what lies inside comes first
                self.manner.finish(reach.directory(path), made[path])
            self.manner.finish(reach.directory(""), None)

    def path_of(self, record: Record) -> str:
        return record.name[len(self.prefix) + 1 :] if self.prefix else record.name

    def _directories(self, share: Iterable[Span]) -> dict[str, Record | None]:
        """By path: those with an entry of their own, and those that only names imply."""
        found: dict[str, Record | None] = {}
        for record, _ in share:
            path = self.path_of(record)
            if record.kind is Kind.DIRECTORY:
                found[path] = record
            while (path := path.rpartition("/")[0]) and path not in found:
                found[path] = None
        return found

    def _write_files(self, files: Iterable[Span]) -> None:
        numbered = list(enumerate(batches(files)))
        small = [(number, batch) for number, batch in numbered if is_small(batch[0].record)]
        large = [(number, batch) for number, batch in numbered if not is_small(batch[0].record)]
        with closing(_Reach(self.root)) as one, closing(_Reach(self.root)) as other:
            share_out(small, large, (_FileWriter(self, one).write, _FileWriter(self, other).write))

    def _write_link(self, reach: "_Reach", record: Record, target: bytes) -> None:
        parent, _, leaf = self.path_of(record).rpartition("/")
        directory = reach.directory(parent)
        try:
            os.symlink(target, os.fsencode(leaf), dir_fd=directory)
        except OSError as error:
            raise _clash(error) from error
        self.manner.finish_link(directory, leaf, record)


class _Reach:
    """Reaches directories below the root, each from the one above it: one open descriptor per level, until `close`.

    The way to the last one is kept: the entries of one directory mostly follow each other.
    """

    def __init__(self, root: Path) -> None:
        self._open: list[tuple[str, int]] = [("", os.open(root, OPEN_DIRECTORY))]
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
class _FileWriter:
    """One thread's."""

    restore: Restore
    reach: _Reach

    def write(self, batch: list[Span]) -> None:
        for record, pieces in contents(self.restore.archive, batch):
            parent, _, leaf = self.restore.path_of(record).rpartition("/")
            directory = self.reach.directory(parent)
            try:
                fd = os.open(leaf, _CREATE, 0o600, dir_fd=directory)
            except OSError as error:
                raise _clash(error) from error
            try:
                for piece in pieces:
                    _write_all(fd, piece)
                self.restore.manner.finish(fd, record)
            finally:
                os.close(fd)


def _make_directory(reach: _Reach, path: str) -> None:
    parent, _, leaf = path.rpartition("/")
    try:
        os.mkdir(leaf, 0o700, dir_fd=reach.directory(parent))
    except OSError as error:
        raise _clash(error) from error


def _write_all(fd: int, piece: bytes) -> None:
    written = os.write(fd, piece) if piece else 0
    while written < len(piece):
        written += os.write(fd, memoryview(piece)[written:])


def _clash(error: OSError) -> Exception:
    """A file system may take two names for one, or refuse one that others take."""
    if error.errno not in _CANNOT_HOLD:
        return error
    message = "The file system here cannot hold the names of this archive. Nothing was written."
    return ArchiveRefused(Refusal.CLASHING_NAMES, message)
